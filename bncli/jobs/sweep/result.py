"""The result of a study: its trials, each with its settings and its score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from bncli.config.choices import SweepMetric
from bncli.config.sweep_file import SweepFile

State: TypeAlias = Literal["complete", "failed", "pruned", "running"]


@dataclass(frozen=True)
class TrialRow:
    """One trial.

    Attributes:
        number: from 0; also in the name of its directory.
        state: "running" too where a process was killed: the next one takes it up.
        value: the metric of its best epoch, or of its last one if it was pruned; None if there is none.
        epochs: number of epochs that it has reported.
        params: the settings that differ between trials, by key.
        seconds: its duration; None if it is not over.
        checkpoint: its directory.
        reason: the error that ended it.
    """

    number: int
    state: State
    value: float | None
    epochs: int
    params: Mapping[str, object]
    seconds: float | None
    checkpoint: Path
    reason: str | None


@dataclass(frozen=True)
class SweepResult:
    """The result of a study.

    Attributes:
        file: its settings.
        out: its directory.
        trials: of all processes, by number.
        done_here: numbers of the trials that this process ran.
    """

    file: SweepFile
    out: Path
    trials: tuple[TrialRow, ...]
    done_here: tuple[int, ...]

    @property
    def metric(self) -> SweepMetric:
        """The score by which trials are compared."""
        return self.file.search.metric

    @property
    def is_maximized(self) -> bool:
        """True if larger values are better."""
        return self.metric == "val_accuracy"

    @property
    def best(self) -> TrialRow | None:
        """The best trial that was completed; the first of equals."""
        return next(iter(self.ranked), None)

    @property
    def ranked(self) -> tuple[TrialRow, ...]:
        """The completed trials, best first."""
        complete = [trial for trial in self.trials if trial.state == "complete" and trial.value is not None]
        return tuple(sorted(complete, key=self._rank))

    def _rank(self, trial: TrialRow) -> float:
        value = trial.value or 0.0
        return -value if self.is_maximized else value
