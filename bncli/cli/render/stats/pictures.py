"""Histograms, bars and curves made of characters.

Letters: W characters wide, H lines high.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

BARS = "▁▂▃▄▅▆▇█"
# Dots of a braille character by row and column, as bits above U+2800.
_BRAILLE = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))


def counts(values: np.ndarray, bins: int) -> np.ndarray:
    """Count the finite values in each of ``bins`` equal parts of their range; int [bins].

    A single value, or equal ones, are counted in the middle.
    """
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return np.zeros(bins, int)
    low, high = finite.min(), finite.max()
    with np.errstate(over="ignore"):
        width = high - low
    if not np.isfinite(width) or width <= 1e-12 * max(abs(low), abs(high)):  # too wide or too narrow to divide
        middle: np.ndarray = np.eye(bins, dtype=int)[bins // 2] * finite.size
        return middle
    return np.bincount(np.minimum(((finite - low) / width * bins).astype(int), bins - 1), minlength=bins)


def histogram(values: np.ndarray, width: int) -> str:
    """Draw the distribution of the finite values from minimum to maximum in ``width`` characters."""
    numbers = counts(values, width)
    return "".join(" " if number == 0 else bar(number / numbers.max()) for number in numbers)


def bar(share: float) -> str:
    """Return a bar of 0 to 1 of a line's height, in eighths, rounded up so that no share above 0 is invisible."""
    return BARS[min(max(math.ceil(share * len(BARS)), 1), len(BARS)) - 1]


def level(share: float, width: int) -> str:
    """Return a horizontal bar of 0 to 1 of ``width`` characters, in eighths."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + " ▏▎▍▌▋▊▉"[rest].strip()).ljust(width)


def curves(tracks: Sequence[Sequence[float]], width: int, height: int) -> tuple[list[str], float, float]:
    """Draw curves over equally spaced points; their range fills the box.

    A curve has a gap at each value that is not finite.

    Returns:
        H lines of W braille characters, the lowest and the highest value.
    """
    values = np.array(tracks, float)  # [curve, point]
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return [" " * width] * height, math.nan, math.nan
    low, high = float(finite.min()), float(finite.max())
    rows, columns = 4 * height, 2 * width
    dots = np.zeros((rows, columns), bool)
    for curve in values:
        _draw(dots, _resample(curve, columns), low, high)
    return [_braille_line(dots[4 * line : 4 * line + 4]) for line in range(height)], low, high


def _resample(curve: np.ndarray, columns: int) -> np.ndarray:
    if len(curve) == 1:
        return np.repeat(curve, columns)
    resampled: np.ndarray = np.interp(np.linspace(0, len(curve) - 1, columns), np.arange(len(curve)), curve)
    return resampled


def _draw(dots: np.ndarray, curve: np.ndarray, low: float, high: float) -> None:
    """Set the dots of one curve, one value per column, joined by vertical strokes at steep places."""
    last = len(dots) - 1
    previous = None
    for column, value in enumerate(curve):
        if not np.isfinite(value):
            previous = None
            continue
        share = 0.5 if high <= low else (high - value) / (high - low)
        row = round(share * last)
        start = row if previous is None else previous + (row > previous) - (row < previous)
        dots[min(start, row) : max(start, row) + 1, column] = True
        previous = row


def _braille_line(dots: np.ndarray) -> str:
    """Return bool [4, 2·W] as W characters."""
    cells = dots.reshape(4, -1, 2).transpose(1, 0, 2)  # [W, row, column]
    return "".join(chr(0x2800 + int((cell * np.array(_BRAILLE)).sum())) for cell in cells)
