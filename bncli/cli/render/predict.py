"""What ``bncli predict`` shows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.markup import escape

from bncli.cli.render.base import plain_table

if TYPE_CHECKING:
    from bncli.jobs.predict import Prediction


@dataclass(frozen=True)
class PredictReport:
    """Predictions and what made them."""

    checkpoint: Path
    predictions: tuple[Prediction, ...]


def predict_json(report: PredictReport) -> dict[str, Any]:
    """The ``bncli.predict/1`` document."""
    return {
        "schema": "bncli.predict/1",
        "checkpoint": str(report.checkpoint),
        "images": [
            {"path": str(row.path), "classes": [asdict(entry) for entry in row.classes]} for row in report.predictions
        ],
    }


def predict_text(report: PredictReport) -> RenderableType:
    """One row an image."""
    table = plain_table("image", "class", "probability", "then", words=("class", "then"))
    for row in report.predictions:
        first, *others = row.classes
        rest = ", ".join(f"{escape(entry.name)} {entry.probability:.3f}" for entry in others)
        table.add_row(escape(str(row.path)), f"[bold]{escape(first.name)}[/]", f"{first.probability:.4f}", rest)
    return table
