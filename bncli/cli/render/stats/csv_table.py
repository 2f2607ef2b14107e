"""A report as CSV, as ``pandas.read_csv`` expects it: one header line, "." in numbers, empty where there is none.

Numbers are written so that they read back as the same float64; NaN and infinity as "nan", "inf" and "-inf".
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bncli.cli.render.stats.layers import QUANTITIES, channel_flags, quantity

if TYPE_CHECKING:
    from bncli.inspection import StatsReport
    from bncli.inspection.comparison import Comparison
    from bncli.inspection.layers import LayerStats, Summary

_SUMMARY = ("min", "median", "max")
LAYER_COLUMNS = (
    *("layer", "channels", "epsilon", "momentum"),
    *(f"{name}_{end}" for name in QUANTITIES for end in _SUMMARY),
    *("dead_channels", "nonfinite", "severity", "findings"),
)
DATA_COLUMNS = ("drift_distance", "drift_std_ratio", "drift_worst_std_ratio", "output_gap")
CHANNEL_COLUMNS = ("layer", "channel", *QUANTITIES, "findings")
CHANGE_COLUMNS = (
    *("layer", "channels", "same", "mean_shift", "var_ratio", "worst_var_ratio", "scale_change", "bias_change"),
    *("gain_ratio", "epsilon_a", "epsilon_b", "momentum_a", "momentum_b"),
)


def stats_csv(report: StatsReport, *, by_channel: bool = False) -> str:
    """One row a layer, or one a channel; codes of findings are separated by spaces."""
    if by_channel:
        return _csv(CHANNEL_COLUMNS, _channel_rows(report))
    columns = LAYER_COLUMNS if report.data is None else (*LAYER_COLUMNS, *DATA_COLUMNS)
    return _csv(columns, (_layer_row(report, row) for row in report.layers))


def comparison_csv(comparison: Comparison) -> str:
    """One row a layer that both have."""
    rows = (
        {name: getattr(change, name, None) for name in CHANGE_COLUMNS}
        | {"layer": change.name}
        | dict(zip(("epsilon_a", "epsilon_b"), change.epsilon, strict=True))
        | dict(zip(("momentum_a", "momentum_b"), change.momentum, strict=True))
        for change in comparison.layers
    )
    return _csv(CHANGE_COLUMNS, rows)


def _layer_row(report: StatsReport, row: LayerStats) -> dict[str, Any]:
    found = report.of_layer(row.name)
    cells: dict[str, Any] = {
        "layer": row.name,
        "channels": row.channels,
        "epsilon": row.epsilon,
        "momentum": row.momentum,
        "dead_channels": len(row.dead_channels),
        "nonfinite": row.nonfinite,
        "severity": found[0].severity if found else None,
        "findings": " ".join(finding.code for finding in found),
    }
    for name in QUANTITIES:
        cells |= _summary(name, getattr(row, name))
    return cells | _data_cells(report, row.name)


def _summary(name: str, summary: Summary | None) -> dict[str, Any]:
    return {f"{name}_{end}": getattr(summary, end, None) for end in _SUMMARY}


def _data_cells(report: StatsReport, name: str) -> dict[str, Any]:
    for layer in report.data.layers if report.data is not None else ():
        if layer.name == name:
            drift = layer.drift
            numbers = (drift.distance, drift.std_ratio, drift.worst_std_ratio, layer.output_gap)
            return dict(zip(DATA_COLUMNS, numbers, strict=True))
    return {}


def _channel_rows(report: StatsReport) -> Iterator[dict[str, Any]]:
    for layer in report.arrays:
        flags = channel_flags(report, layer)
        arrays = {name: quantity(layer, name) for name in QUANTITIES}
        for channel in range(layer.channels):
            numbers = {name: float(values[channel]) for name, values in arrays.items() if values is not None}
            yield {"layer": layer.name, "channel": channel, **numbers, "findings": " ".join(flags[channel])}


def _csv(columns: Sequence[str], rows: Iterator[Mapping[str, Any]]) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()
