"""The result of ``bncli recalibrate``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bncli.cli.render.tables import Name, plain_table
from bncli.cli.render.words import counted, distinct_width, marked

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
    """Return each layer's drift before and after, and the effect on the accuracy."""
    before, after = result.before, result.after
    summary = Text.from_markup(
        f"measured over {counted(result.num_examples, 'training image')}, {counted(result.runs, 'run')}\n"
        f"[bold]validation accuracy {before.accuracy:.4f} → {after.accuracy:.4f}[/], "
        f"loss {before.loss:.4f} → {after.loss:.4f} on {counted(before.num_examples, 'image')}\n"
        f"{_output_line(result)}"
    )
    return Group(_drift_table(result), Text("means in true standard deviations", style="dim"), summary)


def _output_line(result: RecalibrationResult) -> str:
    if result.out is None:
        return "dry run: nothing was written"
    out = marked(str(result.out))
    data = "" if result.knows_data else " --data …"
    return f"written to [bold]{out}[/]; next: bncli eval {out}{data}"


def _drift_table(result: RecalibrationResult) -> Table:
    table = plain_table(
        "BN layer", "mean off by", "running std / true std", title="running against true statistics, before → after"
    )
    room = distinct_width(layer.name for layer in result.layers)
    for layer in result.layers:
        before, after = layer.before, layer.after
        table.add_row(
            Name(layer.name, room=room),
            f"{before.distance:.2g} → {after.distance:.2g}",
            f"{before.std_ratio:.4g} → {after.std_ratio:.4g}",
        )
    return table
