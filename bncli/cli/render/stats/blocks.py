"""Small pictures in characters, names that are too long, and numbers in few characters.

Letters: W characters wide, H lines high.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.text import Text

BARS = "▁▂▃▄▅▆▇█"
# Dots of a braille character by row and column, as bits above U+2800.
_BRAILLE = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
# A name is never made shorter than this: what is left would be no name.
MIN_NAME = 12


class Name:
    """A layer's name, shortened in the middle to what its column leaves for it."""

    def __init__(self, name: str, style: str = "") -> None:
        self._text = visible(name)
        self._style = style

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        length = cell_len(self._text)
        return Measurement(min(length, MIN_NAME), length)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(shorten(self._text, options.max_width), style=self._style, no_wrap=True)


def spaced(blocks: Iterable[RenderableType]) -> RenderableType:
    """The blocks with a blank line between one and the next."""
    parts: list[RenderableType] = []
    for block in blocks:
        parts += [Text(), block] if parts else [block]
    return Group(*parts)


def visible(text: str) -> str:
    """The text with control and direction characters spelled out: names come from files, and must not drive a terminal.

    An escape character would.
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def shorten(text: str, width: int) -> str:
    """At most ``width`` columns wide, "…" in place of the middle; the end, which tells layers apart, keeps more."""
    if cell_len(text) <= width:
        return text
    head, tail = "", ""
    room = width - 1
    for character in text:
        if cell_len(head + character) > room // 3:
            break
        head += character
    for character in reversed(text):
        if cell_len(head + character + tail) > room:
            break
        tail = character + tail
    return f"{head}…{tail}" if width > 0 else ""


def short(number: float | None) -> str:
    """Two significant digits in at most seven characters: "0.12", "-3.1", "270", "2.4e-6"; "–" for none."""
    if number is None:
        return "–"
    if not math.isfinite(number):
        return str(number)
    if number == 0 or 1e-2 <= abs(number) < 1e4:
        return f"{float(f'{number:.2g}'):.12g}"
    mantissa, exponent = f"{number:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def counts(values: np.ndarray, bins: int) -> np.ndarray:
    """How many of the finite values fall in each of ``bins`` equal parts of their range; int [bins].

    One value, or many of the same, are in the middle.
    """
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return np.zeros(bins, int)
    low, high = finite.min(), finite.max()
    with np.errstate(over="ignore"):
        width = high - low
    if not np.isfinite(width) or width <= 1e-12 * max(abs(low), abs(high)):  # too narrow, or too wide, to divide
        return np.eye(bins, dtype=int)[bins // 2] * finite.size
    return np.bincount(np.minimum(((finite - low) / width * bins).astype(int), bins - 1), minlength=bins)


def histogram(values: np.ndarray, width: int) -> str:
    """The distribution of the finite values from the least to the greatest, in ``width`` characters."""
    numbers = counts(values, width)
    return "".join(" " if number == 0 else bar(number / numbers.max()) for number in numbers)


def bar(share: float) -> str:
    """A bar of 0 to 1 of a line's height, in eighths, rounded up: what is there is seen."""
    return BARS[min(max(math.ceil(share * len(BARS)), 1), len(BARS)) - 1]


def level(share: float, width: int) -> str:
    """A horizontal bar of 0 to 1 of ``width`` characters, in eighths."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + " ▏▎▍▌▋▊▉"[rest].strip()).ljust(width)


def curves(tracks: Sequence[Sequence[float]], width: int, height: int) -> tuple[list[str], float, float]:
    """(H lines of W braille characters, lowest, highest): curves over equally spaced points, the range filling the box.

    Where a value is not finite, its curve has a gap.
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
    return np.interp(np.linspace(0, len(curve) - 1, columns), np.arange(len(curve)), curve)


def _draw(dots: np.ndarray, curve: np.ndarray, low: float, high: float) -> None:
    """Sets the dots of one curve, a value a column, joined by vertical strokes where it is steep."""
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
    """Bool [4, 2·W] as W characters."""
    cells = dots.reshape(4, -1, 2).transpose(1, 0, 2)  # [W, row, column]
    return "".join(chr(0x2800 + int((cell * np.array(_BRAILLE)).sum())) for cell in cells)
