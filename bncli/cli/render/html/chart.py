"""Line charts with axes as inline SVG. Several series share one scale.

Colours are classes of the style sheet, ``series-0`` to ``series-7``, and so follow light and dark mode. Each series has
a dash pattern too: colour alone would not tell everyone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bncli.cli.render.html.markup import NOTHING, Html, element, join

WIDTH, HEIGHT = 420, 220
# Room for the numbers at the axes.
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 24
STYLES = 8
# A range of more decades than this is drawn on a logarithmic scale: else an explosion at the start hides the rest.
MANY_DECADES = 1.5
# More points than this have no markers and no texts for the pointer.
MAX_TEXTS = 300


@dataclass(frozen=True)
class Series:
    """One line.

    Attributes:
        name: in the legend.
        x: ascending numbers.
        y: as many values; there is a gap where one is not finite.
        style: number of its colour and dash pattern.
        marked: the x of the point with a large marker; None for none.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: int
    marked: float | None = None


@dataclass(frozen=True)
class Scale:
    """Maps values to coordinates from ``start`` to ``stop``; a constant is in the middle."""

    low: float
    high: float
    start: float
    stop: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        """Return the coordinate of a value."""
        low, high, value = (math.log10(v) if self.is_log else v for v in (self.low, self.high, value))
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.stop - self.start)

    @property
    def ticks(self) -> list[float]:
        """Round values within the range."""
        return log_ticks(self.low, self.high) if self.is_log else linear_ticks(self.low, self.high)


def line_chart(title: str, series: Sequence[Series], *, may_be_log: bool = False, whole_x: bool = True) -> Html:
    """Return a figure: the title, the lines with axes, and a legend if there is more than one.

    Args:
        title: what is drawn.
        series: the lines; at least one.
        may_be_log: True to draw a wide range of positive values on a logarithmic scale.
        whole_x: True if only whole numbers are marked on the horizontal axis.
    """
    values = np.array([value for line in series for value in line.y], float)
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return element("figure", element("figcaption", element("strong", title)), element("p", "no finite value"))
    y = _vertical(finite, may_be_log=may_be_log)
    xs = [value for line in series for value in line.x]
    x = Scale(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    x_ticks = [tick for tick in x.ticks if not whole_x or tick == round(tick)]
    scale = element("span", " logarithmic scale") if y.is_log else None
    label = f"{title} of {', '.join(line.name for line in series)}: from {finite.min():.4g} to {finite.max():.4g}"
    drawing = element(
        "svg",
        _axes(x, y, x_ticks),
        join(*(_line(line, x, y) for line in series)),
        _texts(series, x),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=label,
        class_="chart",
    )
    caption = element("figcaption", element("strong", title), scale)
    return element("figure", caption, drawing, legend(series) if len(series) > 1 else NOTHING)


def legend(series: Sequence[Series]) -> Html:
    """Return the names of the lines behind a sample of each."""
    return element("ul", *(element("li", sample(line.style), line.name) for line in series), class_="legend")


def sample(style: int) -> Html:
    """Return a short piece of a line of this style."""
    line = element("path", d="M0 5H26", class_=f"curve series-{style % STYLES}")
    return element("svg", line, viewBox="0 0 26 10", class_="sample", aria_hidden="true")


def linear_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return at most ``most`` multiples of 1, 2 or 5 times a power of ten within the range."""
    if not high > low:
        return [low]
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return the powers of ten within the range, every second one or fewer of many."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    step = max(1, (last - first) // 5)
    return [10.0**power for power in range(first, last + 1, step)]


def _vertical(finite: np.ndarray, *, may_be_log: bool) -> Scale:
    low, high = float(finite.min()), float(finite.max())
    bottom, top = HEIGHT - BOTTOM, TOP
    if may_be_log and low > 0 and math.log10(high / low) > MANY_DECADES:
        return Scale(low, high, bottom, top, is_log=True)
    margin = 0.04 * (high - low) or 0.04 * abs(high) or 0.5
    least = 0.0 if low >= 0 > low - margin else low - margin
    return Scale(least, high + margin, bottom, top)


def _axes(x: Scale, y: Scale, x_ticks: Sequence[float]) -> Html:
    parts = []
    for value in y.ticks:
        at = y(value)
        parts.append(element("path", d=f"M{LEFT} {at:.1f}H{WIDTH - RIGHT}", class_="grid"))
        parts.append(element("text", f"{value:.4g}", x=LEFT - 6, y=f"{at + 4:.1f}", text_anchor="end"))
    for value in x_ticks:
        at = x(value)
        anchor = "end" if at > WIDTH - RIGHT - 12 else "middle"
        parts.append(element("text", f"{value:.6g}", x=f"{at:.1f}", y=HEIGHT - 6, text_anchor=anchor))
    parts.append(element("path", d=f"M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}", class_="axis"))
    return join(*parts)


def _line(series: Series, x: Scale, y: Scale) -> Html:
    pieces: list[list[tuple[float, float]]] = [[]]
    for at, value in zip(series.x, series.y, strict=True):
        if not math.isfinite(value):
            pieces.append([])
        else:
            pieces[-1].append((x(at), y(value)))
    style = f"series-{series.style % STYLES}"
    shapes = [
        element("polyline", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in piece), class_=f"curve {style}")
        if len(piece) > 1
        else element("circle", cx=f"{piece[0][0]:.1f}", cy=f"{piece[0][1]:.1f}", r=2.5, class_=f"dot {style}")
        for piece in pieces
        if piece
    ]
    marked = [value for at, value in zip(series.x, series.y, strict=True) if at == series.marked]
    if series.marked is not None and marked and math.isfinite(marked[0]):
        place = {"cx": f"{x(series.marked):.1f}", "cy": f"{y(marked[0]):.1f}"}
        shapes.append(element("circle", r=4.5, class_=f"dot {style}", **place))
    return join(*shapes)


def _texts(series: Sequence[Series], x: Scale) -> Html:
    """Return one invisible stripe per x, which tells the values of all lines there when the pointer rests on it."""
    places = sorted({at for line in series for at in line.x})
    if len(places) > MAX_TEXTS:
        return NOTHING
    step = (WIDTH - LEFT - RIGHT) / max(len(places) - 1, 1)
    stripes = []
    for place in places:
        values = [
            f"{line.name} {value:.4g}"
            for line in series
            for at, value in zip(line.x, line.y, strict=True)
            if at == place
        ]
        title = element("title", f"{place:g}: {', '.join(values)}")
        stripe = element(
            "rect", x=f"{x(place) - step / 2:.1f}", y=TOP, width=f"{step:.1f}", height=HEIGHT - TOP - BOTTOM,
            class_="hit",
        )  # fmt: skip
        stripes.append(element("g", title, stripe))
    return join(*stripes)
