"""A report as CSV, as ``pandas.read_csv`` expects it: one header line, "." in numbers, empty cells for None.

Numbers read back as the same float64. NaN and infinity are written as "nan", "inf" and "-inf". A name that a
spreadsheet would take for a formula follows an apostrophe.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from bncli.cli.render.stats.quantities import QUANTITIES, channel_findings, summary_of, values_of
from bncli.cli.untrusted import csv_cell

if TYPE_CHECKING:
    from bncli.inspection import LayerStats, StatsReport
    from bncli.inspection.comparison import Comparison, LayerChange
    from bncli.inspection.layers import Summary
    from bncli.inspection.live_report import LayerLive

Cells: TypeAlias = Mapping[str, object]

_SUMMARY = ("min", "median", "max")
LAYER_COLUMNS = (
    *("layer", "channels", "epsilon", "momentum"),
    *(f"{quantity}_{end}" for quantity in QUANTITIES for end in _SUMMARY),
    *("dead_channels", "nonfinite", "severity", "findings"),
)
DATA_COLUMNS = ("drift_distance", "drift_std_ratio", "drift_worst_std_ratio", "output_gap")
CHANNEL_COLUMNS = ("layer", "channel", *QUANTITIES, "findings")
CHANGE_COLUMNS = (
    *("layer", "channels", "same", "mean_shift", "var_ratio", "worst_var_ratio", "scale_change", "bias_change"),
    *("gain_ratio", "epsilon_a", "epsilon_b", "momentum_a", "momentum_b"),
)


def stats_csv(report: StatsReport, *, by_channel: bool = False) -> str:
    """Return one row per layer, or one per channel; the codes of findings are separated by spaces."""
    if by_channel:
        return _csv(CHANNEL_COLUMNS, _channel_rows(report))
    columns = LAYER_COLUMNS if report.data is None else (*LAYER_COLUMNS, *DATA_COLUMNS)
    live = {layer.name: layer for layer in report.data.layers} if report.data is not None else {}
    rows = ({**_layer_cells(report, row), **_data_cells(live.get(row.name))} for row in report.layers)
    return _csv(columns, rows)


def comparison_csv(comparison: Comparison) -> str:
    """Return one row per layer that both checkpoints have."""
    return _csv(CHANGE_COLUMNS, map(_change_cells, comparison.layers))


def _layer_cells(report: StatsReport, row: LayerStats) -> Cells:
    found = report.of_layer(row.name)
    cells: dict[str, object] = {
        "layer": row.name,
        "channels": row.channels,
        "epsilon": row.epsilon,
        "momentum": row.momentum,
        "dead_channels": len(row.dead_channels),
        "nonfinite": row.nonfinite,
        "severity": found[0].severity if found else None,
        "findings": " ".join(finding.code for finding in found),
    }
    for quantity in QUANTITIES:
        cells |= _summary_cells(quantity, summary_of(row, quantity))
    return cells


def _summary_cells(quantity: str, summary: Summary | None) -> Cells:
    numbers = (None, None, None) if summary is None else (summary.min, summary.median, summary.max)
    return {f"{quantity}_{end}": number for end, number in zip(_SUMMARY, numbers, strict=True)}


def _data_cells(layer: LayerLive | None) -> Cells:
    if layer is None:
        return {}
    drift = layer.drift
    numbers = (drift.distance, drift.std_ratio, drift.worst_std_ratio, layer.output_gap)
    return dict(zip(DATA_COLUMNS, numbers, strict=True))


def _channel_rows(report: StatsReport) -> Iterator[Cells]:
    for layer in report.arrays:
        codes = channel_findings(report, layer)
        arrays = {quantity: values_of(layer, quantity) for quantity in QUANTITIES}
        columns: dict[str, list[float]] = {
            quantity: values.tolist() for quantity, values in arrays.items() if values is not None
        }
        for channel in range(layer.channels):
            numbers = {quantity: values[channel] for quantity, values in columns.items()}
            yield {"layer": layer.name, "channel": channel, **numbers, "findings": " ".join(codes[channel])}


def _change_cells(change: LayerChange) -> Cells:
    return {
        "layer": change.name,
        "channels": change.channels,
        "same": change.same,
        "mean_shift": change.mean_shift,
        "var_ratio": change.var_ratio,
        "worst_var_ratio": change.worst_var_ratio,
        "scale_change": change.scale_change,
        "bias_change": change.bias_change,
        "gain_ratio": change.gain_ratio,
        "epsilon_a": change.epsilon[0],
        "epsilon_b": change.epsilon[1],
        "momentum_a": change.momentum[0],
        "momentum_b": change.momentum[1],
    }


def _csv(columns: Sequence[str], rows: Iterable[Cells]) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({column: csv_cell(value) for column, value in row.items()} for row in rows)
    return file.getvalue()
