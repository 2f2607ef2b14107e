"""``bncli train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bncli.cli import options
from bncli.cli.run_settings import from_recipe, new_run, resumed_run
from bncli.config.choices import (
    BadImages,
    BnPlacement,
    Init,
    OnNan,
    OnSaveError,
    OptimizerName,
    Precision,
    ScheduleName,
)
from bncli.errors import UsageError

_MODEL = "Model"
_DATA = "Data"
_OPTIMIZER = "Optimizer"
_OUTPUT = "Output"


def train(
    ctx: typer.Context,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training split.")] = 20,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples per step; BN normalises over them.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, validation split, order, augmentation, dropout.")] = 0,
    precision: Annotated[Precision, typer.Option(help="Of activations; weights stay float32.")] = "float32",
    patience: Annotated[
        int | None,
        typer.Option(help="Stop after so many epochs without a better validation accuracy.", show_default=False),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            help="cnn, mlp, resnet20, resnet18, resnet50, or your own: file.py:Class or package.module:Class.",
            rich_help_panel=_MODEL,
        ),
    ] = "cnn",
    model_arg: Annotated[
        list[str] | None,
        typer.Option(help="key=value for the model; repeatable.", rich_help_panel=_MODEL, show_default=False),
    ] = None,
    bn: Annotated[
        bool, typer.Option("--bn/--no-bn", help="With Batch Normalization, or the control run.", rich_help_panel=_MODEL)
    ] = True,
    bn_placement: Annotated[
        BnPlacement,
        typer.Option(
            help="pre: conv, BN, ReLU (the paper). post: conv, ReLU, BN (Keras code).", rich_help_panel=_MODEL
        ),
    ] = "pre",
    bn_momentum: Annotated[
        float,
        typer.Option(help="Weight of the old running value: 1 - PyTorch's momentum.", rich_help_panel=_MODEL),
    ] = 0.9,
    bn_epsilon: Annotated[float, typer.Option(help="Added to the variance.", rich_help_panel=_MODEL)] = 1e-5,
    dropout: Annotated[
        float | None,
        typer.Option(help="Rate; by default the model's own (cnn: 0.2).", rich_help_panel=_MODEL, show_default=False),
    ] = None,
    init: Annotated[Init, typer.Option(help="Initialiser of the kernels.", rich_help_panel=_MODEL)] = "he",
    data: Annotated[
        str,
        typer.Option(
            help="A known name (see `bncli data list`), an image directory, or an .npz.", rich_help_panel=_DATA
        ),
    ] = "digits",
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Where to look for a known data set first.", rich_help_panel=_DATA, show_default=False),
    ] = None,
    val_fraction: Annotated[
        float, typer.Option(help="Share of the training images kept for validation.", rich_help_panel=_DATA)
    ] = 0.1,
    image_size: Annotated[
        int | None, typer.Option(help="Resize images to so many pixels.", rich_help_panel=_DATA, show_default=False)
    ] = None,
    channels: Annotated[
        int | None, typer.Option(help="1: grey, 3: colour.", rich_help_panel=_DATA, show_default=False)
    ] = None,
    bad_images: Annotated[
        BadImages, typer.Option(help="What an unreadable image file means.", rich_help_panel=_DATA)
    ] = "error",
    augment: Annotated[
        bool, typer.Option("--augment/--no-augment", help="Shift and flip training images.", rich_help_panel=_DATA)
    ] = True,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Defaults for a data set: fashion-mnist, cifar10, cifar100, or none. By default that of --data.",
            rich_help_panel=_OPTIMIZER,
            show_default=False,
        ),
    ] = None,
    optimizer: Annotated[
        OptimizerName, typer.Option(help="sgd: Nesterov momentum.", rich_help_panel=_OPTIMIZER)
    ] = "sgd",
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="Peak of the schedule; by default 0.05 (sgd) or 0.001 (adamw).",
            rich_help_panel=_OPTIMIZER,
            show_default=False,
        ),
    ] = None,
    momentum: Annotated[float, typer.Option(help="Of sgd.", rich_help_panel=_OPTIMIZER)] = 0.9,
    weight_decay: Annotated[
        float, typer.Option(help="Of kernels; biases and BN are left alone.", rich_help_panel=_OPTIMIZER)
    ] = 5e-4,
    decay_all: Annotated[
        bool, typer.Option("--decay-all", help="Decay biases and BN scales too.", rich_help_panel=_OPTIMIZER)
    ] = False,
    clip_norm: Annotated[
        float | None,
        typer.Option(
            help="Largest global gradient norm; 0 does not clip.", rich_help_panel=_OPTIMIZER, show_default=False
        ),
    ] = None,
    label_smoothing: Annotated[
        float, typer.Option(help="Share of the target spread over all classes.", rich_help_panel=_OPTIMIZER)
    ] = 0.0,
    schedule: Annotated[
        ScheduleName, typer.Option(help="How the learning rate moves.", rich_help_panel=_OPTIMIZER)
    ] = "cosine",
    schedule_epochs: Annotated[
        int | None,
        typer.Option(
            help="Length of the schedule, by default --epochs; fix it to extend a run later.",
            rich_help_panel=_OPTIMIZER,
            show_default=False,
        ),
    ] = None,
    warmup_epochs: Annotated[
        float, typer.Option(help="Linear rise; at most a quarter of the schedule.", rich_help_panel=_OPTIMIZER)
    ] = 1.0,
    ema_decay: Annotated[
        float | None,
        typer.Option(
            help="Score and save a moving average of the weights, with its own BN statistics; 0.999, say; 0 for none.",
            rich_help_panel=_OPTIMIZER,
            show_default=False,
        ),
    ] = None,
    precise_bn: Annotated[
        bool,
        typer.Option(
            "--precise-bn",
            help="At the end, give the best epoch the statistics of the training images themselves.",
            rich_help_panel=_OUTPUT,
        ),
    ] = False,
    out: Annotated[Path, typer.Option(help="The checkpoint directory.", rich_help_panel=_OUTPUT)] = Path("ckpt"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out.", rich_help_panel=_OUTPUT)
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the checkpoint in --out.", rich_help_panel=_OUTPUT)
    ] = False,
    keep: Annotated[int, typer.Option(min=1, help="Last saves to keep, beside the best.", rich_help_panel=_OUTPUT)] = 2,
    save_every: Annotated[
        str | None,
        typer.Option(
            help="Save within epochs too: every so many steps, or seconds, as 60s.",
            rich_help_panel=_OUTPUT,
            show_default=False,
        ),
    ] = None,
    on_save_error: Annotated[
        OnSaveError, typer.Option(help="What a save that cannot be written means.", rich_help_panel=_OUTPUT)
    ] = "stop",
    on_nan: Annotated[
        OnNan,
        typer.Option(
            help="A step that comes to NaN or infinity never reaches the weights. stop: save and end. skip: go on "
            "without it. rollback: back to the last save, with half of the learning rate.",
            rich_help_panel=_OUTPUT,
        ),
    ] = "stop",
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="On a GPU, only algorithms that give the same bytes each time.")
    ] = False,
    allow_bad_jaxlib: Annotated[
        bool, typer.Option("--allow-bad-jaxlib", help="Train even if jaxlib computes wrong numbers (`bncli doctor`).")
    ] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Train a network and write a checkpoint directory.

    The result depends on the options and the seed alone. Ctrl-C and SIGTERM save; --resume goes on after them, or after
    a crash, to the same bytes as a run that was never stopped. The test split is scored once, at the end, on the epoch
    with the best validation accuracy.
    """
    import time

    started = time.perf_counter()
    if resume and overwrite:
        raise UsageError("--resume and --overwrite exclude each other", remedy="Choose one.")
    chosen = {} if resume else from_recipe(ctx)
    config = new_run(ctx, chosen)  # first: a mistake in the call is answered before JAX is imported
    from bncli import checkpoint
    from bncli.cli import display, render, signals
    from bncli.process.configure import configure

    if resume:
        config = resumed_run(ctx, out, quiet=quiet)
    else:
        checkpoint.check_output(out, overwrite=overwrite, can_resume=True)
    configure(config.training.precision, allow_bad_jaxlib=allow_bad_jaxlib)
    from bncli import selftest

    display.warn(selftest.check_before_training(allow_bad_jaxlib=allow_bad_jaxlib), quiet=quiet)
    from bncli.data.configured import load_configured
    from bncli.training import run
    from bncli.training.progress import EpochResult, Notice

    with display.counting(quiet=quiet, unit="files") as progress:
        dataset = load_configured(config.data, seed=config.training.seed, progress=progress)
    display.warn(dataset.warnings, quiet=quiet)
    trainer = run.create_trainer(config, dataset, out, compile_ahead=not resume)
    with checkpoint.locked(out):
        if resume:
            run.resume(trainer)
        else:
            run.start(trainer, overwrite=overwrite)
        epochs_before = trainer.progress.epochs_done
        display.note(render.run_lines(trainer), quiet=quiet)
        if chosen:
            display.note(render.recipe_line(chosen), quiet=quiet)
        shown = display.TrainingDisplay(epochs=config.training.epochs, quiet=quiet)
        with signals.stopping(trainer.request_stop, quiet=quiet), shown.running():
            for event in trainer.epochs():
                if isinstance(event, EpochResult):
                    shown.show_epoch(event)
                elif isinstance(event, Notice):
                    display.warn((event.message,), quiet=quiet)
                else:
                    shown.show_step(event)
        result = run.finish(trainer, started=started, epochs_before=epochs_before)
    render.emit(result, as_json=as_json, to_json=render.train_json, to_text=render.train_text)
