"""Trackio, which logs to a local database; ``trackio show`` draws it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence

import numpy as np
import trackio

from bncli.jobs.loggers.logger import PROJECT, LoggedImage, LoggedRun, finite


class TrackioRun:
    """Logs to one run of Trackio."""

    def __init__(self, run: trackio.Run, identifier: str) -> None:
        self.id = identifier
        self._run = run

    def epoch(self, scalars: Mapping[str, float], layers: Mapping[str, np.ndarray], *, number: int) -> None:
        """Log the epoch as one step."""
        histograms = {f"bn/{name}": trackio.Histogram(finite(a).tolist()) for name, a in layers.items() if a.size}
        self._run.log({**scalars, **histograms}, step=number)

    def end(self, scalars: Mapping[str, float], images: Sequence[LoggedImage], *, number: int) -> None:
        """Log the scores and the mistakes at the last step."""
        mistakes = {
            f"mistakes/{place:02d}": trackio.Image(np.squeeze(image.image), caption=image.caption)
            for place, image in enumerate(images, start=1)
        }
        self._run.log({**scalars, **mistakes}, step=number)

    def close(self) -> None:
        """Finish the run; a resumed training opens it again."""
        trackio.finish()  # not the run's own method: at exit, Trackio finishes the run that it holds for current


def create(run: LoggedRun) -> TrackioRun:
    """The run of an earlier part of the training, or a new one."""
    name = run.ids.get("trackio") or f"{run.name}-{secrets.token_hex(3)}"
    opened = trackio.init(
        project=os.environ.get("TRACKIO_PROJECT", PROJECT), name=name, config=dict(run.settings), resume="allow"
    )
    return TrackioRun(opened, name)
