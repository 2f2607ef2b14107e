"""The result of ``bncli verify``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from bncli.cli.render.tables import plain_table
from bncli.cli.render.words import marked

if TYPE_CHECKING:
    from bncli.checkpoint import VerifyReport

_CHECKED_BY = {"sha256": "SHA-256", "content": "content only"}


def verify_json(report: VerifyReport) -> dict[str, object]:
    """Return the ``bncli.verify/1`` document."""
    return {
        "schema": "bncli.verify/1",
        "checkpoint": str(report.path),
        "ok": report.is_whole,
        "readable_step": report.readable_step,
        "files": [asdict(file) for file in report.files],
    }


def verify_text(report: VerifyReport) -> RenderableType:
    """Return a line per save and per file beside the saves, and the last undamaged save."""
    table = plain_table("file", "files", "bytes", "checked by", "result", words=("checked by", "result"))
    for file in report.files:
        result = "[green]undamaged[/]" if file.damage is None else f"[bold red]{marked(file.damage)}[/]"
        table.add_row(marked(file.name), f"{file.num_files}", f"{file.num_bytes:,}", _CHECKED_BY[file.by], result)
    step = report.readable_step
    last = "no undamaged save" if step is None else f"last undamaged save: step {step}"
    return Group(table, Text(last))
