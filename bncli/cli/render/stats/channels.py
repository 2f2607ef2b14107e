"""One BN layer channel by channel, for the terminal.

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

from bncli.cli.render.stats.layers import BINS, HISTOGRAM_STYLE, TITLES
from bncli.cli.render.stats.pictures import histogram
from bncli.cli.render.stats.quantities import (
    QUANTITIES,
    channel_findings,
    drawn_values,
    ends,
    settings_line,
    values_of,
)
from bncli.cli.render.tables import plain_table
from bncli.cli.render.words import counted
from bncli.cli.untrusted import visible

if TYPE_CHECKING:
    from bncli.inspection import StatsReport
    from bncli.inspection.layers import BatchNormArrays

MAX_BINS = 40
# Columns beside the histogram: title, minimum, maximum and median.
BESIDE_HISTOGRAM = 46
# Channels that are shown unless all are asked for.
MAX_CHANNELS = 64


def channels_text(report: StatsReport, number: int, *, everything: bool) -> RenderableType:
    """Return the distributions of a layer's five quantities, and its channels."""
    layer = report.arrays[number]
    head = Text.assemble((visible(layer.name), "bold"), f": {counted(layer.channels, 'channel')}, ")
    codes = channel_findings(report, layer)
    shown = list(range(layer.channels)) if everything else _channels_to_show(layer, codes)
    parts: list[RenderableType] = [head + Text(settings_line([layer])), _Distributions(layer), Text()]
    parts.append(_channel_table(layer, shown, codes))
    if len(shown) < layer.channels:
        rest = (
            f"{len(shown)} of {counted(layer.channels, 'channel')}: those with findings and those whose gain is "
            "farthest from the median; --all for all"
        )
        parts.append(Text(rest, style="dim"))
    return Group(*parts)


def _channels_to_show(layer: BatchNormArrays, codes: Sequence[tuple[str, ...]]) -> list[int]:
    """Return the channels with the most findings, and then those whose log gain is farthest from the median."""
    with np.errstate(invalid="ignore", divide="ignore"):
        gain = np.log(np.abs(layer.gain))
        far = np.abs(gain - np.nanmedian(gain[np.isfinite(gain)])) if np.isfinite(gain).any() else gain
    order = sorted(range(layer.channels), key=lambda channel: (-len(codes[channel]), -np.nan_to_num(far[channel])))
    return sorted(order[:MAX_CHANNELS])


@dataclass(frozen=True)
class _Distributions:
    """A table of one line per quantity, with a histogram as wide as the terminal allows."""

    layer: BatchNormArrays

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        most = min(MAX_BINS, options.max_width - BESIDE_HISTOGRAM)
        yield self._table(max(min(self.layer.channels // 4, most), BINS))

    def _table(self, bins: int) -> Table:
        table = plain_table("", "min")
        table.add_column("", no_wrap=True)
        table.add_column("max", no_wrap=True)
        table.add_column("median", justify="right", no_wrap=True)
        for quantity in QUANTITIES:
            drawn = drawn_values(self.layer, quantity)
            if drawn is not None:
                low, median, high = ends(values_of(self.layer, quantity))
                picture = Text(histogram(drawn, bins), style=HISTOGRAM_STYLE)
                table.add_row(TITLES[quantity], low, picture, high, median)
        return table


def _channel_table(layer: BatchNormArrays, channels: Sequence[int], codes: Sequence[tuple[str, ...]]) -> Table:
    present = [(name, values) for name in QUANTITIES if (values := values_of(layer, name)) is not None]
    titles = [TITLES[name].split()[0] for name, _ in present]
    with_findings = any(codes[channel] for channel in channels)
    last = ["findings"] if with_findings else []
    table = plain_table("channel", *titles, *last, words=("findings",))
    table.columns[0].justify = "right"
    for channel in channels:
        numbers = [f"{values[channel]:.3g}" for _, values in present]
        found = [Text(", ".join(codes[channel]), style="yellow")] if with_findings else []
        table.add_row(str(channel), *numbers, *found)
    return table
