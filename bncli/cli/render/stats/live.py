"""What data show, as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bncli.cli.render.base import plain_table
from bncli.cli.render.stats.blocks import Name, level, short, visible

if TYPE_CHECKING:
    from bncli.inspection.live_report import LayerLive, LiveReport

# A full bar: outputs in the two modes that differ by their own standard deviation have nothing in common.
FULL_GAP = 1.0
BAR_WIDTH = 12


def live_text(data: LiveReport, *, limit: int | None) -> RenderableType:
    """The scores in both modes, and how far each layer's statistics and outputs are off.

    Args:
        data: what was found.
        limit: how many layers to show, the worst ones, in the order of the forward pass; None for all.
    """
    layers = _worst(data, limit)
    head = (
        f"{visible(data.dataset)}: statistics against {data.num_examples:,} training images, "
        f"scores on {data.num_val:,} validation images"
    )
    parts: list[RenderableType] = [Text(head, style="dim"), _scores(data), Text(), _layers_table(data, layers)]
    if len(layers) < len(data.layers):
        parts.append(Text(f"the worst {len(layers)} of {len(data.layers)} layers; --all for all", style="dim"))
    return Group(*parts)


def _scores(data: LiveReport) -> Table:
    table = plain_table("statistics", "accuracy", "", "loss", words=("statistics", ""))
    rows = [("running (eval mode)", data.running.accuracy, data.running.loss)]
    rows += [(f"of batches of {score.batch_size}", score.accuracy, score.loss) for score in data.by_batch_size]
    for name, accuracy, loss in rows:
        table.add_row(name, f"{accuracy:.4f}", Text(level(accuracy, BAR_WIDTH), style="cyan"), f"{loss:.4f}")
    return table


def _layers_table(data: LiveReport, layers: Sequence[LayerLive]) -> Table:
    table = plain_table("BN layer", "mean off by", "std ratio", "worst", "output gap", "", words=("BN layer", ""))
    table.columns[0].no_wrap = False
    for layer in layers:
        first = layer.name == data.first_apart
        bar = Text(level(layer.output_gap / FULL_GAP, BAR_WIDTH), style="red" if first else "cyan")
        numbers = (layer.drift.distance, layer.drift.std_ratio, layer.drift.worst_std_ratio, layer.output_gap)
        table.add_row(Name(layer.name, "red" if first else ""), *map(short, numbers), bar)
    table.caption = _caption(data)
    table.caption_justify = "left"
    table.caption_style = ""
    return table


def _caption(data: LiveReport) -> Text:
    explained = "means and gaps in standard deviations; running std / true std"
    if data.first_apart is None:
        return Text.assemble((explained, "dim"), "\n", ("train mode and eval mode part nowhere", "green"))
    return Text.assemble(
        (explained, "dim"), "\ntrain mode and eval mode part first at ", (visible(data.first_apart), "bold red")
    )


def _worst(data: LiveReport, limit: int | None) -> list[LayerLive]:
    """The layer where the modes part, and those with the largest gaps; in the order of the forward pass."""
    if limit is None or len(data.layers) <= limit:
        return list(data.layers)
    order = sorted(data.layers, key=lambda layer: (layer.name != data.first_apart, -_size(layer.output_gap)))
    chosen = {layer.name for layer in order[:limit]}
    return [layer for layer in data.layers if layer.name in chosen]


def _size(gap: float) -> float:
    return gap if gap == gap else float("inf")
