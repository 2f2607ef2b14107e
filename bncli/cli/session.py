"""The start that commands share: set up the process, open the checkpoint, load its data, and warn once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bncli.cli.parsing import absolute_model_name, image_shape, model_arguments, numbers
from bncli.config.unsaid import Unsaid

if TYPE_CHECKING:
    from bncli.checkpoint import Checkpoint
    from bncli.cli.display import TrainingDisplay
    from bncli.config.settings import RunConfig
    from bncli.data import Dataset


def unsaid(model_arg: Sequence[str] | None, input_shape: str | None, mean: str | None, std: str | None) -> Unsaid:
    """The facts of ``--model-arg``, ``--input-shape``, ``--mean`` and ``--std``."""
    arguments = model_arguments(model_arg or ())
    shape = image_shape(input_shape) if input_shape is not None else None
    subtracted = numbers(mean, "--mean") if mean is not None else None
    divisor = numbers(std, "--std") if std is not None else None
    return Unsaid(model_args=arguments, image_shape=shape, mean=subtracted, std=divisor)


def open_checkpoint(
    path: Path, *, step: str, model: str | None, unsaid: Unsaid | None = None, quiet: bool = True
) -> Checkpoint:
    """A checkpoint of bncli or of another program, in a process set up for the precision of its network.

    Args:
        path: a directory, trained or folded; an exported model; or what another program wrote.
        step: "best", "last", or a step's number.
        model: the name of the model's code, if it has moved, or if another program wrote the checkpoint.
        unsaid: the facts that another program's checkpoint does not say.
        quiet: no notes on where the arrays were found and what is assumed.
    """
    configure_for(path)
    from bncli import checkpoint
    from bncli.cli import display

    named = model if model is None or not checkpoint.is_unsaid(path) else absolute_model_name(model)
    opened = checkpoint.open_checkpoint(path, step=step, model=named, unsaid=unsaid)
    for text in opened.notes:
        display.note(text, quiet=quiet)
    return opened


def configure_for(path: Path) -> None:
    """Set up the process for the network of a checkpoint."""
    from bncli.checkpoint import is_unsaid, read_config
    from bncli.process.configure import configure

    # The precision of another program's network is not known yet. The settings for bfloat16 are right for either.
    configure("bfloat16" if is_unsaid(path) else read_config(path).run.training.precision)


def checkpoint_data(checkpoint: Checkpoint, *, source: str | None, data_dir: Path | None, quiet: bool) -> Dataset:
    """The data set that a checkpoint was trained on, or another one that fits its network.

    Args:
        checkpoint: whose preprocessing and classes the data must fit.
        source: as ``--data``; None takes the checkpoint's own.
        data_dir: the folder to search first.
        quiet: no progress and no warnings.
    """
    from bncli.cli import display
    from bncli.data.configured import load_matching

    with display.counting(quiet=quiet, unit="files") as progress:
        dataset = load_matching(checkpoint.config, source=source, data_dir=data_dir, progress=progress)
    display.warn(dataset.warnings, quiet=quiet)
    return dataset


def training_data(settings: RunConfig, *, quiet: bool, shown: TrainingDisplay | None = None) -> Dataset:
    """The data set of a training.

    Args:
        settings: of the training.
        quiet: no progress and no warnings.
        shown: draws the progress; None for a bar of its own.
    """
    from bncli.cli import display
    from bncli.data.configured import load_configured

    counting = display.counting(quiet=quiet, unit="files") if shown is None else shown.counting()
    with counting as progress:
        dataset = load_configured(settings.data, seed=settings.training.seed, progress=progress)
    display.warn(dataset.warnings, quiet=quiet)
    return dataset
