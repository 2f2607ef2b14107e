"""Text in few characters: plurals, short numbers, and names that are safe and short enough to show."""

from __future__ import annotations

import math
from collections.abc import Iterable

from rich.cells import cell_len
from rich.markup import escape

from bncli.cli.untrusted import visible

# A shorter rest of a name would not be recognised.
MIN_NAME = 12


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """Return the count with its noun in the right form: "1 channel", "1,024 channels"."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def short(number: float | None) -> str:
    """Two significant digits in at most seven characters: "0.12", "-3.1", "270", "2.4e-6"; "–" for None."""
    if number is None:
        return "–"
    if not math.isfinite(number):
        return str(number)
    if number == 0 or 1e-2 <= abs(number) < 1e4:
        return f"{float(f'{number:.2g}'):.12g}"
    mantissa, exponent = f"{number:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def norm_words(normalization: str) -> str:
    """Return the normalization of a network, as ``ModelConfig.normalization`` names it, in words."""
    kind, _, size = normalization.partition(":")
    words = {"batch": "BN", "group": "group normalization", "layer": "layer normalization"}
    if kind == "none":
        return "without BN"
    return f"with ghost BN of {size} examples" if kind == "ghost" else f"with {words[kind]}"


def marked(text: str) -> str:
    """Return the text as ``visible``, to be part of rich's markup."""
    return escape(visible(text))


def shorten(text: str, width: int) -> str:
    """Cut the middle out of a text wider than ``width`` columns; the end, which tells layers apart, keeps more."""
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


def distinct_width(names: Iterable[str]) -> int:
    """Return the smallest width, ``MIN_NAME`` or more, at which the shortened names still differ from each other."""
    different = set(names)
    longest = max(map(cell_len, different), default=0)
    for width in range(MIN_NAME, longest):
        if len({shorten(name, width) for name in different}) == len(different):
            return width
    return longest
