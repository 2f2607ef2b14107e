"""The layers over the epochs of a training, as charts of characters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.columns import Columns
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from bncli.cli.render.stats.pictures import curves
from bncli.cli.render.words import short, shorten
from bncli.cli.untrusted import visible

if TYPE_CHECKING:
    from bncli.inspection.history import LayerHistory, Track

# Charts side by side on a terminal that is wide enough for their shortest form.
MAX_IN_LINE = 3
CHART_WIDTHS = (10, 32)
CHART_HEIGHT = 4
AXIS = "┤"
# Of the numbers on the axis, and the axis itself.
LABEL_WIDTH = 7
LEFT_WIDTH = LABEL_WIDTH + len(AXIS)


def history_text(layers: Sequence[LayerHistory], *, total: int) -> RenderableType:
    """Return a chart per layer and quantity, each with three percentiles.

    Args:
        layers: the layers to show.
        total: the number of layers that have a history.
    """
    has_statistics = any(layer.mean is not None for layer in layers)
    parts: list[RenderableType] = [_head(layers[0].epochs, has_statistics=has_statistics)]
    if has_statistics:
        parts += [_layer_charts(layer) for layer in layers]
    else:
        parts.append(_SideBySide([_Chart(Text(visible(layer.name), style="bold"), layer.output) for layer in layers]))
    if len(layers) < total:
        single = ", --layer NAME for one" if has_statistics else ""
        parts.append(Text(f"{len(layers)} of {total} layers; --all for all{single}", style="dim"))
    return Group(*parts)


def epochs_phrase(epochs: Sequence[int]) -> str:
    """Return the recorded epochs: "epoch 1", "epochs 1–20"."""
    return f"epoch {epochs[0]}" if len(epochs) == 1 else f"epochs {epochs[0]}–{epochs[-1]}"


def tracks_of(layer: LayerHistory) -> dict[str, Track]:
    """Return the recorded quantities by their titles."""
    tracks = {"output": layer.output, "running mean": layer.mean, "running var": layer.var}
    return {title: track for title, track in tracks.items() if track is not None}


def _head(epochs: Sequence[int], *, has_statistics: bool) -> Text:
    statistics = " and of its running statistics over channels" if has_statistics else ""
    return Text.assemble(
        f"{epochs_phrase(epochs)}: ",
        ("15th, 50th and 85th percentile", "bold"),
        f" of each layer's outputs (train mode, the same images in every epoch){statistics}",
    )


def _layer_charts(layer: LayerHistory) -> RenderableType:
    charts = [_Chart(Text(title, style="dim"), track, indent=LEFT_WIDTH) for title, track in tracks_of(layer).items()]
    return Group(Text(visible(layer.name), style="bold"), _SideBySide(charts))


@dataclass(frozen=True)
class _Chart:
    """The curves of one track under a title, which is indented as far as the width allows."""

    title: Text
    track: Track
    indent: int = 0

    def text(self, width: int) -> Text:
        """Return the chart in ``width`` columns, with the range of the curves on the left."""
        lines, low, high = curves(
            (self.track.p15, self.track.p50, self.track.p85), max(width - LEFT_WIDTH, 1), CHART_HEIGHT
        )
        ends = {0: short(high), CHART_HEIGHT - 1: short(low)}
        title = shorten(self.title.plain, width)
        text = Text(" " * min(self.indent, width - cell_len(title)), no_wrap=True)
        text.append(title, style=self.title.style)
        for number, line in enumerate(lines):
            text.append(f"\n{ends.get(number, ''):>{LABEL_WIDTH}}{AXIS}", style="dim")
            text.append(line, style="cyan")
        return text


@dataclass(frozen=True)
class _SideBySide:
    """Charts of equal width with as many in a line as fit."""

    charts: Sequence[_Chart]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        least, most = CHART_WIDTHS
        share = options.max_width // MAX_IN_LINE - 1  # a blank beside each
        width = min(max(share, LEFT_WIDTH + least), LEFT_WIDTH + most)
        yield Columns([chart.text(width) for chart in self.charts], width=width, padding=(0, 1))
