"""``bncli eval``."""

from __future__ import annotations

from typing import Annotated

import typer

from bncli.cli import options
from bncli.cli.cluster import with_cluster
from bncli.config.choices import SplitName, StatsMode, TtaMode
from bncli.errors import CheckFailedError


@with_cluster
def evaluate(
    checkpoint: options.Checkpoint,
    split: Annotated[SplitName, typer.Option(help="The split to score.")] = "test",
    stats: Annotated[
        StatsMode,
        typer.Option(help="running: BN uses its running statistics, as in inference. batch: each batch's own."),
    ] = "running",
    tta: Annotated[
        TtaMode,
        typer.Option(help="flip: mean of the logits of each image and of its mirror image; twice the computing."),
    ] = "none",
    batch_size: Annotated[int, typer.Option(help="Images per call; matters only with --stats batch.", min=1)] = 128,
    data: options.Data = None,
    data_dir: options.DataDir = None,
    step: options.Step = "best",
    model: options.Model = None,
    model_arg: options.ModelArg = None,
    input_shape: options.InputShape = None,
    mean: options.Mean = None,
    std: options.Std = None,
    min_accuracy: Annotated[
        float | None, typer.Option(help="Exit with 3 below this accuracy.", min=0, max=1, show_default=False)
    ] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Score a checkpoint on a split: loss, accuracy, top-5, per-class accuracy, confusion matrix."""
    from bncli.cli import render, session

    unsaid = session.unsaid(model_arg, input_shape, mean, std)
    opened = session.open_checkpoint(checkpoint, step=step, model=model, unsaid=unsaid, quiet=quiet)
    dataset = session.checkpoint_data(opened, source=data, data_dir=data_dir, quiet=quiet)
    from bncli.jobs.evaluate import evaluate_checkpoint

    result = evaluate_checkpoint(
        opened,
        {"train": dataset.train, "val": dataset.val, "test": dataset.test}[split],
        class_names=dataset.class_names,
        stats=stats,
        batch_size=batch_size,
        tta=tta,
    )
    report = render.EvalReport(checkpoint, opened.step, split, stats, tta, dataset.name, result)
    render.emit(report, as_json=as_json, to_json=render.eval_json, to_text=render.eval_text)
    if min_accuracy is not None and result.accuracy < min_accuracy:
        raise CheckFailedError(
            f"accuracy {result.accuracy:.4f} is below --min-accuracy {min_accuracy}",
            remedy="Train longer, or look at `bncli inspect-stats`.",
        )
