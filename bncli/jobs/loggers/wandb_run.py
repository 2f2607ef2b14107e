"""Weights & Biases. ``WANDB_MODE=offline`` logs without a network; ``WANDB_PROJECT`` and others hold as usual."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence

import numpy as np
import wandb

from bncli.jobs.loggers.logger import PROJECT, LoggedImage, LoggedRun, finite


class WandbRun:
    """Logs to one run of Weights & Biases."""

    def __init__(self, run: wandb.Run, identifier: str) -> None:
        self.id = identifier
        self._run = run

    def epoch(self, scalars: Mapping[str, float], layers: Mapping[str, np.ndarray], *, number: int) -> None:
        """Log the epoch as one step."""
        histograms = {f"bn/{name}": _histogram(array) for name, array in layers.items() if finite(array).size}
        self._run.log({**scalars, **histograms, "epoch": number}, step=number)

    def end(self, scalars: Mapping[str, float], images: Sequence[LoggedImage], *, number: int) -> None:
        """Log the mistakes as images, and the scores as the run's summary."""
        if images:
            mistakes = [wandb.Image(np.squeeze(image.image), caption=image.caption) for image in images]
            self._run.log({"mistakes": mistakes}, step=number)
        self._run.summary.update(dict(scalars))

    def close(self) -> None:
        """Finish the run; a resumed training opens it again."""
        self._run.finish()


def create(run: LoggedRun) -> WandbRun:
    """The run of an earlier part of the training, or a new one."""
    identifier = run.ids.get("wandb") or secrets.token_hex(4)
    opened = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        name=os.environ.get("WANDB_NAME", run.name),
        id=identifier,
        resume="allow",
        dir=str(run.folder),
        config=dict(run.settings),
        settings=wandb.Settings(silent=True),
    )
    return WandbRun(opened, identifier)


def _histogram(array: np.ndarray) -> wandb.Histogram:
    return wandb.Histogram(np_histogram=np.histogram(finite(array), bins=32))
