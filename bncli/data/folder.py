"""A folder of image files -> uint8 [N, H, W, C].

Letters: N images, H W height and width, C channels.

There are two passes, and a third for pixels of more than 8 bits. The first reads the headers, which tell size, channels
and memory before anything is decoded. The last decodes into one array. Between them, ``pixel_range`` is measured on the
training images, if any has more than 8 bits. All collect unreadable files, which are reported together.

Images that do not fit into memory are decoded once to be measured, and later again whenever they are needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bncli.config.choices import BadImages
from bncli.config.document import Crop
from bncli.data.augment import Augmentation
from bncli.data.dataset import RawDataset
from bncli.data.decoding import Decoding, FolderImages, Progress, for_each
from bncli.data.file_list import FileList, ImageFiles, SplitFiles
from bncli.data.folder_listing import Listing, listing_of
from bncli.data.header_cache import Headers, remember_headers, remembered_headers
from bncli.data.image_file import ImageInfo, ImagePlace, decode, quiet_pillow, read_deep, read_header, reason_of
from bncli.data.image_tree import BadImage, ImageTree, scan_image_tree
from bncli.data.pixel_range import FULL_16_BIT, PixelRange, RangeChoice, format_range, natural_range
from bncli.data.sources import Shape
from bncli.data.splits import CARVING_FACTOR
from bncli.errors import ConfigError, DataError
from bncli.process.memory import fits_memory, format_bytes, require_memory

_MAX_NATIVE_SIDE = 256
_DEFAULT_SIDE = 224  # the training size of ImageNet networks
_SIDE_MULTIPLE = 8
_CENTRE_SHARE = 0.875
_DEVICE_COPY = 1.0  # of the images: on a CPU, the training split lies in this process's memory twice
_MAX_LISTED = 100  # in an error
_MAX_NOTED = 10  # in a warning


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """The conversion of image files.

    Attributes:
        size: H and W. By default the common size of all images if it is at most 256; otherwise the median of their
            shorter sides, rounded down to a multiple of 8, and at most 224.
        channels: 1 or 3. By default the channels that all images have.
        bad_images: refuse unreadable files and name them all ("error"), or leave them out ("skip").
        pixel_range: the values that become 0 and 255, if pixels have more than 8 bits.
        crop: the way to the size; None scales each image until it just covers it.
        stream: read images when they are needed (True) or keep them all in memory (False); None keeps them if they
            fit.
        random_crop: True if a training takes random parts of the images. They are then streamed, since each epoch reads
            other parts of the files, and their centres are what the training is scored by.
    """

    size: int | None = None
    channels: int | None = None
    bad_images: BadImages = "error"
    pixel_range: RangeChoice = "auto"
    crop: Crop | None = None
    stream: bool | None = None
    random_crop: bool = False

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise ConfigError(f"the image size is {self.size}", remedy="Choose a positive number of pixels.")
        if self.channels not in (None, 1, 3):
            raise ConfigError(f"the number of channels is {self.channels}", remedy="Choose 1 (grey) or 3 (colour).")


@dataclass(frozen=True)
class OpenedFolder:
    """A folder of images whose headers are read, and the way to the images.

    Attributes:
        tree: the files.
        images: those with a readable header.
        unreadable: the others.
        options: the conversion.
        is_streamed: True if the images are not kept in memory.
        notes: a sentence on each thing to know.
    """

    tree: ImageTree
    images: FolderImages
    unreadable: list[BadImage]
    options: ImageOptions
    is_streamed: bool
    notes: tuple[str, ...]

    def read(self) -> RawDataset:
        """The data set, in memory or streamed.

        Raises:
            DataError: files are unreadable, and are to be refused.
        """
        decoded = self.images.stream() if self.is_streamed else self.images.read()
        decoding, root = self.images.decoding, self.tree.root
        notes = [*self.notes, *clipped_notes(decoded.clipped, decoding.pixel_range), *self.check_bad(decoded.bad)]
        return RawDataset(
            name=self.tree.name,
            class_names=self.tree.class_names,
            train=decoded.splits["train"],
            val=decoded.splits.get("val"),
            test=decoded.splits.get("test"),
            augmentation=self.augmentation,
            source=str(root),
            warnings=tuple(notes),
            pixel_range=decoding.pixel_range,
            crop=decoding.crop,
            sha256=decoded.sha256,
        )

    @property
    def augmentation(self) -> Augmentation:
        """The random changes that suit photographs."""
        size = self.images.decoding.shape[:2]
        return Augmentation(max_shift=min(size) // 8, pad_mode="reflect", horizontal_flip=True)

    def check_bad(self, found: Sequence[tuple[ImagePlace, str]]) -> list[str]:
        """A sentence on the files that are left out, given those whose pixels cannot be read.

        Raises:
            DataError: there are such files, and they are to be refused.
        """
        bad = [*self.tree.strays, *self.unreadable, *(BadImage(path, reason) for path, reason in found)]
        if bad and self.options.bad_images == "error":
            raise _bad_images_error(bad, self.tree)
        what = f"{len(bad)} of {_count(self.tree)} {_unit(self.tree)}"
        return [f"left out {what} that are not readable images: {_first(bad)}"] if bad else []


def open_image_folder(
    root: Path, options: ImageOptions | None = None, *, progress: Progress | None = None
) -> OpenedFolder:
    """The first pass over a folder of images: the headers, and what follows from them; no image is decoded.

    Args:
        root: the folder.
        options: the conversion of the images; None takes the defaults.
        progress: called with (stage, files done, number of files).

    Raises:
        DataError: no readable header, a mix of grey and colour images, or images that do not fit into memory.
    """
    tree = scan_image_tree(root)
    files = tree.splits.files
    assert isinstance(files, FileList), files
    listing = listing_of(files)
    headers, unreadable = _read_headers(files, listing, progress)
    return open_images(tree, listing, headers, unreadable, options or ImageOptions(), progress)


def open_images(
    tree: ImageTree,
    listing: Listing,
    all_headers: Headers,
    unreadable: list[BadImage],
    options: ImageOptions,
    progress: Progress | None,
) -> OpenedFolder:
    """A folder of images, given their headers.

    Args:
        tree: the images.
        listing: the files that hold them.
        all_headers: of each image; none for one that cannot be read.
        unreadable: those.
        options: the conversion of the images.
        progress: called with (stage, images done, number of images).

    Raises:
        DataError: no readable header, a mix of grey and colour images, or images that do not fit into memory.
    """
    headers = all_headers.chosen(np.flatnonzero(all_headers.is_readable))
    files = tree.splits.without(np.flatnonzero(~all_headers.is_readable))
    if not len(headers):
        raise _bad_images_error([*tree.strays, *unreadable], tree)
    channels = options.channels or _common_channels(headers, files.files)
    size, notes = ((options.size, options.size), []) if options.size else _default_size(headers)
    notes.extend([*tree.notes, *_frame_notes(headers, files.files)])
    wanted = True if options.random_crop else options.stream
    is_streamed, stream_notes = choose_streaming(len(headers), (*size, channels), wanted, tree.root)
    notes.extend(stream_notes)
    pixel_range, range_notes = _choose_range(files, headers, options.pixel_range, progress)
    notes.extend(range_notes)
    crop = options.crop or (_central(headers, size) if options.random_crop else None)
    _check_crop(crop, size)
    images = FolderImages(listing, files, Decoding((*size, channels), pixel_range, crop), progress)
    return OpenedFolder(tree, images, unreadable, options, is_streamed, tuple(notes))


def _central(headers: Headers, size: tuple[int, int]) -> Crop | None:
    """The usual way to score a network that was trained on random parts: 224 of 256 pixels from the centre.

    None if all images have the size already.
    """
    if (headers.sizes == size).all():
        return None
    return Crop(resize=round(max(size) / _CENTRE_SHARE))


def _check_crop(crop: Crop | None, size: tuple[int, int]) -> None:
    if crop is not None and crop.resize < max(size):
        raise ConfigError(
            f"the images are resized to {crop.resize} pixels, from which {size[0]}x{size[1]} cannot be cut",
            remedy=f"Choose a --resize of {max(size)} or more, or a smaller --image-size.",
        )


def load_image(
    path: Path, *, size: tuple[int, int], channels: int, pixel_range: PixelRange | None = None
) -> np.ndarray:
    """One image file as uint8 [H, W, C], by the same rule as in a folder.

    Args:
        path: an image file.
        size: (H, W).
        channels: 1 (grey) or 3 (colour).
        pixel_range: the values that become 0 and 255, if pixels have more than 8 bits; None measures this image.

    Raises:
        DataError: the file is not a readable image.
    """
    return read_image(path, size=size, channels=channels, pixel_range=pixel_range)[0]


def read_image(
    path: Path,
    *,
    size: tuple[int, int],
    channels: int,
    pixel_range: PixelRange | None = None,
    crop: Crop | None = None,
) -> tuple[np.ndarray, bool]:
    """(the image of ``load_image``, True if a pixel was outside ``pixel_range`` and was clipped)."""
    with quiet_pillow():
        try:
            return decode(path, (*size, channels), pixel_range, crop)
        except MemoryError:
            raise
        except Exception as error:
            raise DataError(f"{path}: {reason_of(error)}", remedy="Give a PNG, JPEG or other image file.") from error


def _read_headers(files: FileList, listing: Listing, progress: Progress | None) -> tuple[Headers, list[BadImage]]:
    """The first pass: (the headers, files without a readable one). Files that were read before are not opened."""
    headers = remembered_headers(listing)
    unknown = np.flatnonzero(~headers.is_readable)
    if not len(unknown):
        return headers, []
    paths = files.chosen(unknown)
    results = list(for_each(read_header, paths, "reading headers", progress))
    headers = headers.with_read(unknown, [result if isinstance(result, ImageInfo) else None for result in results])
    remember_headers(listing, headers)
    bad = [BadImage(path, result) for path, result in zip(paths, results, strict=True) if isinstance(result, str)]
    return headers, bad


def _common_channels(headers: Headers, files: ImageFiles) -> int:
    is_grey = headers.is_grey
    if is_grey.all():
        return 1
    if not is_grey.any():
        return 3
    grey, colour = files[int(is_grey.argmax())], files[int(is_grey.argmin())]
    raise DataError(
        f"{is_grey.sum()} images are grey and {(~is_grey).sum()} are in colour: {grey} is grey, {colour} is not",
        remedy="Choose how to convert them: --channels 1 (grey) or --channels 3 (colour).",
    )


def _default_size(headers: Headers) -> tuple[tuple[int, int], list[str]]:
    """((H, W), notes to the user)."""
    height, width = headers.sizes[0].tolist()
    are_equal = bool((headers.sizes == headers.sizes[0]).all())
    if are_equal and max(height, width) <= _MAX_NATIVE_SIDE:
        return (height, width), []
    shorter = int(np.median(headers.sizes.min(axis=1)))
    side = min(_DEFAULT_SIDE, max(shorter // _SIDE_MULTIPLE, 1) * _SIDE_MULTIPLE)
    what = f"are {height}x{width}" if are_equal else "differ in size"
    return (side, side), [f"the images {what}: each is scaled and cropped to {side}x{side} (--image-size changes this)"]


def _frame_notes(headers: Headers, files: ImageFiles) -> list[str]:
    places = np.flatnonzero(headers.has_frames)
    what = "images with more frames or pages than the first, which alone is used"
    return [f"{what}: {len(places)} of {len(headers)}, such as {files[int(places[0])]}"] if len(places) else []


def choose_streaming(num_images: int, shape: Shape, wanted: bool | None, root: Path) -> tuple[bool, list[str]]:
    """(True if the images are not kept in memory, a note to the user if bncli chose that).

    Raises:
        DataError: they are to be kept, and do not fit.
    """
    if wanted:
        return True, []
    num_bytes = num_images * math.prod(shape)
    what = f"{root}: {num_images:,} images of {'x'.join(map(str, shape))}"
    if wanted is None and not fits_memory(int(num_bytes * (CARVING_FACTOR + _DEVICE_COPY))):
        note = f"{what} ({format_bytes(num_bytes)}) do not fit into memory: they are streamed from disk"
        return True, [note]
    require_memory(
        int(num_bytes * CARVING_FACTOR), what=what, remedy="Choose --stream, a smaller --image-size, or fewer images."
    )
    return False, []


def _choose_range(
    files: SplitFiles, headers: Headers, choice: RangeChoice, progress: Progress | None
) -> tuple[PixelRange | None, list[str]]:
    """(the range of pixels with more than 8 bits, notes to the user); None if all images have 8 bits."""
    deep = np.flatnonzero(headers.is_deep)
    if not len(deep):
        return None, []
    changes = ""
    if choice == "recorded":
        pixel_range = FULL_16_BIT
    elif choice == "auto":
        train = np.intersect1d(deep, files.places("train"))
        pixel_range = _measure_range(files.files.chosen(train if len(train) else deep), progress)
        changes = " (--pixel-range changes this)"
    else:
        pixel_range = choice
    what = f"{len(deep)} of {len(headers)} images have more than 8 bits per channel"
    return pixel_range, [f"{what}: pixels of {format_range(pixel_range)} are scaled to 0 … 255{changes}"]


def _measure_range(paths: Sequence[ImagePlace], progress: Progress | None) -> PixelRange:
    """The natural range of all these files together; the full one of 16 bits if none can be read."""

    def extremes(path: ImagePlace) -> np.ndarray:
        values = read_deep(path)
        return np.stack([values.min(), values.max()])

    measured = for_each(extremes, paths, "measuring the pixel range", progress)
    read = [values for values in measured if isinstance(values, np.ndarray)]
    return natural_range(read) if read else FULL_16_BIT


def clipped_notes(clipped: Sequence[ImagePlace], pixel_range: PixelRange | None) -> list[str]:
    """A sentence on the images that have pixels outside the range."""
    if not clipped or pixel_range is None:
        return []
    return [
        f"images with pixels outside {format_range(pixel_range)}, which were clipped: {len(clipped)}, "
        f"such as {clipped[0]}"
    ]


def _count(tree: ImageTree) -> int:
    return len(tree.splits.files) + len(tree.strays)


def _unit(tree: ImageTree) -> str:
    return "files" if isinstance(tree.splits.files, FileList) else "records"


def _first(bad: Sequence[BadImage]) -> str:
    """The first few files, each with its reason."""
    named = [f"{image.path} ({image.reason})" for image in bad[:_MAX_NOTED]]
    more = [f"and {len(bad) - _MAX_NOTED} more"] if len(bad) > _MAX_NOTED else []
    return "; ".join(named + more)


def _bad_images_error(bad: Sequence[BadImage], tree: ImageTree) -> DataError:
    lines = [f"  {image.path}: {image.reason}" for image in bad[:_MAX_LISTED]]
    if len(bad) > _MAX_LISTED:
        lines.append(f"  … and {len(bad) - _MAX_LISTED} more")
    return DataError(
        "\n".join([f"{len(bad)} of {_count(tree)} {_unit(tree)} are not readable images:", *lines]),
        remedy="Remove or replace them, or leave them out with --bad-images skip.",
    )
