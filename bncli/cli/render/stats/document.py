"""A report, and a comparison of two, as JSON documents."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING

from bncli.cli.render.stats.quantities import QUANTITIES, Quantity, values_of

if TYPE_CHECKING:
    from bncli.inspection import Finding, StatsReport
    from bncli.inspection.comparison import Comparison
    from bncli.inspection.layers import BatchNormArrays


def stats_json(report: StatsReport, *, by_channel: bool = False) -> dict[str, object]:
    """Return the ``bncli.inspect-stats/1`` document; ``by_channel`` adds each layer's values."""
    rows: list[dict[str, object]] = [asdict(row) for row in report.layers]
    if by_channel:
        rows = [row | {"values": _values(layer)} for row, layer in zip(rows, report.arrays, strict=True)]
    return {
        "schema": "bncli.inspect-stats/1",
        "source": report.source,
        "format": report.format,
        "layers": rows,
        "findings": _findings(report.findings),
        "notes": list(report.notes),
        "folded_from": None if report.folded_from is None else asdict(report.folded_from),
        "data": None if report.data is None else asdict(report.data),
        "history": None if report.history is None else [asdict(layer) for layer in report.history],
    }


def _values(layer: BatchNormArrays) -> dict[Quantity, list[float] | None]:
    """Return each quantity over the channels; None if the layer has none."""
    arrays = {quantity: values_of(layer, quantity) for quantity in QUANTITIES}
    return {quantity: None if values is None else values.tolist() for quantity, values in arrays.items()}


def comparison_json(comparison: Comparison) -> dict[str, object]:
    """Return the ``bncli.inspect-stats-compare/1`` document."""
    return {
        "schema": "bncli.inspect-stats-compare/1",
        "a": _source(comparison.a),
        "b": _source(comparison.b),
        "layers": [asdict(change) for change in comparison.layers],
        "only_in_a": list(comparison.only_in_a),
        "only_in_b": list(comparison.only_in_b),
        "other_channels": list(comparison.other_channels),
        "findings": {
            "appeared": _findings(comparison.appeared),
            "went_away": _findings(comparison.went_away),
            "remained": _findings(comparison.remained),
        },
    }


def _source(report: StatsReport) -> dict[str, object]:
    return {"source": report.source, "format": report.format, "notes": list(report.notes)}


def _findings(findings: Iterable[Finding]) -> list[dict[str, object]]:
    return [asdict(finding) for finding in findings]
