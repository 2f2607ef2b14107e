"""From the value of ``--data`` to a data set.

The format is detected from the content: magic numbers, the layout of a record, the shape of a folder tree.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from bncli.config.file_names import on_disk
from bncli.data.arrays import read_arrays
from bncli.data.cifar import LAYOUTS, find_cifar, find_pickled, read_cifar_archive, read_cifar_folder, refuse_pickled
from bncli.data.compressed import GZIP_MAGIC
from bncli.data.dataset import Dataset, RawDataset, build_dataset
from bncli.data.digits import read_digits
from bncli.data.folder import ImageOptions, OpenedFolder, open_image_folder
from bncli.data.idx import holds_idx, peek_kind, read_idx_folder
from bncli.data.image_tree import is_image_tree
from bncli.data.known import KNOWN, KnownDataset
from bncli.data.packable import ArrayContents, Contents, FolderContents
from bncli.data.packed import is_packed, read_packed
from bncli.data.pixel_range import RangeChoice, format_range
from bncli.data.places import data_folders, locate, search_folders, user_data_dir
from bncli.data.record_folder import holds_records, open_record_folder
from bncli.data.splits import check_fraction
from bncli.data.tfds_layout import prepared_below
from bncli.errors import DataError, UsageError
from bncli.process.files import open_regular

_ZIP_MAGIC = b"PK"
_TAR_MAGIC = b"ustar"
_TAR_MAGIC_OFFSET = 257
_READABLE = (
    "Give a folder of images (train/CLASS/*.png or CLASS/*.png), of IDX files, of CIFAR's binary files, of ArrayRecord "
    "files or of packed images, or an .npz."
)


def load_dataset(
    source: str,
    *,
    data_dir: Path | None = None,
    val_fraction: float = 0.1,
    seed: int = 0,
    images: ImageOptions | None = None,
    progress: Callable[[str, int, int | None], None] | None = None,
) -> Dataset:
    """The data set that ``source`` names, in three splits.

    A source keeps its own val and test splits. If it has no test split, a stratified fifth of its examples becomes one,
    the same for every ``seed``. If it has no val split, ``seed`` picks a stratified ``val_fraction`` of the rest.

    Args:
        source: a known name (``bncli data list``), a folder (images, IDX files, CIFAR's binary files, ArrayRecord files
            or packed images), an ``.npz``, or CIFAR's archive.
        data_dir: the first place to look for a data set known by name.
        val_fraction: more than 0 and less than 1.
        seed: picks the val split, and nothing else.
        images: the conversion of an image folder; None takes the defaults.
        progress: called with (stage, amount done, total amount).

    Raises:
        DataError: the source is missing, unreadable or malformed.
        ConfigError: an option is out of range.
        UsageError: the source is not an image folder and does not have the requested size or channels.
    """
    check_fraction(val_fraction)
    images = images or ImageOptions()
    try:
        raw = _read(source, data_dir, images, progress)
    except OSError as error:  # not handled by a reader: a folder that may not be listed, a name that is too long
        raise DataError(
            f"{str(error.filename or source)[:300]}: cannot be read: {error.strerror or error}", remedy=_READABLE
        ) from error
    _check_image_options(raw, images)
    raw = _note_unused_range(raw, images.pixel_range)
    dataset = build_dataset(raw, val_fraction=val_fraction, seed=seed)
    return dataset.streamed() if images.stream else dataset


def open_contents(
    source: str,
    *,
    data_dir: Path | None = None,
    images: ImageOptions | None = None,
    progress: Callable[[str, int, int | None], None] | None = None,
) -> Contents:
    """The data set of ``source``, to be packed; image files and records are not decoded yet.

    For the arguments see ``load_dataset``.

    Raises:
        DataError: the source is missing, unreadable or malformed.
        UsageError: it is packed already.
    """
    images = images or ImageOptions()
    path = on_disk(os.path.expanduser(source))  # noqa: PTH111 - Path's own fails on "~nobody"
    if source not in KNOWN and path.is_dir() and is_packed(path):
        raise UsageError(f"{source}: packed already", remedy="Pack the data that it was made of.")
    if holds_image_files(source):
        return FolderContents(_open_images(path, replace(images, stream=True), progress))
    raw = _read(source, data_dir, images, progress)
    _check_image_options(raw, images)
    return ArrayContents(_note_unused_range(raw, images.pixel_range))


def _read(
    source: str,
    data_dir: Path | None,
    images: ImageOptions,
    progress: Callable[[str, int, int | None], None] | None,
) -> RawDataset:
    path = on_disk(os.path.expanduser(source))  # noqa: PTH111 - Path's own fails on "~nobody"
    if source in KNOWN:
        return _read_known(KNOWN[source], data_dir)
    if path.is_dir() and is_packed(path):
        return read_packed(path, images, progress=progress)
    if path.is_dir() and _holds_encoded_images(path):
        return _open_images(path, images, progress).read()
    if path.is_dir():
        return _read_folder(path)
    if path.is_file():
        return _read_file(path, images.pixel_range)
    if path.exists():
        raise DataError(f"{path}: neither a regular file nor a folder", remedy=_READABLE)
    raise _unknown(source)


def _read_known(known: KnownDataset, data_dir: Path | None) -> RawDataset:
    if known.format == "digits":
        return read_digits()
    place = locate(known, data_dir)
    if place is None:
        raise _not_found(known, data_dir)
    return read_idx_folder(place, known) if known.format == "idx" else _read_cifar(place, known.name)


def holds_image_files(source: str) -> bool:
    """True if ``source`` names a folder of image files or records, which can be resized and converted."""
    path = on_disk(os.path.expanduser(source))  # noqa: PTH111 - Path's own fails on "~nobody"
    return source not in KNOWN and path.is_dir() and not is_packed(path) and _holds_encoded_images(path)


def _holds_encoded_images(folder: Path) -> bool:
    return holds_records(folder) or _is_image_folder(folder)


def _open_images(
    folder: Path, images: ImageOptions, progress: Callable[[str, int, int | None], None] | None
) -> OpenedFolder:
    """A folder of image files or records, whose headers are read."""
    opened = open_record_folder if holds_records(folder) else open_image_folder
    return opened(folder, images, progress=progress)


def _is_image_folder(folder: Path) -> bool:
    """True if ``folder`` is a tree of images, and not of files in another format."""
    if prepared_below(folder):
        return False
    has_format = holds_idx(folder) or any(find_cifar(folder, name) for name in LAYOUTS) or find_pickled(folder)
    return not has_format and is_image_tree(folder)


def _read_folder(folder: Path) -> RawDataset:
    if holds_idx(folder):
        return read_idx_folder(folder)
    for name in LAYOUTS:
        if place := find_cifar(folder, name):
            return _read_cifar(place, name)
    if pickled := find_pickled(folder):
        raise refuse_pickled(*pickled)
    if prepared := prepared_below(folder):
        raise DataError(
            f"{folder}: TFDS keeps each version of a data set in a folder of its own",
            remedy=f"Give one of them: --data {prepared[-1]}",
        )
    raise DataError(f"{folder}: the folder holds no data set that can be read", remedy=_READABLE)


def _read_cifar(place: Path, name: str) -> RawDataset:
    return read_cifar_folder(place, name) if place.is_dir() else read_cifar_archive(place)


def _read_file(path: Path, pixel_range: RangeChoice) -> RawDataset:
    try:
        with open_regular(path) as file:
            head = file.read(_TAR_MAGIC_OFFSET + len(_TAR_MAGIC))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    if head.startswith(_ZIP_MAGIC) or path.suffix == ".npz":
        return read_arrays(path, pixel_range)
    if peek_kind(path):
        raise DataError(f"{path}: a single IDX file is not a data set", remedy="Give the folder that contains it.")
    if head.startswith(GZIP_MAGIC) or head[_TAR_MAGIC_OFFSET:] == _TAR_MAGIC:
        return read_cifar_archive(path)
    raise DataError(f"{path}: not a file that can be read as a data set", remedy=_READABLE)


def _check_image_options(raw: RawDataset, images: ImageOptions) -> None:
    """Raise UsageError if the images do not have this size or these channels; an image folder was converted to them."""
    height, width, depth = raw.train.images.shape[1:]
    if images.size not in (None, height) or images.size not in (None, width):
        raise UsageError(
            f"{raw.source}: the images are {height}x{width}, but --image-size is {images.size}",
            remedy="Only a folder of image files is resized: leave out --image-size.",
        )
    if images.channels not in (None, depth):
        raise UsageError(
            f"{raw.source}: the images have {depth} channels, but --channels is {images.channels}",
            remedy="Only a folder of image files is converted: leave out --channels.",
        )


def _note_unused_range(raw: RawDataset, choice: RangeChoice) -> RawDataset:
    """Say that a given or recorded range has no effect on images of 8 bits."""
    if raw.pixel_range is not None or isinstance(choice, str):
        return raw
    note = f"the pixel range {format_range(choice)} has no effect: all images have 8 bits per channel"
    return replace(raw, warnings=(*raw.warnings, note))


def _unknown(source: str) -> DataError:
    close = difflib.get_close_matches(source[:300].lower().replace("_", "-"), KNOWN, n=1)
    hint = f"Did you mean {close[0]}? " if close else ""
    return DataError(
        f"{source[:300]}: neither a file or folder nor the name of a known data set",
        remedy=f"{hint}Known names: {', '.join(KNOWN)}. {_READABLE}",
    )


def _not_found(known: KnownDataset, data_dir: Path | None) -> DataError:
    for folder in search_folders(known, data_dir):
        pickled = find_pickled(folder)
        if pickled and pickled[0].name == known.name:
            return refuse_pickled(*pickled)
    looked_in = ", ".join(map(str, data_folders(data_dir)))
    files = ", ".join(file.name for file in known.files)
    return DataError(
        f"{known.name} is not on this machine; looked in {looked_in}",
        remedy=f"bncli data fetch {known.name}, or put {files} into {user_data_dir() / known.name} "
        f"(from {known.files[0].mirrors[0]}).",
    )
