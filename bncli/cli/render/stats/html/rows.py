"""Everything a report knows about one layer, gathered in one row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bncli.inspection import Finding, StatsReport
    from bncli.inspection.history import LayerHistory
    from bncli.inspection.layers import BatchNormArrays, LayerStats
    from bncli.inspection.live_report import LayerLive


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """One layer of the report.

    Attributes:
        number: its place in the network, from 0.
        stats: its summary.
        arrays: its numbers.
        findings: its findings, the most severe first.
        live: its measurements on data; None if there are none.
        history: its course over the epochs; None if it was not recorded.
    """

    number: int
    stats: LayerStats
    arrays: BatchNormArrays
    findings: tuple[Finding, ...]
    live: LayerLive | None
    history: LayerHistory | None


def layer_rows(report: StatsReport) -> list[LayerRow]:
    """Return a row per layer, in the order of the network."""
    live = {layer.name: layer for layer in report.data.layers} if report.data is not None else {}
    history = {layer.name: layer for layer in report.history or ()}
    pairs = zip(report.layers, report.arrays, strict=True)
    return [
        LayerRow(
            number=number,
            stats=stats,
            arrays=arrays,
            findings=report.of_layer(stats.name),
            live=live.get(stats.name),
            history=history.get(stats.name),
        )
        for number, (stats, arrays) in enumerate(pairs)
    ]
