"""Packed images: a data set as a few large files of decoded pixels, written by ``bncli data pack``.

::

    OUT/dataset.json                         what it holds, and the SHA-256 of every other file
    OUT/train-00000-of-00004.array_record    pixels, one record for each image: uint8 [H, W, C]
    OUT/train-00000-of-00004.npz             their labels, and the sums of their pixels

Nothing is unpickled. Damage is refused by name: before the first use by SHA-256, later by the times of the files' last
change and by the hashes inside ArrayRecord files.

Letters: N images, M of one shard, H W height and width, C channels.
"""

from __future__ import annotations

import bisect
import hashlib
import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from bncli.config.file_names import displayed
from bncli.config.packed_file import PackedFile, PackedShard, parse_packed
from bncli.data.array_record import read_record, read_records
from bncli.data.augment import Augmentation
from bncli.data.dataset import DatasetDigest, RawDataset, Split
from bncli.data.decoding import Progress
from bncli.data.folder import ImageOptions, choose_streaming
from bncli.data.image_file import resized_part
from bncli.data.lazy_images import LazyImages, PixelSums
from bncli.data.sources import Shape
from bncli.errors import ConfigError, DataError
from bncli.process.cache import is_remembered, remember
from bncli.process.files import file_sha256, read_regular

DATASET, PACKING = "dataset.json", "packing.json"
RECORDS, INDEX = ".array_record", ".npz"
_CHECKED = "packed"  # in the user's cache: the packed files whose SHA-256 was compared
_MAX_JSON = 64 << 20
_MAX_INDEX_BYTES = 1 << 30
_READ_AT_ONCE = 256
_AGAIN = "Restore the file from a copy, or pack the data again into another folder."


@dataclass(frozen=True)
class ShardIndex:
    """The content of a shard's index.

    Attributes:
        labels: int32 [M].
        sums: of the pixels.
    """

    labels: np.ndarray
    sums: PixelSums


@dataclass(frozen=True)
class PackedSource:
    """The images of packed shards, one after another.

    Attributes:
        files: of the shards.
        counts: images in each.
        shape: of each image.
    """

    files: tuple[Path, ...]
    counts: tuple[int, ...]
    shape: Shape

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *np.cumsum(self.counts).tolist()]

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, index: int) -> np.ndarray:
        """One image, uint8 [H, W, C].

        Raises:
            DataError: the shard is damaged.
        """
        shard = bisect.bisect_right(self._starts, index) - 1
        place = index - self._starts[shard]
        return image_of(read_record(self.files[shard], place), self.shape, self.files[shard], place)

    def read_crop(self, index: int, bits: np.ndarray, min_area: float) -> np.ndarray:
        """A random part of one image, resized to [H, W, C]."""
        return resized_part(self.read(index), bits, min_area)


def image_of(record: bytes, shape: Shape, file: Path, place: int) -> np.ndarray:
    """The image in a record, uint8 [H, W, C].

    Raises:
        DataError: the record has another size.
    """
    if len(record) != math.prod(shape):
        what = f"{len(record):,} bytes, not the {math.prod(shape):,} of an image"
        raise DataError(f"{file}: record {place} has {what}", remedy=_AGAIN)
    return np.frombuffer(record, np.uint8).reshape(shape)


def is_packed(folder: Path) -> bool:
    """True if a folder holds packed images, or some that are not packed to the end."""
    return (folder / DATASET).is_file() or (folder / PACKING).is_file()


def read_packed(folder: Path, options: ImageOptions, *, progress: Progress | None = None) -> RawDataset:
    """The data set of a folder of packed images.

    Args:
        folder: written by ``bncli data pack``.
        options: size, channels and the rest were chosen when it was packed, so these can only agree.
        progress: called with (stage, bytes done, number of bytes).

    Raises:
        DataError: a file is missing, damaged, or of another size than recorded; or the images were converted otherwise.
    """
    packed = load_packed(folder)
    _check_options(packed, options, folder)
    indices = {split: [read_index(folder, shard, packed.shape) for shard in shards] for split, shards in _of(packed)}
    _check_shards(folder, packed, progress)
    num_images = sum(shard.images for shard in _shards(packed))
    is_streamed, notes = choose_streaming(num_images, packed.shape, options.stream, folder)
    splits = {split: _split(folder, packed, split, indices[split]) for split, _ in _of(packed)}
    if not is_streamed:
        splits = _in_memory(splits, packed, folder)
    return RawDataset(
        name=displayed(packed.name),
        class_names=tuple(map(displayed, packed.class_names)),
        train=splits["train"],
        val=splits.get("val"),
        test=splits.get("test"),
        augmentation=Augmentation(
            max_shift=packed.max_shift, pad_mode=packed.pad_mode, horizontal_flip=packed.horizontal_flip
        ),
        source=str(folder),
        warnings=(*map(displayed, packed.notes), *notes),
        pixel_range=packed.pixel_range,
        crop=packed.crop,
        sha256=packed.sha256,
    )


def load_packed(folder: Path) -> PackedFile:
    """The content of a folder's ``dataset.json``.

    Raises:
        DataError: it is missing or not valid.
    """
    path = folder / DATASET
    if not path.is_file():
        raise DataError(
            f"{path}: missing; its packing has not ended, or the file was lost",
            remedy="Run the same `bncli data pack` again: it goes on.",
        )
    try:
        return parse_packed(read_regular(path, limit=_MAX_JSON))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ConfigError as error:
        raise DataError(f"{path}: {error.message}", remedy="`bncli data pack` writes this file; pack again.") from None


def read_index(folder: Path, shard: PackedShard, shape: Shape) -> ShardIndex:
    """The index of a shard, which must have the SHA-256 that is recorded.

    Raises:
        DataError: it is missing or damaged.
    """
    path = folder / f"{shard.name}{INDEX}"
    try:
        content = read_regular(path, limit=_MAX_INDEX_BYTES)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}", remedy=_AGAIN) from error
    if hashlib.sha256(content).hexdigest() != shard.index_sha256:
        raise DataError(f"{path}: damaged, its SHA-256 is not the one in {DATASET}", remedy=_AGAIN)
    return parse_index(content, shard.images, shape[2], path)


def parse_index(content: bytes, count: int, channels: int, path: Path) -> ShardIndex:
    """The index in the bytes of a file.

    Raises:
        DataError: it is no index of so many images.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            labels, values, squares = (archive[name] for name in ("labels", "values", "squares"))
    except Exception as error:  # for damaged archives NumPy raises whatever its parser raises first
        raise DataError(f"{path}: not the index of packed images: {error}", remedy=_AGAIN) from error
    if not (
        (labels.dtype, labels.shape) == (np.dtype(np.int32), (count,))
        and (values.dtype, values.shape) == (squares.dtype, squares.shape) == (np.dtype(np.uint64), (count, channels))
    ):
        raise DataError(f"{path}: not the index of {count} packed images of {channels} channels", remedy=_AGAIN)
    return ShardIndex(labels, PixelSums(values, squares))


def _of(packed: PackedFile) -> list[tuple[str, Sequence[PackedShard]]]:
    """(split, its shards) in the order train, val, test."""
    return [(split, packed.shards[split]) for split in ("train", "val", "test") if split in packed.shards]


def _shards(packed: PackedFile) -> list[PackedShard]:
    return [shard for _, shards in _of(packed) for shard in shards]


def _check_options(packed: PackedFile, options: ImageOptions, folder: Path) -> None:
    """Raise DataError if the images are wanted in another way than they were packed."""
    if options.crop is not None and options.crop != packed.crop:
        raise DataError(
            f"{folder}: packed {_crop_words(packed)}, but {options.crop.interpolation} images resized to "
            f"{options.crop.resize} pixels and cropped are wanted",
            remedy=f"Pack the source with --resize {options.crop.resize} --interpolation {options.crop.interpolation}.",
        )
    wanted = options.pixel_range
    if not isinstance(wanted, str) and packed.pixel_range is not None and wanted != packed.pixel_range:
        raise DataError(
            f"{folder}: packed with the pixel range {packed.pixel_range}, but {wanted} is wanted",
            remedy="Pack the source with that --pixel-range.",
        )


def _crop_words(packed: PackedFile) -> str:
    if packed.crop is None:
        return "without --resize"
    return f"with --resize {packed.crop.resize} --interpolation {packed.crop.interpolation}"


def _check_shards(folder: Path, packed: PackedFile, progress: Progress | None) -> None:
    """Compare each shard with its SHA-256, unless that was done since it last changed.

    Raises:
        DataError: a shard is missing or damaged.
    """
    shards = _shards(packed)
    stats = [_stat(folder / f"{shard.name}{RECORDS}", shard) for shard in shards]
    key = hashlib.sha256(repr((os.fspath(folder.resolve()), shards, stats)).encode()).hexdigest()
    if is_remembered(_CHECKED, key):
        return
    total, done = sum(shard.num_bytes for shard in shards), 0
    for shard in shards:
        path = folder / f"{shard.name}{RECORDS}"
        if file_sha256(path) != shard.sha256:
            raise DataError(f"{path}: damaged, its SHA-256 is not the one in {DATASET}", remedy=_AGAIN)
        done += shard.num_bytes
        if progress is not None:
            progress("checking packed images", done, total)
    remember(_CHECKED, key)


def _stat(path: Path, shard: PackedShard) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}", remedy=_AGAIN) from error
    if found.st_size != shard.num_bytes:
        what = f"{found.st_size:,} bytes, not the {shard.num_bytes:,} that were packed"
        raise DataError(f"{path}: damaged, it has {what}", remedy=_AGAIN)
    return found.st_ino, found.st_mtime_ns, found.st_ctime_ns


def _split(folder: Path, packed: PackedFile, split: str, indices: Sequence[ShardIndex]) -> Split:
    """A split, streamed."""
    shards = dict(_of(packed))[split]
    files = tuple(folder / f"{shard.name}{RECORDS}" for shard in shards)
    source = PackedSource(files, tuple(shard.images for shard in shards), packed.shape)
    values = np.concatenate([index.sums.values for index in indices])
    sums = PixelSums(values, np.concatenate([index.sums.squares for index in indices]))
    return Split(LazyImages.whole(source, sums), np.concatenate([index.labels for index in indices]))


def _in_memory(splits: dict[str, Split], packed: PackedFile, folder: Path) -> dict[str, Split]:
    """The same splits with their images in memory.

    Raises:
        DataError: their SHA-256 is not the one of the data set.
    """
    digest, kept = DatasetDigest(), dict[str, Split]()
    for name, split in splits.items():
        images = np.empty(split.images.shape, np.uint8)
        assert isinstance(split.images, LazyImages)
        assert isinstance(split.images.source, PackedSource)
        read_images(split.images.source, images)
        digest.begin_images(name, images.shape)
        digest.add(images)
        digest.add_labels(name, split.labels)
        kept[name] = Split(images, split.labels)
    if digest.hexdigest() != packed.sha256:
        raise DataError(f"{folder}: its images and labels are not those of the SHA-256 in {DATASET}", remedy=_AGAIN)
    return kept


def read_images(source: PackedSource, images: np.ndarray) -> None:
    """Read all images of a source into an array [N, H, W, C]."""
    start = 0
    for file, count in zip(source.files, source.counts, strict=True):
        for first in range(0, count, _READ_AT_ONCE):
            places = range(first, min(first + _READ_AT_ONCE, count))
            for place, record in zip(places, read_records(file, list(places)), strict=True):
                images[start + place] = image_of(record, source.shape, file, place)
        start += count
