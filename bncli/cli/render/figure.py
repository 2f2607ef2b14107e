"""Figures with axes as SVG: lines and points over linear or logarithmic scales, in light or dark as the reader has it.

A figure is a picture of its own, and can stand in a page too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bncli.cli.render.html.markup import Html, element, join

WIDTH, HEIGHT = 640, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 40, 48
_TICKS = 5
STYLE = """
.figure { font: 13px system-ui, sans-serif; background: #fff; color-scheme: light dark; max-width: 100%; height: auto }
.figure text { fill: #333 } .figure .title { font-weight: 600; font-size: 15px }
.figure .grid { stroke: #ddd } .figure .raw { stroke: #b9c4d6; fill: none } .figure .dot { fill: #2b6cb0 }
.figure .line { stroke: #2b6cb0; fill: none; stroke-width: 2 } .figure .dot.faint { fill: #b9c4d6 }
.figure .dot.best { fill: #c05621 } .figure .mark { stroke: #c05621; stroke-dasharray: 5 4 }
.figure .note { fill: #c05621 }
@media (prefers-color-scheme: dark) {
.figure { background: #16181d } .figure text { fill: #d7dae0 } .figure .grid { stroke: #333842 }
.figure .raw { stroke: #4b566b } .figure .dot.faint { fill: #4b566b } .figure .line { stroke: #7db4f0 }
.figure .dot { fill: #7db4f0 } .figure .dot.best { fill: #f0a070 } .figure .mark { stroke: #f0a070 }
.figure .note { fill: #f0a070 } }
"""


@dataclass(frozen=True)
class Axis:
    """The scale of one direction.

    Attributes:
        label: the quantity, with its unit.
        low: the least value shown.
        high: the greatest.
        is_log: True for a logarithmic scale.
    """

    label: str
    low: float
    high: float
    is_log: bool = False

    @classmethod
    def around(cls, label: str, values: Iterable[float], *, is_log: bool = False) -> Axis:
        """The axis that shows all finite values."""
        finite = [value for value in values if math.isfinite(value) and (value > 0 or not is_log)] or [1.0]
        low, high = min(finite), max(finite)
        if is_log:
            return cls(label, low / 1.2, high * 1.2, is_log=True)
        margin = 0.05 * (high - low) or max(abs(high), 1.0) / 2
        return cls(label, low - margin, high + margin)

    def share(self, value: float) -> float:
        """The place of a value between the ends, from 0 to 1; beyond them if it is."""
        if self.is_log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Round values between the ends."""
        return _powers(self.low, self.high) if self.is_log else _round_values(self.low, self.high)


def _powers(low: float, high: float) -> list[float]:
    """The powers of ten; twice and five times as much too where they are few."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    few = len(exponents) <= 4
    every = max(1, len(exponents) // (2 * _TICKS))
    values = [factor * 10.0**exponent for exponent in exponents[::every] for factor in ((1, 2, 5) if few else (1,))]
    return [value for value in values if low <= value <= high]


def _round_values(low: float, high: float) -> list[float]:
    rough = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


@dataclass(frozen=True)
class Frame:
    """The two axes of a figure, and the places of values in it."""

    x: Axis
    y: Axis

    def place(self, x: float, y: float) -> tuple[float, float]:
        """The coordinates of a point; one outside the frame lies on its edge."""
        across, up = (min(max(share, 0.0), 1.0) for share in (self.x.share(x), self.y.share(y)))
        return _LEFT + across * (WIDTH - _LEFT - _RIGHT), HEIGHT - _BOTTOM - up * (HEIGHT - _TOP - _BOTTOM)

    def line(self, points: Iterable[tuple[float, float]], class_: str = "line") -> Html:
        """Draw a line through points."""
        places = " ".join("{:.1f},{:.1f}".format(*self.place(x, y)) for x, y in points if math.isfinite(y))
        return element("polyline", points=places, class_=class_)

    def dot(self, x: float, y: float, words: str, class_: str = "dot") -> Html:
        """Draw a point, with words for the pointer."""
        across, down = self.place(x, y)
        return element("circle", element("title", words), cx=f"{across:.1f}", cy=f"{down:.1f}", r=4, class_=class_)

    def mark(self, x: float, words: str) -> Html:
        """Draw an upright line, with words at its top."""
        across, top = self.place(x, self.y.high)
        anchor = "end" if across > WIDTH / 2 else "start"
        text = element(
            "text",
            words,
            x=f"{across + (-6 if anchor == 'end' else 6):.1f}",
            y=top + 12,
            text_anchor=anchor,
            class_="note",
        )
        return join(element("path", d=f"M{across:.1f} {top}V{HEIGHT - _BOTTOM}", class_="mark"), text)


def figure(title: str, frame: Frame, *shapes: Html) -> Html:
    """Draw shapes in their frame, under a title."""
    return element(
        "svg",
        element("style", Html(STYLE)),
        element("text", title, x=_LEFT, y=22, class_="title"),
        _x_axis(frame),
        _y_axis(frame),
        join(*shapes),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        width=WIDTH,
        height=HEIGHT,
        role="img",
        aria_label=title,
        class_="figure",
    )


def page(title: str, *parts: Html) -> str:
    """A page of figures and tables that loads nothing."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content="default-src 'none'; style-src 'unsafe-inline'"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Html(_PAGE_STYLE)),
    )
    body = element("body", element("h1", title), *parts)
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


_PAGE_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1000px; padding: 0 1rem }
h1 { font-size: 1.4rem; overflow-wrap: anywhere } .wide { overflow-x: auto } table { border-collapse: collapse }
th, td { padding: .2rem .8rem .2rem 0; text-align: right } th:first-child, td:first-child { text-align: left }
tr.best { font-weight: 600 } figure { margin: 1rem 0 }
@media (prefers-color-scheme: dark) { body { background: #16181d; color: #d7dae0 } }
"""


def table(columns: Sequence[str], rows: Iterable[tuple[Sequence[str], bool]]) -> Html:
    """A table of texts; each row says whether it is the best."""
    head = element("tr", *(element("th", name) for name in columns))
    body = [
        element("tr", *(element("td", cell) for cell in cells), class_="best" if best else None) for cells, best in rows
    ]
    return element("div", element("table", head, *body), class_="wide")


def _x_axis(frame: Frame) -> Html:
    parts = []
    for tick in frame.x.ticks():
        across, bottom = frame.place(tick, frame.y.low)
        parts.append(element("path", d=f"M{across:.1f} {_TOP}V{bottom:.1f}", class_="grid"))
        parts.append(element("text", f"{tick:.4g}", x=f"{across:.1f}", y=HEIGHT - _BOTTOM + 18, text_anchor="middle"))
    label = element("text", frame.x.label, x=(WIDTH + _LEFT - _RIGHT) / 2, y=HEIGHT - 10, text_anchor="middle")
    return join(*parts, label)


def _y_axis(frame: Frame) -> Html:
    parts = []
    for tick in frame.y.ticks():
        left, down = frame.place(frame.x.low, tick)
        parts.append(element("path", d=f"M{left:.1f} {down:.1f}H{WIDTH - _RIGHT}", class_="grid"))
        parts.append(element("text", f"{tick:.4g}", x=_LEFT - 8, y=f"{down + 4:.1f}", text_anchor="end"))
    middle = (HEIGHT + _TOP - _BOTTOM) / 2
    label = element("text", frame.y.label, x=16, y=middle, text_anchor="middle", transform=f"rotate(-90 16 {middle:g})")
    return join(*parts, label)
