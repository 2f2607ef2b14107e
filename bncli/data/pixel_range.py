"""Pixels of more than 8 bits: the range that becomes 0 … 255.

A 16-bit file often holds 12 bits, so dividing by 257 would leave 16 of 256 grey levels. The range is therefore measured
on the training images, unless ``--pixel-range`` gives it. A checkpoint records it, and every later image is scaled by
the recorded one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias

import numpy as np

from bncli.errors import ConfigError

PixelRange: TypeAlias = tuple[float, float]  # the values that become 0 and 255
# "auto" measures the training images; "recorded" is that of a checkpoint which records none, as of 8-bit images.
RangeChoice: TypeAlias = PixelRange | Literal["auto", "recorded"]

FULL_16_BIT: PixelRange = (0, 65535)
_EIGHT_BIT: PixelRange = (0, 255)
_UNIT: PixelRange = (0, 1)
_NUM_16_BIT = 1 << 16
_PART = 1 << 20  # values converted at a time
_MAX_OFFSET = 1 / 8  # of the largest value: a smaller one counts as black, a larger one as an offset to take off


def parse_range(text: str) -> RangeChoice:
    """The value of ``--pixel-range``: "auto", or LOW:HIGH.

    Raises:
        ConfigError: LOW is not below HIGH.
    """
    if text == "auto":
        return "auto"
    low, high = map(float, text.split(":"))
    if not low < high:
        raise ConfigError(f"the pixel range is {text}", remedy="Give the smaller number first, such as 0:4095.")
    return low, high


def natural_range(values: Iterable[np.ndarray]) -> PixelRange:
    """The range that holds all pixels of one kind.

    * Whole numbers in 0 … 255 stay as they are, and floats in 0 … 1 are multiplied by 255.
    * Whole numbers from about 0 on get the fewest bits that hold them: 0 … 4095 for 12 bits.
    * Other numbers go from their smallest to their largest.
    """
    low, high, is_whole = np.inf, -np.inf, True
    for array in values:
        low, high = min(low, float(array.min())), max(high, float(array.max()))
        is_whole = is_whole and array.dtype.kind in "iu"
    usual = _EIGHT_BIT if is_whole else _UNIT
    if usual[0] <= low and high <= usual[1]:
        return usual
    if is_whole and 0 <= low <= high * _MAX_OFFSET:
        return 0, float(2 ** int(high).bit_length() - 1)
    return (low, high) if low < high else (low, low + 1)


def is_outside(values: np.ndarray, pixel_range: PixelRange) -> bool:
    """True if a pixel lies outside the range, where it is clipped."""
    low, high = pixel_range
    return bool(values.min() < low or values.max() > high)


def to_8_bit(values: np.ndarray, pixel_range: PixelRange) -> np.ndarray:
    """round(255 (x − low) / (high − low)) as uint8, clipped to 0 … 255."""
    if values.dtype.kind == "u" and values.dtype.itemsize == 2 and values.size > _NUM_16_BIT:
        table: np.ndarray = _scaled(np.arange(_NUM_16_BIT), pixel_range)[values]  # two thirds of the time
        return table
    return _scaled(values, pixel_range)


def format_range(pixel_range: PixelRange) -> str:
    """The range in words, such as "0 … 4095"."""
    low, high = pixel_range
    return f"{low:.10g} … {high:.10g}"


def _scaled(values: np.ndarray, pixel_range: PixelRange) -> np.ndarray:
    """The formula of ``to_8_bit``, in parts, since float64 is large."""
    low, high = pixel_range
    result = np.empty(values.shape, np.uint8)
    step = max(1, _PART // max(1, values[:1].size))
    for start in range(0, len(values), step):
        scaled = (values[start : start + step].astype(np.float64) - low) * (255 / (high - low))
        result[start : start + step] = np.rint(np.clip(scaled, 0, 255))
    return result
