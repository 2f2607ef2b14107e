"""The result of ``bncli predict``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import RenderableType

from bncli.cli.render.tables import Name, plain_table
from bncli.cli.render.words import distinct_width, marked

if TYPE_CHECKING:
    from bncli.jobs.predict import Predictions


@dataclass(frozen=True)
class PredictReport:
    """The predictions of a checkpoint."""

    checkpoint: Path
    predictions: Predictions


def predict_json(report: PredictReport) -> dict[str, object]:
    """Return the ``bncli.predict/1`` document."""
    return {
        "schema": "bncli.predict/1",
        "checkpoint": str(report.checkpoint),
        "images": [
            {"path": str(row.path), "classes": [asdict(entry) for entry in row.classes]}
            for row in report.predictions.rows
        ],
        "failures": [{"path": str(failure.path), "reason": failure.reason} for failure in report.predictions.failures],
    }


def predict_text(report: PredictReport) -> RenderableType:
    """Return a table with one row per image."""
    table = plain_table("image", "class", "probability", "then", words=("class", "then"))
    room = distinct_width(str(row.path) for row in report.predictions.rows)
    for row in report.predictions.rows:
        first, *others = row.classes
        rest = ", ".join(f"{marked(entry.name)} {entry.probability:.3f}" for entry in others)
        table.add_row(
            Name(str(row.path), room=room), f"[bold]{marked(first.name)}[/]", f"{first.probability:.4f}", rest
        )
    return table
