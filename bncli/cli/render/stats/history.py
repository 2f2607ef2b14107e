"""How layers moved over the epochs, as charts of characters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bncli.cli.render.stats.blocks import curves, short, visible

if TYPE_CHECKING:
    from bncli.inspection.history import LayerHistory, Track

CHART_WIDTH = 16
CHART_HEIGHT = 4
AXIS = "┤"


def history_text(layers: Sequence[LayerHistory], *, total: int) -> RenderableType:
    """Three charts a layer: its outputs, running means and running variances, each with three percentiles."""
    epochs = layers[0].epochs
    head = Text.assemble(
        f"epochs {epochs[0]}–{epochs[-1]}: ",
        ("15th, 50th and 85th percentile", "bold"),
        " of each layer's outputs (train mode, always the same images) and of its running statistics over channels",
    )
    parts: list[RenderableType] = [head]
    parts += [_layer_charts(layer) for layer in layers]
    if len(layers) < total:
        parts.append(Text(f"{len(layers)} of {total} layers; --all for all, --layer NAME for one", style="dim"))
    return Group(*parts)


def _layer_charts(layer: LayerHistory) -> RenderableType:
    tracks = {"output": layer.output, "running mean": layer.mean, "running var": layer.var}
    grid = Table.grid(padding=(0, 1))
    known = [(title, track) for title, track in tracks.items() if track is not None]
    grid.add_row(*(Text(f"{' ' * 8}{title}", style="dim") for title, _ in known))
    grid.add_row(*(_chart(track) for _, track in known))
    return Group(Text(visible(layer.name), style="bold"), grid)


def _chart(track: Track) -> Text:
    """The curves with the range on the left."""
    lines, low, high = curves((track.p15, track.p50, track.p85), CHART_WIDTH, CHART_HEIGHT)
    ends = {0: short(high), CHART_HEIGHT - 1: short(low)}
    text = Text(no_wrap=True)
    for number, line in enumerate(lines):
        text.append(f"{ends.get(number, ''):>7}{AXIS}", style="dim")
        text.append(line, style="cyan")
        text.append("\n" if number < len(lines) - 1 else "")
    return text
