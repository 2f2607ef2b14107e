"""The table of BN layers, and one layer channel by channel.

Letters: C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from bncli.cli.render.base import plain_table
from bncli.cli.render.stats.blocks import Name, histogram, short, visible
from bncli.cli.render.stats.findings import MARKS

if TYPE_CHECKING:
    from bncli.inspection import StatsReport
    from bncli.inspection.layers import BatchNormArrays

# From this width on all five quantities are shown, below it the two that break first.
WIDE = 132
NARROW_QUANTITIES = ("var", "scale")
QUANTITIES = ("mean", "var", "scale", "bias", "gain")
TITLES = {"bias": "β", "gain": "gain", "mean": "mean", "scale": "γ", "var": "var (log scale)"}
BINS = 8
# Of one layer shown alone.
WIDE_BINS = 40
# Channels of a layer that are shown unless all are asked for.
MAX_CHANNELS = 64
HISTOGRAM_STYLE = "cyan"


def quantity(layer: BatchNormArrays, name: str) -> np.ndarray | None:
    """One of ``QUANTITIES`` of a layer, [C]; None where the layer has none."""
    values: np.ndarray | None = getattr(layer, name)
    return values


def plotted(layer: BatchNormArrays, name: str) -> np.ndarray | None:
    """The same as it is drawn: variances, which span orders of magnitude, as log10(σ² + ε), without negative ones."""
    values = quantity(layer, name)
    if values is None or name != "var":
        return values
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.log10(values + layer.epsilon)


@dataclass(frozen=True)
class LayersTable:
    """One line a layer: the spread and the distribution of what the width has room for, and the largest gain.

    Attributes:
        report: of which layers are shown.
        numbers: which ones, in this order.
    """

    report: StatsReport
    numbers: Sequence[int]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table for the width at hand."""
        yield self._table(QUANTITIES if options.max_width >= WIDE else NARROW_QUANTITIES)

    def _table(self, quantities: Sequence[str]) -> Table:
        table = plain_table("BN layer", "C", words=("BN layer",))
        table.columns[0].no_wrap = False
        for name in quantities:
            table.add_column(Text(TITLES[name]), justify="center", no_wrap=True)
        if "gain" not in quantities:
            table.add_column("gain ≤", justify="right", no_wrap=True)
        spreads = [_spreads([self.report.arrays[number] for number in self.numbers], name) for name in quantities]
        for place, number in enumerate(self.numbers):
            row = self.report.layers[number]
            cells: list[RenderableType] = [spread[place] for spread in spreads]
            if "gain" not in quantities:
                cells.append(short(_largest(row.gain.min, row.gain.max)))
            table.add_row(marked_name(self.report, row.name), str(row.channels), *cells)
        return table


def marked_name(report: StatsReport, name: str) -> Name:
    """The layer's name behind the mark of its gravest finding."""
    found = report.of_layer(name)
    mark, colour = MARKS[found[0].severity] if found else (" ", "")
    return Name(f"{mark} {name}", colour)


def _largest(low: float | None, high: float | None) -> float | None:
    return None if low is None or high is None else max(abs(low), abs(high))


def _spreads(layers: Sequence[BatchNormArrays], name: str) -> list[Text]:
    """``least ▁▃█▂ greatest`` of each layer, the pictures below one another."""
    ends = [_ends(quantity(layer, name)) for layer in layers]
    left = max((len(low) for low, _ in ends), default=0)
    right = max((len(high) for _, high in ends), default=0)
    texts = []
    for layer, (low, high) in zip(layers, ends, strict=True):
        values = plotted(layer, name)
        picture = " " * BINS if values is None else histogram(values, BINS)
        texts.append(Text.assemble(low.rjust(left), " ", (picture, HISTOGRAM_STYLE), " ", high.ljust(right)))
    return texts


def _ends(values: np.ndarray | None) -> tuple[str, str]:
    finite = values[np.isfinite(values)] if values is not None else np.array([])
    return (short(float(finite.min())), short(float(finite.max()))) if finite.size else ("–", "")


def settings_line(layers: Sequence[BatchNormArrays]) -> str:
    """ε and momentum of all layers: "ε = 1e-05, momentum 0.9"."""
    settings = dict.fromkeys((layer.epsilon, layer.momentum) for layer in layers)
    texts = [
        f"ε = {epsilon:g}, momentum {'unknown' if momentum is None else f'{momentum:g}'}"
        for epsilon, momentum in settings
    ]
    return "; ".join(texts[:4]) + ("; …" if len(texts) > 4 else "")


def channels_text(report: StatsReport, number: int, *, everything: bool) -> RenderableType:
    """One layer: the distributions of its five quantities, and its channels."""
    layer = report.arrays[number]
    head = Text.assemble((visible(layer.name), "bold"), f": {layer.channels} channels, {settings_line([layer])}")
    flags = channel_flags(report, layer)
    shown = list(range(layer.channels)) if everything else _channels_to_show(layer, flags)
    parts: list[RenderableType] = [head, _distributions(layer), Text(), _channel_table(layer, shown, flags)]
    if len(shown) < layer.channels:
        parts.append(
            Text(
                f"{len(shown)} of {layer.channels} channels: those with findings and those whose gain is farthest from "
                "the median; --all for all",
                style="dim",
            )
        )
    return Group(*parts)


def channel_flags(report: StatsReport, layer: BatchNormArrays) -> list[tuple[str, ...]]:
    """Codes of the findings that concern a channel, for each channel; those of the whole layer are not repeated."""
    flags: list[list[str]] = [[] for _ in range(layer.channels)]
    for finding in report.of_layer(layer.name):
        for channel in finding.channels:
            if channel < layer.channels:
                flags[channel].append(finding.code)
    return [tuple(codes) for codes in flags]


def _channels_to_show(layer: BatchNormArrays, flags: Sequence[tuple[str, ...]]) -> list[int]:
    with np.errstate(invalid="ignore", divide="ignore"):
        gain = np.log(np.abs(layer.gain))
        far = np.abs(gain - np.nanmedian(gain[np.isfinite(gain)])) if np.isfinite(gain).any() else gain
    order = sorted(range(layer.channels), key=lambda channel: (-len(flags[channel]), -np.nan_to_num(far[channel])))
    return sorted(order[:MAX_CHANNELS])


def _distributions(layer: BatchNormArrays) -> Table:
    table = plain_table("", "min", "", "max", "median", words=("",))
    for name in QUANTITIES:
        values, drawn = quantity(layer, name), plotted(layer, name)
        if values is None or drawn is None:
            continue
        low, high = _ends(values)
        finite = values[np.isfinite(values)]
        median = short(float(np.median(finite))) if finite.size else "–"
        picture = histogram(drawn, min(max(layer.channels // 4, BINS), WIDE_BINS))
        table.add_row(TITLES[name], low, Text(picture, style=HISTOGRAM_STYLE), high, median)
    return table


def _channel_table(layer: BatchNormArrays, channels: Sequence[int], flags: Sequence[tuple[str, ...]]) -> Table:
    present = [(name, values) for name in QUANTITIES if (values := quantity(layer, name)) is not None]
    titles = [TITLES[name].split()[0] for name, _ in present]
    table = plain_table("channel", *titles, "findings", words=("findings",))
    table.columns[0].justify = "right"
    for channel in channels:
        numbers = [f"{values[channel]:.3g}" for _, values in present]
        table.add_row(str(channel), *numbers, Text(", ".join(flags[channel]), style="yellow"))
    return table
