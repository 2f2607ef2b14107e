"""One image, a file or a record -> uint8 [H, W, C].

Letters: H W height and width, C channels.

One rule makes every image [H, W, C]: scale pixels of more than 8 bits by their range, apply the EXIF orientation, put
transparent pixels on white, scale until the image just covers H x W (bilinear, antialiased), and crop the centre. With
a ``Crop``, the shorter side is scaled to its size instead. Of an animation only the first frame is read.
"""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO, Protocol, TypeAlias

import numpy as np
import PIL
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from bncli.config.document import Crop
from bncli.data.deep_image import deep_to_8_bit, deep_values, is_deep, raw_mode
from bncli.data.pixel_range import PixelRange
from bncli.data.random_crop import draw_box
from bncli.process.files import open_regular

PILLOW = PIL.__version__
# Only these formats are tried. Pillow has fifty, and one of them (EPS) starts an interpreter.
_HAS_AVIF = find_spec("PIL.AvifImagePlugin") is not None
# The usual ones come first: they are tried in turn, for every image.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM", "TIFF", *(("AVIF",) if _HAS_AVIF else ()))
_EXIF_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_MAX_DRAFT = 8  # a JPEG decoder shrinks by 2, 4 or 8
_SIDEWAYS = frozenset({5, 6, 7, 8})  # EXIF orientations that swap height and width
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
_GREY_MODES = frozenset({"1", "F", "I", "I;16", "I;16B", "I;16L", "I;16N", "L", "LA", "La"})
# A decompression bomb: a large image of which so many pixels come from one byte. Photographs have at most 10.
_LARGE = 1 << 24
_MAX_PIXELS_PER_BYTE = 250


class StoredImage(Protocol):
    """An encoded image that is no file of its own, such as a record of a larger file."""

    def read(self) -> bytes:
        """Its bytes."""


ImagePlace: TypeAlias = Path | str | StoredImage  # a text is the path of a file


@dataclass(frozen=True)
class ImageInfo:
    """The header of an image file."""

    height: int  # after applying the EXIF orientation
    width: int
    is_grey: bool
    is_deep: bool  # more than 8 bits per channel
    has_frames: bool  # more than one frame or page


def read_header(path: ImagePlace) -> ImageInfo:
    """The header of an image file; nothing is decoded."""
    with _opened(path) as image:
        width, height = image.size
        if _is_sideways(image):
            width, height = height, width
        is_grey, deep = _is_grey(image), is_deep(image)
        return ImageInfo(height=height, width=width, is_grey=is_grey, is_deep=deep, has_frames=_has_frames(image))


def read_deep(path: ImagePlace) -> np.ndarray:
    """The colour values of a file with more than 8 bits per channel, [H, W] or [H, W, C], as they are in the file."""
    with _opened(path) as image:
        return deep_values(image, partial(_opened, path))


def decode(
    path: ImagePlace, shape: tuple[int, int, int], pixel_range: PixelRange | None, crop: Crop | None = None
) -> tuple[np.ndarray, bool]:
    """(the image as uint8 [H, W, C] with C 1 or 3, True if a pixel was outside ``pixel_range``)."""
    height, width, channels = shape
    with _opened(path) as opened:
        if crop is None:  # else the whole file is decoded, as the weights were trained
            _draft(opened, max(height, width))
        image, is_clipped = _loaded(path, opened, pixel_range)
        mode = "L" if channels == 1 else "RGB"
        if image.mode != mode or "transparency" in image.info:
            image = _on_white(image).convert(mode)
        if crop is not None:
            image = _cropped(image, (width, height), crop)
        elif image.size != (width, height):
            image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
        return np.asarray(image).reshape(shape), is_clipped


def decode_part(
    path: ImagePlace, shape: tuple[int, int, int], pixel_range: PixelRange | None, bits: np.ndarray, min_area: float
) -> np.ndarray:
    """A random part of the image, resized to uint8 [H, W, C]; a JPEG is decoded no larger than the part needs."""
    height, width, channels = shape
    with _opened(path) as opened:
        full_width, full_height = reversed(opened.size) if _is_sideways(opened) else opened.size
        box = draw_box(bits, width=full_width, height=full_height, min_area=min_area)
        _draft_part(opened, min(box.width / width, box.height / height))
        image, _ = _loaded(path, opened, pixel_range)
        mode = "L" if channels == 1 else "RGB"
        if image.mode != mode or "transparency" in image.info:
            image = _on_white(image).convert(mode)
        scale_x, scale_y = image.width / full_width, image.height / full_height
        left, top, right, bottom = box.corners
        part = _part(image, (left * scale_x, top * scale_y, right * scale_x, bottom * scale_y), (width, height))
        return np.asarray(part).reshape(shape)


def resized_part(image: np.ndarray, bits: np.ndarray, min_area: float) -> np.ndarray:
    """A random part of an image in memory, resized to the shape of the whole: uint8 [H, W, C]."""
    height, width, channels = image.shape
    box = draw_box(bits, width=width, height=height, min_area=min_area)
    whole = Image.fromarray(image[..., 0] if channels == 1 else image)
    return np.asarray(_part(whole, box.corners, (width, height))).reshape(image.shape)


def _part(image: Image.Image, corners: tuple[float, float, float, float], size: tuple[int, int]) -> Image.Image:
    """A part of an image, resized. It is cut out first, or the filter would see pixels beyond its border."""
    left, top = math.floor(corners[0]), math.floor(corners[1])
    cut = image.crop((left, top, math.ceil(corners[2]), math.ceil(corners[3])))
    inside = (corners[0] - left, corners[1] - top, corners[2] - left, corners[3] - top)
    return cut.resize(size, Image.Resampling.BILINEAR, box=inside)


def _draft_part(image: ImageFile.ImageFile, factor: float) -> None:
    """Let a JPEG decoder shrink an image that is at least four times as large as needed; twice as large is smooth."""
    shrink = 1
    while shrink < _MAX_DRAFT and factor >= 4 * shrink:
        shrink *= 2
    if shrink > 1:
        image.draft(None, (image.width // shrink, image.height // shrink))


def _cropped(image: Image.Image, size: tuple[int, int], crop: Crop) -> Image.Image:
    """The centre of the image, whose shorter side is scaled first: pixel by pixel torchvision's and timm's.

    The longer side is rounded down, and the crop's corner to the nearest pixel, as in ``torchvision.transforms``.
    """
    shorter = min(image.size)
    scaled = [crop.resize * side // shorter for side in image.size]
    if image.size != tuple(scaled):
        image = image.resize((scaled[0], scaled[1]), _FILTERS[crop.interpolation])
    left, top = (round((outer - inner) / 2) for outer, inner in zip(scaled, size, strict=True))
    return image.crop((left, top, left + size[0], top + size[1]))


def reason_of(error: Exception) -> str:
    """The reason why an image cannot be read, in words."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or of an unsupported kind"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Silence Pillow's warnings about odd metadata; `_opened` checks the size limit, which matters, itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _opened(path: ImagePlace) -> Iterator[ImageFile.ImageFile]:
    """The image with its header read, from a regular file or a record.

    Raises:
        ValueError: the header announces more pixels than Pillow's limit, which Pillow only warns about, or than so
            few bytes can honestly hold.
    """
    with _stream(path) as file, Image.open(file, formats=_FORMATS) as image:
        pixels, limit = image.width * image.height, Image.MAX_IMAGE_PIXELS
        if limit is not None and pixels > limit:
            raise ValueError(f"{pixels:,} pixels, more than the limit of {limit:,}")
        if pixels > _LARGE and pixels > (num_bytes := _size(file)) * _MAX_PIXELS_PER_BYTE:
            raise ValueError(f"{pixels:,} pixels in {num_bytes:,} bytes: it may be a decompression bomb")
        yield image


def _stream(path: ImagePlace) -> BinaryIO:
    """The encoded image, to be read."""
    if not isinstance(path, str | Path):
        return io.BytesIO(path.read())
    if not _HAS_AVIF and str(path).lower().endswith(".avif"):
        raise ValueError("the installed Pillow reads no AVIF: install Pillow 11.3 or newer")
    return open_regular(path)


def _size(file: BinaryIO) -> int:
    """The number of bytes."""
    return len(file.getbuffer()) if isinstance(file, io.BytesIO) else os.fstat(file.fileno()).st_size


def _loaded(path: ImagePlace, opened: ImageFile.ImageFile, pixel_range: PixelRange | None) -> tuple[Image.Image, bool]:
    """(the image with 8 bits per channel and its EXIF orientation applied, True if a pixel was out of range)."""
    if is_deep(opened):
        image, is_clipped = deep_to_8_bit(opened, partial(_opened, path), pixel_range)
    else:
        opened.load()
        image, is_clipped = opened, False
    turn = _TURNS.get(opened.getexif().get(_EXIF_ORIENTATION, 1))  # after loading, in which Pillow turns a TIFF
    return image if turn is None else image.transpose(turn), is_clipped


def _draft(image: ImageFile.ImageFile, side: int) -> None:
    """Let a JPEG decoder halve a large image while decoding; at twice the final size the result stays smooth."""
    covering = 2 * side
    if min(image.size) >= 2 * covering:
        image.draft(None, (covering, covering))


def _is_sideways(image: ImageFile.ImageFile) -> bool:
    """True if the orientation swaps the height and width in ``image.size``; Pillow swaps those of a TIFF itself."""
    tags = getattr(image, "tag_v2", None)
    if tags is not None and image.size != (tags.get(_TIFF_WIDTH), tags.get(_TIFF_HEIGHT)):
        return False
    # The method of a PNG decodes the pixels first, in search of an orientation behind them.
    return Image.Image.getexif(image).get(_EXIF_ORIENTATION) in _SIDEWAYS


def _has_frames(image: ImageFile.ImageFile) -> bool:
    """True if there is more than the first frame; the previews that cameras put into an MPO, a JPEG, do not count."""
    return image.format != "MPO" and bool(getattr(image, "is_animated", False))


def _is_grey(image: ImageFile.ImageFile) -> bool:
    if image.mode != "P":
        return image.mode in _GREY_MODES or raw_mode(image).startswith("LA")
    colours = np.asarray(image.getpalette("RGB")).reshape(-1, 3)
    return bool((colours == colours[:, :1]).all())


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    coloured = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured)
