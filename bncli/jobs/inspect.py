"""``bncli inspect-stats``: what a report gains from data, and from the history of the training."""

from __future__ import annotations

from pathlib import Path

from bncli.checkpoint import Checkpoint, read_layers
from bncli.data import Dataset
from bncli.errors import CheckpointError
from bncli.inspection import StatsReport
from bncli.inspection.findings import find_on_data
from bncli.inspection.history import layer_histories
from bncli.inspection.live import look_at_data


def check_can_run(report: StatsReport, path: Path) -> None:
    """Raise CheckpointError unless bncli trained the checkpoint, with BN: only then can its network be run."""
    if report.format != "bncli" or not report.layers:
        raise CheckpointError(
            f"--data: {path} is no checkpoint that bncli trained with BN, so its network cannot be run",
            remedy="Leave out --data; the original of a folded checkpoint may still be there.",
        )


def with_data(report: StatsReport, checkpoint: Checkpoint, dataset: Dataset, *, step: str = "best") -> StatsReport:
    """The report with measurements of the network on data, and their findings; ``step`` is the save, as asked for."""
    measured = look_at_data(checkpoint, dataset)
    return report.with_data(measured, find_on_data(measured, path=str(checkpoint.path), step=step))


def with_history(report: StatsReport, path: Path) -> StatsReport:
    """The report with its history; a checkpoint that bncli did not train has none."""
    rows = read_layers(path) if path.is_dir() and report.format == "bncli" else []
    return report.with_history(layer_histories(rows))
