"""``bncli recalibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bncli.cli import options
from bncli.cli.cluster import with_cluster

if TYPE_CHECKING:
    from bncli.checkpoint import Checkpoint
    from bncli.data import Dataset


@with_cluster
def recalibrate(
    checkpoint: Annotated[Path, typer.Argument(metavar="CKPT", help="A trained checkpoint.", show_default=False)],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The new checkpoint directory.", show_default=False)],
    batches: Annotated[int, typer.Option(help="Batches of training images to measure on; 0 for all.", min=0)] = 200,
    batch_size: Annotated[int, typer.Option(help="Images per call; the result does not depend on it.", min=1)] = 64,
    max_runs: Annotated[
        int | None,
        typer.Option(
            help="Limit of the runs over the images, for an approximation; by default as many as make it exact.",
            min=1,
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure, but write nothing.")] = False,
    data: options.Data = None,
    data_dir: options.DataDir = None,
    step: Annotated[
        str | None,
        typer.Option(
            metavar="best|last|STEP",
            help="The save to read; by default the best, or the last if its weights are clearly better.",
            show_default=False,
        ),
    ] = None,
    model: options.Model = None,
    model_arg: options.ModelArg = None,
    input_shape: options.InputShape = None,
    mean: options.Mean = None,
    std: options.Std = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Replace running averages by the true statistics of the training images ("precise BN").

    For a network that is good in train mode and bad in eval mode, and for averaged weights.
    """
    from bncli.cli import render, session

    unsaid = session.unsaid(model_arg, input_shape, mean, std)
    opened = session.open_checkpoint(checkpoint, step=step or "best", model=model, unsaid=unsaid, quiet=quiet)
    dataset = session.checkpoint_data(opened, source=data, data_dir=data_dir, quiet=quiet)
    from bncli.jobs.recalibrate import Sampling, recalibrate_checkpoint

    if step is None and opened.config.dataset is not None:  # another program's save is the only one, or the newest
        opened = _better_save(opened, checkpoint, dataset, model=model, quiet=quiet)
    sampling = Sampling(num_batches=batches or None, batch_size=batch_size, max_runs=max_runs)
    result = recalibrate_checkpoint(opened, out, dataset, sampling, dry_run=dry_run, overwrite=overwrite)
    render.emit(result, as_json=as_json, to_json=render.recalibrate_json, to_text=render.recalibrate_text)


def _better_save(best: Checkpoint, path: Path, dataset: Dataset, *, model: str | None, quiet: bool) -> Checkpoint:
    """The best save or, with a note, the last one if its weights are clearly better."""
    from bncli.checkpoint import load
    from bncli.cli import display
    from bncli.jobs.recalibrate import better_save

    chosen = better_save(best, load(path, step="last", model=model), dataset)
    if chosen is not best:
        display.note(
            f"the save of step {chosen.step}, the last: its weights are better than those of the best epoch, step "
            f"{best.step}, which was chosen with running averages",
            quiet=quiet,
        )
    return chosen
