"""A report, and a comparison of two, as JSON documents."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bncli.cli.render.base import jsonable
from bncli.cli.render.stats.layers import QUANTITIES, quantity

if TYPE_CHECKING:
    from bncli.inspection import StatsReport
    from bncli.inspection.comparison import Comparison
    from bncli.inspection.layers import BatchNormArrays


def stats_json(report: StatsReport, *, by_channel: bool = False) -> dict[str, Any]:
    """The ``bncli.inspect-stats/1`` document; ``by_channel`` adds each layer's values."""
    rows = [asdict(row) for row in report.layers]
    if by_channel:
        rows = [row | {"values": _values(layer)} for row, layer in zip(rows, report.arrays, strict=True)]
    return {
        "schema": "bncli.inspect-stats/1",
        "source": report.source,
        "format": report.format,
        "layers": rows,
        "findings": [asdict(finding) for finding in report.findings],
        "notes": list(report.notes),
        "folded_from": None if report.folded_from is None else jsonable(report.folded_from),
        "data": None if report.data is None else asdict(report.data),
        "history": None if report.history is None else [asdict(layer) for layer in report.history],
    }


def _values(layer: BatchNormArrays) -> dict[str, list[float] | None]:
    """Each quantity over the channels; None where the layer has none."""
    arrays = {name: quantity(layer, name) for name in QUANTITIES}
    return {name: None if values is None else values.tolist() for name, values in arrays.items()}


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """The ``bncli.inspect-stats-compare/1`` document."""
    return {
        "schema": "bncli.inspect-stats-compare/1",
        "a": {"source": comparison.a.source, "format": comparison.a.format, "notes": list(comparison.a.notes)},
        "b": {"source": comparison.b.source, "format": comparison.b.format, "notes": list(comparison.b.notes)},
        "layers": [asdict(change) for change in comparison.layers],
        "only_in_a": list(comparison.only_in_a),
        "only_in_b": list(comparison.only_in_b),
        "other_channels": list(comparison.other_channels),
        "findings": {
            "appeared": [asdict(finding) for finding in comparison.appeared],
            "went_away": [asdict(finding) for finding in comparison.went_away],
            "remained": [asdict(finding) for finding in comparison.remained],
        },
    }
