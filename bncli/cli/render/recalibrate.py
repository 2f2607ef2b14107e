"""What ``bncli recalibrate`` shows."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from bncli.cli.render.base import plain_table

if TYPE_CHECKING:
    from bncli.jobs.recalibrate import RecalibrationResult


def recalibrate_json(result: RecalibrationResult) -> dict[str, object]:
    """Return the ``bncli.recalibrate/1`` document."""
    return {
        "schema": "bncli.recalibrate/1",
        "checkpoint": str(result.checkpoint),
        "step": result.step,
        "out": None if result.out is None else str(result.out),
        "num_examples": result.num_examples,
        "runs": result.runs,
        "layers": [asdict(layer) for layer in result.layers],
        "before": {"accuracy": result.before.accuracy, "loss": result.before.loss},
        "after": {"accuracy": result.after.accuracy, "loss": result.after.loss},
    }


def recalibrate_text(result: RecalibrationResult) -> RenderableType:
    """Each layer's drift before and after, and what that does to the accuracy."""
    before, after = result.before, result.after
    if result.out is None:
        where = "dry run: nothing was written"
    else:
        where = f"written to [bold]{escape(str(result.out))}[/]; next: bncli eval {escape(str(result.out))}"
    summary = Text.from_markup(
        f"over {result.num_examples:,} training images, {result.runs} runs\n"
        f"[bold]validation accuracy {before.accuracy:.4f} → {after.accuracy:.4f}[/], "
        f"loss {before.loss:.4f} → {after.loss:.4f} on {before.num_examples:,} images\n"
        f"{where}"
    )
    return Group(_drift_table(result), summary)


def _drift_table(result: RecalibrationResult) -> Table:
    table = plain_table(
        "BN layer",
        "mean off by",
        "std ratio",
        "after: mean off by",
        "std ratio ",
        title="running against true statistics; means in true standard deviations",
    )
    for layer in result.layers:
        cells = (
            text
            for drift in (layer.before, layer.after)
            for text in (f"{drift.distance:.2g}", f"{drift.std_ratio:.4g}")
        )
        table.add_row(escape(layer.name), *cells)
    return table
