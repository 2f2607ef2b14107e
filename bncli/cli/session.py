"""The start that commands share: set up the process, open the checkpoint, load its data, and warn once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bncli.checkpoint import Checkpoint
    from bncli.config.settings import RunConfig
    from bncli.data import Dataset


def open_checkpoint(path: Path, *, step: str, model: str | None) -> Checkpoint:
    """One of bncli's own checkpoints, in a process set up for the precision of its network.

    Args:
        path: a directory, trained or folded.
        step: "best", "last", or a step's number.
        model: the name of the model's code, if it has moved.
    """
    configure_for(path)
    from bncli.checkpoint import load

    return load(path, step=step, model=model)


def configure_for(path: Path) -> None:
    """Set up the process for the network of one of bncli's own checkpoints."""
    from bncli.checkpoint import read_config
    from bncli.process.configure import configure

    configure(read_config(path).run.training.precision)


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


def training_data(settings: RunConfig, *, quiet: bool) -> Dataset:
    """The data set of a training."""
    from bncli.cli import display
    from bncli.data.configured import load_configured

    with display.counting(quiet=quiet, unit="files") as progress:
        dataset = load_configured(settings.data, seed=settings.training.seed, progress=progress)
    display.warn(dataset.warnings, quiet=quiet)
    return dataset
