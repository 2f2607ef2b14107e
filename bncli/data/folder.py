"""Image files -> uint8 [N, H, W, C]; the only module that imports Pillow.

Letters: N images, H W height and width, C channels.

There are two passes. The first reads the headers, which tell size, channels and memory before anything is decoded. The
second decodes into one array. Both collect unreadable files, which are reported together.

One rule makes every image [H, W, C], here and in ``load_image``: apply the EXIF orientation, put transparent pixels on
white, scale until the image just covers H x W (bilinear, antialiased), and crop the centre. 16-bit grey is rounded to 8
bits, and 32-bit pixels are refused. Of an animation only the first frame is read.
"""

from __future__ import annotations

import os
import statistics
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from bncli.config.choices import BadImages
from bncli.config.file_names import displayed
from bncli.data.augment import Augmentation
from bncli.data.dataset import RawDataset, Split
from bncli.data.image_tree import BadImage, ImageTree, scan_image_tree
from bncli.data.splits import take_out
from bncli.errors import ConfigError, DataError
from bncli.process.memory import require_memory

Progress = Callable[[str, int, int | None], None]
T = TypeVar("T")
R = TypeVar("R")

# Only these formats are tried. Pillow has fifty, and one of them (EPS) starts an interpreter.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP") + (
    ("AVIF",) if find_spec("PIL.AvifImagePlugin") else ()
)
_EXIF_ORIENTATION = 0x0112
_SIDEWAYS = frozenset({5, 6, 7, 8})  # EXIF orientations that swap height and width
_GREY_MODES = frozenset({"1", "I", "I;16", "I;16B", "I;16L", "I;16N", "L", "LA", "La"})
_MAX_NATIVE_SIDE = 256
_DEFAULT_SIDE = 224  # the training size of ImageNet networks
_SIDE_MULTIPLE = 8
_FILES_PER_TASK = 64
_MAX_LISTED = 100  # in an error
_MAX_NOTED = 10  # in a warning
# Splits carved out of train are copies: at most a fifth and a tenth in addition.
_CARVING_FACTOR = 1.3


@dataclass(frozen=True)
class ImageInfo:
    """The header of an image file."""

    height: int  # after applying the EXIF orientation
    width: int
    is_grey: bool


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """The conversion of image files.

    Attributes:
        size: H and W. By default the common size of all images if it is at most 256; otherwise the median of their
            shorter sides, rounded down to a multiple of 8, and at most 224.
        channels: 1 or 3. By default the channels that all images have.
        bad_images: refuse unreadable files and name them all ("error"), or leave them out ("skip").
    """

    size: int | None = None
    channels: int | None = None
    bad_images: BadImages = "error"

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise ConfigError(f"the image size is {self.size}", remedy="Choose a positive number of pixels.")
        if self.channels not in (None, 1, 3):
            raise ConfigError(f"the number of channels is {self.channels}", remedy="Choose 1 (grey) or 3 (colour).")


def read_image_folder(
    root: Path, options: ImageOptions | None = None, *, progress: Progress | None = None
) -> RawDataset:
    """The data set of a folder of images, ``train/CLASS/*`` (with ``val/``, ``test/``) or ``CLASS/*``.

    Args:
        root: the folder.
        options: the conversion of the images; None takes the defaults.
        progress: called with (stage, files done, number of files).

    Raises:
        DataError: unreadable files, a mix of grey and colour images, or images that do not fit into memory.
    """
    options = options or ImageOptions()
    tree = scan_image_tree(root)
    infos, unreadable = _read_headers(tree, progress)
    if not infos:
        raise _bad_images_error([*tree.strays, *unreadable], _count(tree))
    channels = options.channels or _common_channels(infos)
    size, notes = ((options.size, options.size), []) if options.size else _default_size(list(infos.values()))
    notes.extend(tree.notes)
    _require_memory(len(infos), size, channels, root)
    splits, undecodable = _decode_tree(tree, infos, (*size, channels), progress)
    bad = [*tree.strays, *unreadable, *undecodable]
    if bad and options.bad_images == "error":
        raise _bad_images_error(bad, _count(tree))
    if bad:
        notes.append(f"left out {len(bad)} of {_count(tree)} files that are not readable images: {_first(bad)}")
    return RawDataset(
        name=displayed(root.resolve().name),
        class_names=tree.class_names,
        train=splits["train"],
        val=splits.get("val"),
        test=splits.get("test"),
        augmentation=Augmentation(max_shift=min(size) // 8, pad_mode="reflect", horizontal_flip=True),
        source=str(root),
        warnings=tuple(notes),
    )


def load_image(path: Path, *, size: tuple[int, int], channels: int) -> np.ndarray:
    """One image file as uint8 [H, W, C], by the same rule as in a folder.

    Args:
        path: an image file.
        size: (H, W).
        channels: 1 (grey) or 3 (colour).

    Raises:
        DataError: the file is not a readable image.
    """
    with _quiet_pillow():
        try:
            return _decode(path, (*size, channels))
        except Exception as error:
            raise DataError(f"{path}: {_reason(error)}", remedy="Give a PNG, JPEG or other image file.") from error


def _read_headers(tree: ImageTree, progress: Progress | None) -> tuple[dict[Path, ImageInfo], list[BadImage]]:
    """The first pass: (path -> header, files without a readable header)."""
    paths = [path for files in tree.splits.values() for path, _ in files]
    infos: dict[Path, ImageInfo] = {}
    bad: list[BadImage] = []
    for path, result in zip(paths, _for_each(_read_header, paths, "reading headers", progress), strict=True):
        if isinstance(result, ImageInfo):
            infos[path] = result
        else:
            bad.append(BadImage(path, result))
    return infos, bad


def _read_header(path: Path) -> ImageInfo:
    with _opened(path) as image:
        width, height = image.size
        if image.getexif().get(_EXIF_ORIENTATION) in _SIDEWAYS:
            width, height = height, width
        return ImageInfo(height=height, width=width, is_grey=_is_grey(image))


def _is_grey(image: Image.Image) -> bool:
    if image.mode != "P":
        return image.mode in _GREY_MODES
    colours = np.asarray(image.getpalette("RGB")).reshape(-1, 3)
    return bool((colours == colours[:, :1]).all())


def _common_channels(infos: dict[Path, ImageInfo]) -> int:
    grey = [path for path, info in infos.items() if info.is_grey]
    if not grey:
        return 3
    if len(grey) == len(infos):
        return 1
    colour = next(path for path, info in infos.items() if not info.is_grey)
    raise DataError(
        f"{len(grey)} images are grey and {len(infos) - len(grey)} are in colour: {grey[0]} is grey, {colour} is not",
        remedy="Choose how to convert them: --channels 1 (grey) or --channels 3 (colour).",
    )


def _default_size(infos: list[ImageInfo]) -> tuple[tuple[int, int], list[str]]:
    """((H, W), notes to the user)."""
    sizes = {(info.height, info.width) for info in infos}
    first = (infos[0].height, infos[0].width)
    if len(sizes) == 1 and max(first) <= _MAX_NATIVE_SIDE:
        return first, []
    shorter = int(statistics.median(min(info.height, info.width) for info in infos))
    side = min(_DEFAULT_SIDE, max(shorter // _SIDE_MULTIPLE, 1) * _SIDE_MULTIPLE)
    what = "differ in size" if len(sizes) > 1 else f"are {first[0]}x{first[1]}"
    return (side, side), [f"the images {what}: each is scaled and cropped to {side}x{side} (--image-size changes this)"]


def _require_memory(num_images: int, size: tuple[int, int], channels: int, root: Path) -> None:
    height, width = size
    require_memory(
        int(num_images * height * width * channels * _CARVING_FACTOR),
        what=f"{root}: {num_images} images of {height}x{width}x{channels}",
        remedy="Choose a smaller --image-size, or fewer images.",
    )


def _decode_tree(
    tree: ImageTree, infos: dict[Path, ImageInfo], shape: tuple[int, int, int], progress: Progress | None
) -> tuple[dict[str, Split], list[BadImage]]:
    """The second pass: (decoded splits, files whose pixels cannot be read)."""
    splits: dict[str, Split] = {}
    bad: list[BadImage] = []
    for split, files in tree.splits.items():
        readable = [(path, label) for path, label in files if path in infos]
        splits[split], undecodable = _decode_split(readable, shape, f"decoding {split}", progress)
        bad.extend(undecodable)
    return splits, bad


def _decode_split(
    files: Sequence[tuple[Path, int]], shape: tuple[int, int, int], what: str, progress: Progress | None
) -> tuple[Split, list[BadImage]]:
    images = np.empty((len(files), *shape), np.uint8)
    labels = np.asarray([label for _, label in files], np.int32)

    def decode_into(index: int) -> None:
        images[index] = _decode(files[index][0], shape)

    outcomes = list(_for_each(decode_into, range(len(files)), what, progress))
    bad = {i: BadImage(files[i][0], reason) for i, reason in enumerate(outcomes) if reason is not None}
    failed = np.asarray(list(bad), np.int64)
    return Split(take_out(images, failed)[0], take_out(labels, failed)[0]), list(bad.values())


def _for_each(
    function: Callable[[T], R], items: Sequence[T], what: str, progress: Progress | None
) -> Iterator[R | str]:
    """``function`` of each item, in order, computed by threads; the reason for each item on which it fails."""

    def run(start: int) -> list[R | str]:
        return [_attempt(function, item) for item in items[start : start + _FILES_PER_TASK]]

    done = 0
    with _quiet_pillow(), ThreadPoolExecutor(_num_threads()) as pool:
        for results in pool.map(run, range(0, len(items), _FILES_PER_TASK)):
            yield from results
            done += len(results)
            if progress is not None:
                progress(what, done, len(items))


def _attempt(function: Callable[[T], R], item: T) -> R | str:
    # For bad bytes Pillow's decoders raise whatever their parser raises first (OSError, SyntaxError, ValueError,
    # struct.error, IndexError, …). Any exception means that the file is damaged.
    try:
        return function(item)
    except Exception as error:
        return _reason(error)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or of an unsupported kind"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _num_threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Silence Pillow's warnings about odd metadata; `_opened` checks the size limit, which matters, itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The image with its header read. Raise ValueError above Pillow's pixel limit, which Pillow only warns about."""
    if path.suffix.lower() == ".avif" and "AVIF" not in _FORMATS:
        raise ValueError("the installed Pillow reads no AVIF: install Pillow 11.3 or newer")
    with Image.open(path, formats=_FORMATS) as image:
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and image.width * image.height > limit:
            raise ValueError(f"{image.width * image.height:,} pixels, more than the limit of {limit:,}")
        yield image


def _decode(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """The image as uint8 [H, W, C], C 1 or 3."""
    height, width, channels = shape
    with _opened(path) as opened:
        covering = 2 * max(height, width)
        if min(opened.size) >= 2 * covering:
            # A JPEG decoder can halve the image while decoding; at twice the final size the result stays smooth.
            opened.draft(None, (covering, covering))
        image = _turned(opened)
        mode = "L" if channels == 1 else "RGB"
        if image.mode != mode or "transparency" in image.info:
            image = _on_white(_to_8_bit(image)).convert(mode)
        if image.size != (width, height):
            image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
        return np.asarray(image).reshape(shape)


def _turned(image: Image.Image) -> Image.Image:
    """The image with its EXIF orientation applied; the same object if it has none, since Pillow would copy it."""
    return ImageOps.exif_transpose(image) if image.getexif().get(_EXIF_ORIENTATION, 1) != 1 else image


def _to_8_bit(image: Image.Image) -> Image.Image:
    # Pillow opens a 16-bit PGM in 32-bit mode, scaled to 0 … 65535.
    is_16_bit = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
    if is_16_bit:
        return Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
    if image.mode in ("F", "I"):
        raise ValueError("32-bit pixels: save it with 8 or 16 bits")
    return image


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    coloured = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured)


def _count(tree: ImageTree) -> int:
    return sum(map(len, tree.splits.values())) + len(tree.strays)


def _first(bad: Sequence[BadImage]) -> str:
    """The first few files, each with its reason."""
    named = [f"{image.path} ({image.reason})" for image in bad[:_MAX_NOTED]]
    more = [f"and {len(bad) - _MAX_NOTED} more"] if len(bad) > _MAX_NOTED else []
    return "; ".join(named + more)


def _bad_images_error(bad: Sequence[BadImage], num_files: int) -> DataError:
    lines = [f"  {image.path}: {image.reason}" for image in bad[:_MAX_LISTED]]
    if len(bad) > _MAX_LISTED:
        lines.append(f"  … and {len(bad) - _MAX_LISTED} more")
    return DataError(
        "\n".join([f"{len(bad)} of {num_files} files are not readable images:", *lines]),
        remedy="Remove or replace them, or leave them out with --bad-images skip.",
    )
