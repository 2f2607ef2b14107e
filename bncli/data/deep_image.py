"""Image files with more than 8 bits per channel; Pillow alone would drop all but the upper 8 of a colour file.

Letters: H W height and width, C channels.

Pillow reads grey pixels of 16 and 32 bits whole. It has no mode for colour of 16 bits, and takes the upper byte of each
value. The lower byte is the upper one in the other byte order: so a colour file is decoded twice.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
from PIL import Image, ImageFile

from bncli.data.pixel_range import FULL_16_BIT, PixelRange, is_outside, natural_range, to_8_bit

Reopen = Callable[[], AbstractContextManager[ImageFile.ImageFile]]

_GREY = frozenset({"F", "I", "I;16", "I;16B", "I;16L", "I;16N"})
_COLOUR = frozenset({"CMYK", "RGB", "RGBA", "RGBX"})
_ALPHA = frozenset({"LA", "RGBA"})
_GREY_ALPHA = "LA;16B"  # as RGBA of 8 bits: upper and lower byte of the grey value, then of alpha
_NATIVE = "L" if sys.byteorder == "little" else "B"
_OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if _NATIVE == "L" else "L"}


def is_deep(image: Image.Image) -> bool:
    """True if the pixels of an image that is not loaded yet have more than 8 bits."""
    return image.mode in _GREY or ";16" in raw_mode(image) or _max_value(image) > 255


def raw_mode(image: Image.Image) -> str:
    """The layout of the pixels in the file, as Pillow names it, such as ``RGB;16B``; "" if it is unknown."""
    tiles = getattr(image, "tile", None)
    if not tiles:
        return ""
    args = tiles[0].args
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def deep_values(image: ImageFile.ImageFile, reopen: Reopen) -> np.ndarray:
    """The colour values in the file, without alpha: [H, W] or [H, W, C].

    Raises:
        ValueError: a pixel is NaN or infinite, or the file has a layout that cannot be read.
    """
    return _values(image, reopen)[0]


def deep_to_8_bit(
    image: ImageFile.ImageFile, reopen: Reopen, pixel_range: PixelRange | None
) -> tuple[Image.Image, bool]:
    """(the image with 8 bits per channel, True if a pixel was outside the range).

    Args:
        image: not loaded yet.
        reopen: opens the same file once more.
        pixel_range: the values that become 0 and 255; None takes the natural range of this image.

    Raises:
        ValueError: a pixel is NaN or infinite, or the file has a layout that cannot be read.
    """
    values, alpha, mode = _values(image, reopen)
    if values.dtype.kind == "f" and pixel_range == FULL_16_BIT:
        raise ValueError("float pixels are not scaled by the range of 16-bit files, 0 … 65535")
    pixel_range = pixel_range or natural_range([values])
    scaled = to_8_bit(values, pixel_range)
    if alpha is not None:
        channels = scaled.reshape(*scaled.shape[:2], -1)
        scaled = np.concatenate([channels, to_8_bit(alpha, FULL_16_BIT)[..., None]], axis=2)
    size = (scaled.shape[1], scaled.shape[0])
    return Image.frombytes(mode, size, scaled.tobytes()), is_outside(values, pixel_range)


def _values(image: ImageFile.ImageFile, reopen: Reopen) -> tuple[np.ndarray, np.ndarray | None, str]:
    """(colour values [H, W] or [H, W, C], alpha [H, W] or None, Pillow's mode of both at 8 bits)."""
    transparent = image.info.get("transparency")
    if image.mode in _GREY:
        return _with_key(_finite(np.asarray(image)), transparent, "L")
    raw = raw_mode(image)
    if raw == _GREY_ALPHA:
        whole = _grey_alpha(image)
        return whole[..., 0], whole[..., 1], "LA"
    base, _, order = raw.partition(";16")
    if base not in _COLOUR or order not in _OTHER_ORDER:
        raise ValueError("more than 8 bits per channel in a layout that cannot be read: save it as a 16-bit PNG")
    whole = np.asarray(image).astype(np.uint16)  # [H, W, C], the upper bytes
    whole <<= 8
    with reopen() as again:
        _set_raw_mode(again, f"{base};16{_OTHER_ORDER[order]}")
        whole |= np.asarray(again)
    if image.mode in _ALPHA:
        return whole[..., :-1], whole[..., -1], image.mode
    return _with_key(whole, transparent, image.mode)


def _grey_alpha(image: ImageFile.ImageFile) -> np.ndarray:
    """Grey value and alpha, uint16 [H, W, 2]."""
    image._mode = "RGBA"
    _set_raw_mode(image, "RGBA")
    bytes_of = np.asarray(image).astype(np.uint16)
    return bytes_of[..., ::2] << 8 | bytes_of[..., 1::2]


def _set_raw_mode(image: ImageFile.ImageFile, raw: str) -> None:
    """Decode the pixels of the file as if they had another layout of the same width."""
    image.tile = [
        tile._replace(args=(raw, *tile.args[1:]) if isinstance(tile.args, tuple) else raw) for tile in image.tile
    ]


def _with_key(values: np.ndarray, key: object, mode: str) -> tuple[np.ndarray, np.ndarray | None, str]:
    """The values with the alpha that a transparent colour means, if the file names one."""
    if key is None or mode not in ("L", "RGB"):
        return values, None, mode
    differs = values != np.asarray(key)
    opaque = differs if values.ndim == 2 else differs.any(axis=2)
    return values, np.where(opaque, FULL_16_BIT[1], 0), f"{mode}A"


def _finite(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError("a pixel is NaN or infinite")
    return values


def _max_value(image: Image.Image) -> int:
    """The largest pixel value that the header of a PPM file allows; 0 for other files."""
    tiles = getattr(image, "tile", None)
    args = tiles[0].args if image.format == "PPM" and tiles else ()
    return args[1] if isinstance(args, tuple) and len(args) > 1 and isinstance(args[1], int) else 0
