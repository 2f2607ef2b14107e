"""Plots as inline SVG. They contain no text, because they are stretched to the available width.

Colours are classes of the style sheet, so that a plot follows the reader's light or dark mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from bncli.cli.render.html.markup import NOTHING, Html, element, join
from bncli.cli.render.stats.pictures import counts

WIDTH, HEIGHT = 240, 60
BINS = 30
# Of a picture in a table cell.
SMALL_BINS = 14


def histogram(values: np.ndarray, label: str, *, bins: int = BINS, with_median: bool = True) -> Html:
    """Draw the distribution of the finite values over their range, with a line at the median."""
    numbers = counts(values, bins)
    finite = values[np.isfinite(values)]
    bars = NOTHING
    if finite.size:
        bars = element("path", d=_bars(numbers / numbers.max()), class_="bars")
    median = _median_line(finite) if with_median else NOTHING
    base = element("path", d=f"M0 {HEIGHT}H{WIDTH}", class_="axis")
    return _plot(label, bars, base, median)


def _bars(shares: np.ndarray) -> str:
    """Return one path of bars side by side, with gaps of a fifth between them."""
    step = WIDTH / len(shares)
    parts = []
    for number, share in enumerate(shares):
        if share > 0:
            height = max(share * (HEIGHT - 4), 1.5)
            parts.append(f"M{number * step + 0.1 * step:.1f} {HEIGHT}v-{height:.1f}h{0.8 * step:.1f}v{height:.1f}z")
    return "".join(parts)


def _median_line(finite: np.ndarray) -> Html:
    if finite.size == 0 or not finite.max() > finite.min():
        return NOTHING
    x = (np.median(finite) - finite.min()) / (finite.max() - finite.min()) * WIDTH
    return element("path", d=f"M{x:.1f} 0V{HEIGHT}", class_="median")


def band(low: Sequence[float], middle: Sequence[float], high: Sequence[float], label: str) -> Html:
    """Draw a median over equally spaced points, in the band between two percentiles.

    There is a gap at each point that is not finite.
    """
    values = np.array([low, middle, high], float)
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return _plot(label)
    ys = _heights(values, float(finite.min()), float(finite.max()))
    xs = np.linspace(0, WIDTH, len(middle)) if len(middle) > 1 else np.array([0.0, WIDTH])
    ys = ys if len(middle) > 1 else np.repeat(ys, 2, axis=1)
    shapes = []
    for start, stop in _finite_runs(np.isfinite(ys).all(axis=0)):
        x, (below, center, above) = xs[start:stop], ys[:, start:stop]
        around = _points(np.concatenate([x, x[::-1]]), np.concatenate([above, below[::-1]]))
        shapes.append(element("polygon", points=around, class_="band"))
        shapes.append(element("polyline", points=_points(x, center), class_="line"))
    return _plot(label, *shapes)


def _heights(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return y coordinates, which point down in SVG, with a margin for the line's width."""
    span = high - low
    shares = (values - low) / span if np.isfinite(span) and span > 0 else np.where(np.isfinite(values), 0.5, np.nan)
    return 2 + (1 - shares) * (HEIGHT - 4)


def _finite_runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """Return (start, stop) of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(int)))
    return [(int(start), int(stop)) for start, stop in list(pairwise(edges))[::2]]


def _points(x: np.ndarray, y: np.ndarray) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))


def columns(values: Sequence[float], titles: Sequence[str], *, marked: int | None, limit: float, label: str) -> Html:
    """Draw one column per value, those from ``marked`` on in another colour, and a line at ``limit``.

    Args:
        values: the heights; one that is not finite reaches the top.
        titles: one per column, shown when the pointer rests on it.
        marked: the number of the first column to mark; None for none.
        limit: the height of the line, in the unit of the values.
        label: a description for readers who cannot see the plot.
    """
    array = np.array(values, float)
    top = max(float(array[np.isfinite(array)].max(initial=0.0)), limit) * 1.08
    step = WIDTH / len(array)
    shapes = []
    for number, (value, title) in enumerate(zip(array, titles, strict=True)):
        height = HEIGHT * (min(value / top, 1.0) if np.isfinite(value) else 1.0)
        column = element("title", title)
        kind = "bars marked" if marked is not None and number >= marked else "bars"
        x, width = number * step + 0.1 * step, 0.8 * step
        # The whole height reacts to the pointer, however small the column is.
        hit = element("rect", x=f"{x:.2f}", y=0, width=f"{width:.2f}", height=HEIGHT, class_="hit")
        rect = element(
            "rect", x=f"{x:.2f}", y=f"{HEIGHT - height:.1f}", width=f"{width:.2f}", height=f"{height:.1f}", class_=kind
        )
        shapes.append(element("g", column, hit, rect))
    y = HEIGHT * (1 - limit / top)
    shapes.append(element("path", d=f"M0 {y:.1f}H{WIDTH}", class_="limit"))
    return _plot(label, *shapes)


def share_bar(share: float, label: str) -> Html:
    """Draw a horizontal bar of 0 to 1."""
    width = f"{100 * min(max(share, 0.0), 1.0):.2f}"
    track = element("rect", width=100, height=8, rx=1, class_="track")
    return element(
        "svg",
        track,
        element("rect", width=width, height=8, rx=1, class_="bars"),
        viewBox="0 0 100 8",
        preserveAspectRatio="none",
        class_="share",
        role="img",
        aria_label=label,
    )


def _plot(label: str, *shapes: Html) -> Html:
    return element(
        "svg",
        join(*shapes),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        preserveAspectRatio="none",
        role="img",
        aria_label=label,
        class_="plot",
    )
