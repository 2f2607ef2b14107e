"""``bncli inspect-stats``: what a report gains from the history of the training."""

from __future__ import annotations

from pathlib import Path

from bncli.checkpoint import read_layers
from bncli.inspection import StatsReport
from bncli.inspection.history import layer_histories


def with_history(report: StatsReport, path: Path) -> StatsReport:
    """The report with its history; a checkpoint that bncli did not train has none."""
    rows = read_layers(path) if path.is_dir() and report.format == "bncli" else []
    return report.with_history(layer_histories(rows))
