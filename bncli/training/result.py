"""The result of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bncli.config.document import CheckpointConfig
from bncli.measure.score import EvalResult
from bncli.training.progress import Best, EpochResult
from bncli.weights import Fitted


@dataclass(frozen=True)
class Hashes:
    """SHA-256 over the leaves of each part of the final state."""

    params: str
    batch_stats: str
    opt_state: str
    ema: str | None  # None without EMA


@dataclass(frozen=True)
class Seconds:
    """The run's wall time. ``total`` is the sum of the others.

    Attributes:
        start: imports, checks, and making the trainer.
        data: reading the data set.
        compile: waiting for compiled programs, new ones or those of the cache.
        train: training steps.
        validation: scoring the validation split after each epoch, and the test split at the end.
        saving: waiting for saves.
        rest: everything else, such as ``--precise-bn``.
        total: all of it.
    """

    start: float
    data: float
    compile: float
    train: float
    validation: float
    saving: float
    rest: float
    total: float


@dataclass(frozen=True)
class Programs:
    """The programs that a run needed: the training step, the first weights, the evaluation step, and small ones."""

    compiled: int
    from_cache: int


@dataclass(frozen=True)
class PreciseStatistics:
    """The best epoch's validation scores with population statistics over ``num_examples`` training images."""

    num_examples: int
    val_accuracy: float
    val_loss: float


@dataclass(frozen=True)
class TrainResult:
    """The result of a run.

    Attributes:
        out: the checkpoint directory.
        epochs_run: epochs in the history, including those of earlier runs.
        best: the epoch that the test split was scored with.
        precise: the result of ``--precise-bn``; None without it.
        test: the best epoch on the test split, with its population statistics if it has them.
        images_per_second: of the training steps, mean over this run's epochs; None if there were none.
        seconds: of this run.
        programs: of this run.
        sha256: of the last state.
        history: one row an epoch.
        stopped_early: True if patience ended the run.
        config: the settings, and what data and machine added: the content of ``config.json``.
        weights: an account of the pretrained weights that this run began with; None without, or if it was resumed.
    """

    out: Path
    epochs_run: int
    best: Best
    precise: PreciseStatistics | None
    test: EvalResult
    images_per_second: float | None
    seconds: Seconds
    programs: Programs
    sha256: Hashes
    history: tuple[EpochResult, ...]
    stopped_early: bool
    config: CheckpointConfig
    weights: Fitted | None = None
