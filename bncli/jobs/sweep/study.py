"""The study on disk: a journal that processes and hosts append to, and a lock under which each takes its next trial.

The only module that imports Optuna. Sampling, pruning and the journal are Optuna's. No two trials have the same
settings: a process draws under the lock, and draws again what another has drawn before.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import optuna
from filelock import FileLock
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from bncli import checkpoint
from bncli.config.json_types import Document
from bncli.config.options import Option
from bncli.config.sweep_file import Choices, Range, SweepFile, grid_values
from bncli.errors import BncliError, BncliWarning, CheckpointError, ConfigError
from bncli.jobs.sweep.result import State, TrialRow

JOURNAL = "study.journal"
NAME = "bncli"
# What Optuna's storage keeps beside a study and its trials.
_DEFINITION, _REASON, _VOID = "definition", "reason", "void"
_LOCK = ".next-trial.lock"
# Draws of a sampler that were all tried before, after which the study has no new trial.
_MAX_DRAWS = 200
# Trials that end before the median of the others is worth comparing with.
_FIRST_TRIALS = 4


@dataclass(frozen=True)
class Begun:
    """A trial that this process carries out.

    Attributes:
        trial: Optuna's.
        values: the settings that it tries.
        out: its directory, which is locked.
        is_resumed: True if a process that was killed has begun it.
        reported: the epochs that were reported before.
        lock: releases the directory.
    """

    trial: Trial
    values: Mapping[Option, object]
    out: Path
    is_resumed: bool
    reported: frozenset[int]
    lock: ExitStack


class Study:
    """A study of one ``sweep.toml`` in one directory."""

    def __init__(self, file: SweepFile, out: Path) -> None:
        """Open the study in ``out``, or begin it.

        Raises:
            ConfigError: ``out`` holds a study of other settings.
            BncliError: ``out`` holds something else, or cannot be written.
        """
        self._file, self._out = file, out
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        _check_directory(out)
        with self._locked():
            self._study = optuna.create_study(
                storage=JournalStorage(JournalFileBackend(str(out / JOURNAL))),
                study_name=NAME,
                direction="maximize" if file.search.metric == "val_accuracy" else "minimize",
                load_if_exists=True,
                pruner=_pruner(file),
            )
            self._check_definition()

    def next_trial(self) -> Begun | None:
        """The next trial: one that a killed process has left, or a new one; None if there are enough."""
        with self._locked():
            trials = self._study.get_trials(deepcopy=False)
            left = next(filter(None, map(self._taken_up, trials)), None)
            if left is not None:
                return left
            if sum(map(_counts, trials)) >= self._file.trials:
                return None
            return self._drawn(trials)

    def report(self, begun: Begun, epoch: int, value: float) -> bool:
        """Report the metric after an epoch; True if the trial is to end, being behind the others."""
        if epoch in begun.reported:
            return False
        begun.trial.report(value, epoch)
        return begun.trial.should_prune()

    def complete(self, begun: Begun, value: float) -> None:
        """Record the end of a trial and its value."""
        if not math.isfinite(value):
            self.fail(begun, f"{self._file.search.metric} is {value}")
            return
        self._study.tell(begun.trial, value)

    def prune(self, begun: Begun) -> None:
        """Record that a trial has been ended early."""
        self._study.tell(begun.trial, state=TrialState.PRUNED)

    def fail(self, begun: Begun, reason: str) -> None:
        """Record that a trial has failed, which counts as one."""
        begun.trial.set_user_attr(_REASON, reason)
        self._study.tell(begun.trial, state=TrialState.FAIL)

    def rows(self) -> tuple[TrialRow, ...]:
        """All trials of all processes."""
        trials = self._study.get_trials(deepcopy=False)
        return tuple(self._row(trial) for trial in trials if _counts(trial))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Reserve the choice of the next trial for this process; the system releases it if the process is killed."""
        lock = FileLock(self._out / _LOCK)
        try:
            lock.acquire()
        except (NotImplementedError, OSError) as error:
            raise BncliError(
                f"the file system of {self._out} has no locks, which the processes of a study need",
                remedy="Choose another --out.",
            ) from error
        try:
            yield
        finally:
            lock.release()

    def _check_definition(self) -> None:
        stored, own = self._study.user_attrs.get(_DEFINITION), self._file.definition()
        if stored is None:
            self._study.set_user_attr(_DEFINITION, own)
        elif stored != own:
            raise ConfigError(
                f"{self._out} holds a study of other settings: {_difference(stored, own)}",
                remedy="Name another --out for this file, or restore the file.",
            )

    def _taken_up(self, trial: FrozenTrial) -> Begun | None:
        """A trial that has begun and whose process is no more; None for any other."""
        if trial.state != TrialState.RUNNING or not _counts(trial):
            return None
        lock = _if_unlocked(self._directory(trial.number))
        if lock is None:
            return None
        # Optuna has no other way to a trial that another process has begun.
        own = Trial(self._study, trial._trial_id)
        if set(trial.params) != {option.key for option in self._file.space}:
            self._annul(own, "killed before its settings were drawn")
            lock.close()
            return None
        return self._begun(own, lock, is_resumed=True, reported=frozenset(trial.intermediate_values))

    def _annul(self, trial: Trial, why: str) -> None:
        """Let a trial count for nothing."""
        trial.set_user_attr(_VOID, why)
        self._study.tell(trial, state=TrialState.FAIL)

    def _drawn(self, trials: list[FrozenTrial]) -> Begun | None:
        """A trial with settings that none has had; None if the sampler finds no more."""
        tried = {_key(trial.params): trial.number for trial in trials if _counts(trial)}
        if self._file.search.sampler == "grid":
            point = next((point for point in self._grid() if _key(point) not in tried), None)
            if point is None:
                return None
            self._study.enqueue_trial(point, skip_if_exists=True)
        for draw in range(_MAX_DRAWS):
            self._study.sampler = _sampler(self._file, seed=self._file.search.seed + len(trials) + draw)
            trial = self._study.ask()
            params = {option.key: _suggested(trial, option, values) for option, values in self._file.space.items()}
            if _key(params) not in tried:
                lock = ExitStack()
                lock.enter_context(checkpoint.locked(self._directory(trial.number)))
                return self._begun(trial, lock)
            self._annul(trial, f"the settings of trial {tried[_key(params)]}")
        return None

    def _begun(
        self, trial: Trial, lock: ExitStack, *, is_resumed: bool = False, reported: frozenset[int] = frozenset()
    ) -> Begun:
        values = {option: _value(values, trial.params[option.key]) for option, values in self._file.space.items()}
        return Begun(trial, values, self._directory(trial.number), is_resumed, reported, lock)

    def _grid(self) -> Iterator[dict[str, object]]:
        axes = [
            values.labels if isinstance(values, Choices) else grid_values(values)
            for values in self._file.space.values()
        ]
        keys = [option.key for option in self._file.space]
        return (dict(zip(keys, point, strict=True)) for point in product(*axes))

    def _directory(self, number: int) -> Path:
        return self._out / f"trial-{number:04d}"

    def _row(self, trial: FrozenTrial) -> TrialRow:
        space = {option.key: values for option, values in self._file.space.items()}
        value = trial.value
        if value is None and trial.intermediate_values:
            value = trial.intermediate_values[max(trial.intermediate_values)]
        return TrialRow(
            number=trial.number,
            state=_state(trial),
            value=value,
            epochs=max(trial.intermediate_values, default=0),
            params={key: _value(space[key], label) for key, label in trial.params.items() if key in space},
            seconds=None if trial.duration is None else trial.duration.total_seconds(),
            checkpoint=self._directory(trial.number),
            reason=trial.user_attrs.get(_REASON),
        )


def _check_directory(out: Path) -> None:
    """Create ``out``; raise BncliError if it holds something else than a study."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        others = [path for path in out.iterdir() if not (out / JOURNAL).exists() and path.name != _LOCK]
    except OSError as error:
        raise BncliError(f"cannot write in {out}: {error.strerror or error}", remedy="Choose another --out.") from error
    if others:
        raise BncliError(f"{out} is not empty, and holds no study", remedy="Choose another --out.")


def _if_unlocked(directory: Path) -> ExitStack | None:
    """The lock of a trial's directory; None if another process has it, or if that cannot be known."""
    lock = ExitStack()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", BncliWarning)  # without locks, a trial of another host looks abandoned
            lock.enter_context(checkpoint.locked(directory))
    except (BncliWarning, CheckpointError):
        return None
    return lock


def _sampler(file: SweepFile, *, seed: int) -> BaseSampler:
    if file.search.sampler != "tpe":
        return RandomSampler(seed=seed)
    startup = min(10, max(_FIRST_TRIALS, file.trials // 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return TPESampler(seed=seed, n_startup_trials=startup, constant_liar=True)


def _pruner(file: SweepFile) -> optuna.pruners.BasePruner:
    match file.search.pruner:
        case "median":
            return optuna.pruners.MedianPruner(n_startup_trials=_FIRST_TRIALS, n_warmup_steps=1)
        case "hyperband":
            return optuna.pruners.HyperbandPruner()
        case "none":
            return optuna.pruners.NopPruner()


def _suggested(trial: Trial, option: Option, values: Choices | Range) -> object:
    """The sampler's value of a setting, as Optuna keeps it."""
    if isinstance(values, Choices):
        return trial.suggest_categorical(option.key, values.labels)
    last = values.high if values.step is None else values.values()[-1]
    if values.is_whole:
        return trial.suggest_int(option.key, int(values.low), int(last), step=int(values.step or 1), log=values.log)
    return trial.suggest_float(option.key, values.low, last, step=values.step, log=values.log)


def _value(values: Choices | Range, kept: object) -> object:
    """The value of a setting, from what Optuna keeps."""
    return values.values[values.labels.index(str(kept))] if isinstance(values, Choices) else kept


def _key(params: Mapping[str, object]) -> str:
    return json.dumps(params, sort_keys=True)


def _counts(trial: FrozenTrial) -> bool:
    return _VOID not in trial.user_attrs and trial.state != TrialState.WAITING


def _state(trial: FrozenTrial) -> State:
    states: Mapping[TrialState, State] = {
        TrialState.COMPLETE: "complete",
        TrialState.FAIL: "failed",
        TrialState.PRUNED: "pruned",
    }
    return states.get(trial.state, "running")


def _difference(stored: Document, own: Document) -> str:
    """The first setting in which two definitions differ: ``training.epochs is 5 there, 3 in the file``."""
    for part in own:
        before, now = stored.get(part), own[part]
        if before == now:
            continue
        if not isinstance(before, dict) or not isinstance(now, dict):
            return f"{part} is {before!r} there, {now!r} in the file"
        key = next(key for key in (*now, *before) if before.get(key) != now.get(key))
        return f"{key} is {before.get(key)!r} there, {now.get(key)!r} in the file"
    return "it was made by another version"
