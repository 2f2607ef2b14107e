"""The protocol of loggers, and the run as they see it.

Letters: H W height and width, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from bncli.config.json_types import JSON, Document
from bncli.training.progress import EpochResult

PROJECT = "bncli"


@dataclass(frozen=True)
class LoggedRun:
    """A run as its loggers see it.

    Attributes:
        folder: where its logs lie, if they are files.
        name: the name of its directory.
        settings: path such as "training.epochs" -> value.
        epochs_done: epochs in the log already; rows after them are of a part of the run that is done again.
        ids: tool -> the identifier under which an earlier part of the run is logged there.
    """

    folder: Path
    name: str
    settings: Mapping[str, JSON]
    epochs_done: int
    ids: Mapping[str, str]


@dataclass(frozen=True)
class LoggedImage:
    """An image that the network gets wrong, uint8 [H, W, C], with a sentence about it."""

    image: np.ndarray
    caption: str


class Logger(Protocol):
    """Takes the events of one run.

    Attributes:
        id: the identifier by which a resumed run finds its log again; "" if the directory suffices.
    """

    id: str

    def epoch(self, scalars: Mapping[str, float], layers: Mapping[str, np.ndarray], *, number: int) -> None:
        """Log one epoch: its scalars, and the BN arrays after it by their paths."""

    def end(self, scalars: Mapping[str, float], images: Sequence[LoggedImage], *, number: int) -> None:
        """Log the scores of the finished run and its worst mistakes, at its last epoch."""

    def close(self) -> None:
        """Write out what is still in memory."""


def scalars_of(result: EpochResult) -> dict[str, float]:
    """The scalars of an epoch, by the names that all loggers use."""
    return {
        "train/loss": result.train_loss,
        "train/accuracy": result.train_accuracy,
        "val/loss": result.val_loss,
        "val/accuracy": result.val_accuracy,
        "learning_rate": result.lr,
        "images_per_second": result.images_per_second,
    }


def flat(settings: Document, prefix: str = "") -> dict[str, JSON]:
    """Nested settings by their paths; lists and empty dicts are values."""
    found: dict[str, JSON] = {}
    for key, value in settings.items():
        path = f"{prefix}{key}"
        found |= flat(value, f"{path}.") if isinstance(value, dict) and value else {path: value}
    return found


def finite(values: np.ndarray) -> np.ndarray:
    """The finite values as float64 [n], of which histograms are made."""
    flat_values = np.asarray(values, np.float64).reshape(-1)
    kept: np.ndarray = flat_values[np.isfinite(flat_values)]
    return kept
