"""``bncli inspect-stats``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bncli.choices import FailOn
from bncli.cli import options
from bncli.errors import CheckFailedError


def inspect_stats(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A checkpoint directory.", show_default=False)],
    step: options.Step = "best",
    fail_on: Annotated[
        FailOn | None, typer.Option(help="Exit with 3 at a finding of this severity or above.", show_default=False)
    ] = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Show each BN layer in numbers, and what is wrong with it."""
    from bncli import runtime
    from bncli.checkpoint import read_config
    from bncli.cli import render

    runtime.configure(read_config(path).run.training.precision)
    from bncli.inspection import inspect_stats as inspect

    report = inspect(path, step=step)
    render.emit(report, as_json=as_json, to_json=render.stats_json, to_text=render.stats_text)
    grave = {"error": ("error",), "warning": ("error", "warning"), None: ()}[fail_on]
    found = [finding for finding in report.findings if finding.severity in grave]
    if found:
        raise CheckFailedError(f"{len(found)} findings of severity {fail_on} or above", remedy=found[0].remedy)
