"""IDX, the format of MNIST and its successors: a magic number, the dimensions, the values; plain or gzipped.

Letters: N examples, H W height and width.

Layout: two zero bytes, the type (8 is uint8), the number of dimensions, each dimension as a big-endian uint32, then
the values in C order. Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits".
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from bncli.config.file_names import displayed
from bncli.data.augment import Augmentation
from bncli.data.compressed import DAMAGED, open_decompressed
from bncli.data.dataset import RawDataset, Split, check_labels, numbered_classes
from bncli.data.known import KNOWN, KnownDataset
from bncli.errors import DataError
from bncli.process.memory import require_memory

Part = tuple[Literal["test", "train"], Literal["images", "labels"]]

_UINT8 = 8
_CHUNK_BYTES = 1 << 20
_KIND_OF_RANK: dict[int, Literal["images", "labels"]] = {1: "labels", 3: "images"}
_PARTS: tuple[Part, ...] = (("train", "images"), ("train", "labels"), ("test", "images"), ("test", "labels"))


def holds_idx(folder: Path) -> bool:
    """True if ``folder`` holds IDX training images."""
    return ("train", "images") in _find_parts(folder)


def read_idx_folder(folder: Path, known: KnownDataset | None = None) -> RawDataset:
    """The data set of a folder that holds ``train…`` and ``t10k…`` (or ``test…``) image and label files.

    Args:
        folder: holds one IDX file for each part. The magic number tells images from labels, and the name train from
            test. A plain file is preferred to a gzipped one of the same name.
        known: the row of the table if the data set is known; otherwise the labels number the classes.

    Raises:
        DataError: a part is missing, ambiguous or malformed.
    """
    known = known or KNOWN.get(folder.name)
    parts = _find_parts(folder)
    train = _read_split(parts, "train", folder, known)
    has_test = ("test", "images") in parts or ("test", "labels") in parts
    test = _read_split(parts, "test", folder, known) if has_test else None
    class_names = known.class_names if known else numbered_classes(train.labels, origin=str(folder))
    return RawDataset(
        name=known.name if known else displayed(folder.name),
        class_names=class_names,
        train=train,
        val=None,
        test=test,
        augmentation=known.augmentation if known else Augmentation(max_shift=min(train.images.shape[1:3]) // 8),
        source=str(folder),
    )


def read_idx(path: Path) -> np.ndarray:
    """The values of one IDX file, uint8 of rank 1 or 3, writable.

    Raises:
        DataError: the file is not IDX, of another type or rank, cut short, too long, or a damaged gzip.
    """
    with open_decompressed(path) as stream:
        shape = _read_shape(stream, path)
        expected = math.prod(shape)
        if expected == 0:
            raise DataError(f"{path}: the file holds no values, its dimensions are {shape}", remedy=DAMAGED)
        values = _empty(expected, path)
        actual = _read_into(stream, values)
        trailing = len(stream.read(1))
    if actual < expected:
        raise DataError(f"{path}: {expected} bytes of values expected, {actual} found", remedy=DAMAGED)
    if trailing:
        raise DataError(
            f"{path}: the file continues after the {expected} bytes of values its header announces", remedy=DAMAGED
        )
    return values.reshape(shape)


def _read_split(
    parts: dict[Part, list[Path]], split: Literal["test", "train"], folder: Path, known: KnownDataset | None
) -> Split:
    image_path = _single(parts, (split, "images"), folder)
    label_path = _single(parts, (split, "labels"), folder)
    images = _expect_rank(read_idx(image_path), 3, image_path)  # [N, H, W]
    labels = _expect_rank(read_idx(label_path), 1, label_path)  # [N]
    if len(images) != len(labels):
        raise DataError(
            f"{image_path} holds {len(images)} images, but {label_path} {len(labels)} labels",
            remedy="Both files must come from the same data set.",
        )
    if known:
        check_labels(labels, known.num_classes, origin=str(label_path))
    return Split(images[..., None], labels.astype(np.int32))


def _expect_rank(values: np.ndarray, rank: int, path: Path) -> np.ndarray:
    if values.ndim != rank:
        raise DataError(
            f"{path}: {_KIND_OF_RANK[rank]} expected, {_KIND_OF_RANK[values.ndim]} found",
            remedy="The names of the image and label files may have been swapped.",
        )
    return values


def _single(parts: dict[Part, list[Path]], part: Part, folder: Path) -> Path:
    paths = parts.get(part, [])
    if len(paths) == 1:
        return paths[0]
    name = {"test": "t10k", "train": "train"}[part[0]]
    example = f"{name}-{part[1]}-idx{3 if part[1] == 'images' else 1}-ubyte"
    if not paths:
        raise DataError(f"{folder}: no {part[0]} {part[1]}", remedy=f"Put {example} or {example}.gz there.")
    raise DataError(
        f"{folder}: several files hold {part[0]} {part[1]}: {', '.join(path.name for path in paths)}",
        remedy="Keep one data set per folder.",
    )


def _find_parts(folder: Path) -> dict[Part, list[Path]]:
    """The IDX files of ``folder`` by their content."""
    parts: dict[Part, list[Path]] = {}
    if not folder.is_dir():
        return parts
    for path in sorted(folder.iterdir()):
        part = _part(path)
        doubles_plain = path.suffix == ".gz" and path.with_suffix("").is_file()
        if part is not None and not doubles_plain:
            parts.setdefault(part, []).append(path)
    return parts


def _part(path: Path) -> Part | None:
    """The part that ``path`` holds, judged by its content, or by its name if the content cannot be read; or None."""
    name = path.name.lower()
    if not path.is_file() or name.startswith(".") or name.endswith(".part"):
        return None
    for split, kind in _PARTS:
        stems = ("t10k", "test") if split == "test" else ("train",)
        if any(stem in name for stem in stems) and kind == (peek_kind(path) or _named_kind(name)):
            return split, kind
    return None


def _named_kind(name: str) -> str | None:
    """Images or labels, judged by a file name that contains "idx"; None for any other name."""
    if "idx" not in name:
        return None
    return next((kind for kind in ("images", "labels") if kind in name), None)


def peek_kind(path: Path) -> str | None:
    """Images or labels, judged by the magic number; None for any other content."""
    try:
        with open_decompressed(path) as stream:
            magic = stream.read(4)
    except DataError:
        return None
    return _KIND_OF_RANK.get(magic[3]) if len(magic) == 4 and magic[:3] == bytes([0, 0, _UINT8]) else None


def _read_shape(stream: BinaryIO, path: Path) -> tuple[int, ...]:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0":
        raise DataError(
            f"{path}: not an IDX file: it starts with {magic.hex(' ') or 'nothing'} instead of 00 00",
            remedy="Check that the file is not a saved error page.",
        )
    if magic[2] != _UINT8 or magic[3] not in _KIND_OF_RANK:
        raise DataError(
            f"{path}: an IDX file of type {magic[2]:#04x} and {magic[3]} dimensions",
            remedy="Only unsigned bytes (0x08), as labels [N] or images [N, H, W], can be read.",
        )
    header = stream.read(4 * magic[3])
    if len(header) < 4 * magic[3]:
        raise DataError(f"{path}: the header ends after {4 + len(header)} bytes", remedy=DAMAGED)
    return struct.unpack(f">{magic[3]}I", header)


def _empty(num_bytes: int, path: Path) -> np.ndarray:
    require_memory(num_bytes, what=str(path), remedy=DAMAGED)
    try:
        return np.empty(num_bytes, np.uint8)
    except (MemoryError, ValueError) as error:
        raise DataError(f"{path}: the header announces {num_bytes} bytes", remedy=DAMAGED) from error


def _read_into(stream: BinaryIO, values: np.ndarray) -> int:
    """Fill ``values`` from ``stream`` and return the number of bytes read.

    It reads in chunks, because gzip allocates as much memory again as it is asked for at once.
    """
    view = memoryview(values.data)
    filled = 0
    # Every binary stream of the standard library has readinto; only the abstract type lacks it.
    while filled < len(view):
        count = stream.readinto(view[filled : filled + _CHUNK_BYTES])  # type: ignore[attr-defined]
        if not count:
            break
        filled += count
    return filled
