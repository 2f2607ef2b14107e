"""The measurements on data, as text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bncli.cli.render.stats.pictures import level
from bncli.cli.render.tables import FirstFitting, Name, plain_table
from bncli.cli.render.words import counted, distinct_width, short
from bncli.cli.untrusted import visible

if TYPE_CHECKING:
    from bncli.inspection.live_report import LayerLive, LiveReport

# A full bar: the outputs in the two modes differ by their own standard deviation and have nothing in common.
FULL_GAP = 1.0
BAR_WIDTH = 12


def live_text(data: LiveReport, *, limit: int | None) -> RenderableType:
    """Return the scores in both modes, and the errors of each layer's statistics and outputs.

    Args:
        data: the measurements.
        limit: the number of layers to show, the worst ones in the order of the forward pass; None for all.
    """
    layers = _worst(data, limit)
    parts: list[RenderableType] = [Text(about(data), style="dim"), _scores(data), Text()]
    parts += [_layers_table(data, layers), _caption(data)]
    if len(layers) < len(data.layers):
        parts.append(Text(f"the worst {len(layers)} of {len(data.layers)} layers; --all for all", style="dim"))
    return Group(*parts)


def about(data: LiveReport) -> str:
    """Return the images that were used, for statistics and for scores."""
    return (
        f"{visible(data.dataset)}: statistics of {counted(data.num_examples, 'training image')}, "
        f"scores on {counted(data.num_val, 'validation image')}"
    )


def _scores(data: LiveReport) -> Table:
    table = plain_table("statistics", "accuracy")
    table.add_column("")
    table.add_column("loss", justify="right", no_wrap=True)
    rows = [("running (eval mode)", data.running.accuracy, data.running.loss)]
    rows += [(f"of batches of {score.batch_size}", score.accuracy, score.loss) for score in data.by_batch_size]
    for name, accuracy, loss in rows:
        table.add_row(name, f"{accuracy:.4f}", Text(level(accuracy, BAR_WIDTH), style="cyan"), f"{loss:.4f}")
    return table


@dataclass(frozen=True)
class _Form:
    """The columns of one form of the table of layers."""

    with_worst: bool
    with_bar: bool


# From the widest form of the table to the narrowest.
_FORMS = (
    _Form(with_worst=True, with_bar=True),
    _Form(with_worst=True, with_bar=False),
    _Form(with_worst=False, with_bar=False),
)


def _layers_table(data: LiveReport, layers: Sequence[LayerLive]) -> RenderableType:
    return FirstFitting([partial(_table, data, layers, form) for form in _FORMS])


def _table(data: LiveReport, layers: Sequence[LayerLive], form: _Form) -> Table:
    worst = ["worst"] if form.with_worst else []
    table = plain_table("BN layer", "mean off by", "std ratio", *worst, "output gap")
    if form.with_bar:
        table.add_column("", min_width=BAR_WIDTH)
    room = distinct_width(layer.name for layer in layers)
    for layer in layers:
        is_first = layer.name == data.first_apart
        numbers = [layer.drift.distance, layer.drift.std_ratio]
        numbers += [layer.drift.worst_std_ratio] if form.with_worst else []
        bar = Text(level(layer.output_gap / FULL_GAP, BAR_WIDTH), style="red" if is_first else "cyan")
        table.add_row(
            Name(layer.name, "red" if is_first else "", room=room),
            *map(short, [*numbers, layer.output_gap]),
            *([bar] if form.with_bar else []),
        )
    return table


def _caption(data: LiveReport) -> Text:
    units = ("means and gaps in standard deviations; std ratio is running std / true std\n", "dim")
    if data.first_apart is None:
        return Text.assemble(units, ("train mode and eval mode diverge at no layer", "green"))
    return Text.assemble(units, "train mode and eval mode first diverge at ", (visible(data.first_apart), "bold red"))


def _worst(data: LiveReport, limit: int | None) -> list[LayerLive]:
    """Return the layer where the modes diverge and those with the largest gaps, in the order of the forward pass."""
    if limit is None or len(data.layers) <= limit:
        return list(data.layers)
    order = sorted(data.layers, key=lambda layer: (layer.name != data.first_apart, -_size(layer.output_gap)))
    chosen = {layer.name for layer in order[:limit]}
    return [layer for layer in data.layers if layer.name in chosen]


def _size(gap: float) -> float:
    """Return the gap, with NaN as the largest."""
    return math.inf if math.isnan(gap) else gap
