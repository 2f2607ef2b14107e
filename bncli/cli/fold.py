"""``bncli fold``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bncli.cli import options


def fold(
    checkpoint: Annotated[Path, typer.Argument(metavar="CKPT", help="A trained checkpoint.", show_default=False)],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The new checkpoint directory.", show_default=False)],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Fold and verify, but write nothing.")] = False,
    include: Annotated[
        list[str] | None,
        typer.Option(help="Fold only BN layers with such a name, * as wildcard; repeatable.", show_default=False),
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Keep BN layers with such a name; repeatable.", show_default=False)
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(help="Largest relative error of a logit; by default what rounding explains.", show_default=False),
    ] = None,
    step: options.Step = "best",
    model: options.Model = None,
    data_dir: options.DataDir = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Merge BN into its neighbours, prove on data that nothing changed, and write a checkpoint without BN.

    Nothing is written when the proof fails (exit code 3).
    """
    from bncli import runtime
    from bncli.checkpoint import read_config
    from bncli.cli import render

    runtime.configure(read_config(checkpoint).run.training.precision)
    from bncli.conversion import fold_checkpoint

    result = fold_checkpoint(
        checkpoint,
        out,
        step=step,
        model=model,
        data_dir=data_dir,
        tolerance=tolerance,
        include=include or ("*",),
        exclude=exclude or (),
        dry_run=dry_run,
        overwrite=overwrite,
    )
    render.emit(result, as_json=as_json, to_json=lambda done: done.to_json(), to_text=render.fold_text)
