"""What ``bncli verify`` shows."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.text import Text

from bncli.cli.render.base import plain_table

if TYPE_CHECKING:
    from bncli.checkpoint import VerifyReport

_WORDS = {"sha256": "SHA-256", "content": "content alone"}


def verify_json(report: VerifyReport) -> dict[str, Any]:
    """The ``bncli.verify/1`` document."""
    return {
        "schema": "bncli.verify/1",
        "checkpoint": str(report.path),
        "ok": not report.damaged,
        "readable_step": report.readable_step,
        "files": [asdict(file) for file in report.files],
    }


def verify_text(report: VerifyReport) -> RenderableType:
    """A line for each save and each file beside the saves."""
    table = plain_table("file", "files", "bytes", "by", "found", words=("by", "found"))
    for file in report.files:
        found = "[green]as written[/]" if file.damage is None else f"[bold red]{escape(file.damage)}[/]"
        table.add_row(escape(file.name), f"{file.num_files}", f"{file.num_bytes:,}", _WORDS[file.by], found)
    step = report.readable_step
    last = "no save is whole" if step is None else f"the last save that is whole is that of step {step}"
    return Group(table, Text(last))
