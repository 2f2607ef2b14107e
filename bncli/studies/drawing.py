"""The figures of a study as SVG and PNG. The only module that imports Matplotlib, which the extra bncli[study] brings.

The colours are those of Okabe & Ito (2008), which people of every colour vision can tell apart; lines differ by dash
and marker too. A figure is drawn for a screen of 400 pixels.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from bncli.studies.experiment import Figure, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
INK, GRID, PAPER = "#1d2024", "#d3d5d9", "#fefefe"
_DASHES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D")
_SIZE = (4.6, 3.3)  # inches
_DPI = 200
_BAND = 0.18
# More points than these are a line without markers.
_FEW = 16
# Coordinates have more digits than a screen has.
_LONG_NUMBER = re.compile(r"(?<![\w.])\d+\.\d{3,}(?![\w.])")


@dataclass(frozen=True)
class Picture:
    """A drawn figure."""

    svg: str
    png: bytes


def is_available() -> bool:
    """True if Matplotlib is installed."""
    return find_spec("matplotlib") is not None


def draw(figure: Figure) -> Picture:
    """Draw a figure; the same data give the same bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    with _style(figure.name):
        canvas = Canvas(figsize=_SIZE, layout="constrained")
        FigureCanvasAgg(canvas)
        axes = canvas.add_subplot()
        for number, series in enumerate(figure.series):
            _draw_series(axes, series, number)
        _label(axes, figure)
        svg, png = io.StringIO(), io.BytesIO()
        canvas.savefig(svg, format="svg", metadata={"Date": None, "Title": figure.title})
        canvas.savefig(png, format="png", dpi=_DPI, metadata={"Software": None})
    return Picture(_LONG_NUMBER.sub(lambda found: f"{float(found.group()):.2f}", svg.getvalue()), png.getvalue())


@contextmanager
def _style(salt: str) -> Iterator[None]:
    import matplotlib as mpl

    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
        "font.family": "sans-serif",
        "font.size": 10,
        "axes.titlesize": 11,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "grid.linewidth": 0.6,
        "figure.facecolor": PAPER,
        "axes.facecolor": PAPER,
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
        "legend.frameon": False,
    }
    with mpl.rc_context(settings):
        yield


def _draw_series(axes: Axes, series: Series, number: int) -> None:
    colour = COLOURS[number % len(COLOURS)]
    marker = _MARKERS[number % len(_MARKERS)] if len(series.x) <= _FEW else None
    dash = _DASHES[number % len(_DASHES)]
    axes.plot(series.x, series.y, dash, color=colour, marker=marker, markersize=4, linewidth=1.8, label=series.label)
    if series.low is not None and series.high is not None:
        axes.fill_between(series.x, series.low, series.high, color=colour, alpha=_BAND, linewidth=0)
    if series.crosses:
        height = 0.03 + 0.05 * number
        across = axes.get_xaxis_transform()
        places = [height] * len(series.crosses)
        axes.plot(series.crosses, places, "x", color=colour, transform=across, markersize=7, markeredgewidth=2)


def _label(axes: Axes, figure: Figure) -> None:
    axes.set_title(figure.title, loc="left")
    axes.set_xlabel(figure.x)
    axes.set_ylabel(figure.y)
    if figure.x_log:
        axes.set_xscale("log", base=int(figure.x_log))
    if figure.y_log and any(value > 0 and math.isfinite(value) for series in figure.series for value in series.y):
        axes.set_yscale("log")
    if len(figure.series) > 1:
        axes.legend(fontsize=9)
