"""How far a run is: within an epoch, after one, and at a save."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class StepProgress:
    """Where the run is; averages over the epoch so far."""

    epoch: int  # from 1
    step: int  # steps of this epoch done
    steps: int  # steps per epoch
    loss: float
    accuracy: float
    images_per_second: float


@dataclass(frozen=True)
class Notice:
    """Something went wrong, and the run goes on."""

    message: str


@dataclass(frozen=True)
class EpochResult:
    """One row of the history, and one line of ``metrics.jsonl``."""

    epoch: int  # from 1
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    lr: float  # of the epoch's last step
    seconds: float  # wall time of steps and validation, without compilation
    images_per_second: float  # of the training steps alone


@dataclass(frozen=True)
class Best:
    """The best epoch so far: highest validation accuracy, then lowest loss, then earliest."""

    epoch: int
    step: int
    val_accuracy: float
    val_loss: float


@dataclass(frozen=True)
class RunProgress:
    """How far the run is: the JSON part of a save.

    Attributes:
        steps_into_epoch: batches of the epoch under way that are done; 0 between epochs.
        best: None before the first epoch's end.
        history: one result per finished epoch.
        skipped: the steps that were left out, from 1, since they came to values that are not finite.
        rollbacks: how often the run went back to a save for that.
    """

    steps_into_epoch: int = 0
    best: Best | None = None
    history: tuple[EpochResult, ...] = ()
    skipped: tuple[int, ...] = ()
    rollbacks: int = 0

    @property
    def epochs_done(self) -> int:
        """Finished epochs."""
        return len(self.history)

    def to_json(self) -> dict[str, Any]:
        """As it is stored."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> RunProgress:
        """From what was stored."""
        best = document["best"]
        return cls(
            steps_into_epoch=document["steps_into_epoch"],
            best=Best(**best) if best else None,
            history=tuple(EpochResult(**row) for row in document["history"]),
            skipped=tuple(document["skipped"]),
            rollbacks=document["rollbacks"],
        )


def better(best: Best | None, result: EpochResult, step: int) -> Best:
    """The best epoch after one more, ``result``, which ended at optimizer step ``step``."""
    if best is not None and _rank(best) >= _rank(result):
        return best
    return Best(epoch=result.epoch, step=step, val_accuracy=result.val_accuracy, val_loss=result.val_loss)


def _rank(epoch: Best | EpochResult) -> tuple[float, float]:
    """Larger is better; a loss that is NaN, which compares with nothing, is the worst."""
    return epoch.val_accuracy, -math.inf if math.isnan(epoch.val_loss) else -epoch.val_loss


class Throughput:
    """Images per second since the first step was through, so that compilation does not count."""

    def __init__(self) -> None:
        """No step is through."""
        self._start: float | None = None
        self._images = 0

    def count(self, images: int) -> None:
        """One more step, or group of them, is through."""
        if self._start is None:
            self._start = time.perf_counter()
        else:
            self._images += images

    def rate(self) -> float:
        """Images per second; 0 before a second step is through."""
        elapsed = time.perf_counter() - (self._start or 0.0)
        return self._images / elapsed if self._images else 0.0
