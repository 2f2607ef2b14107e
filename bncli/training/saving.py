"""The saves of a run: when they are due, written in the background while the device trains on, and restored."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bncli import checkpoint
from bncli.config.settings import TrainingConfig
from bncli.errors import BncliWarning, CheckpointError
from bncli.frameworks.linen import Variables
from bncli.process import distributed
from bncli.process.mesh import make_mesh, put_whole
from bncli.training.observation import LayerRow
from bncli.training.progress import Best, Notice, Position, RunProgress
from bncli.training.run_log import RunLog
from bncli.training.state import TrainState


@dataclass
class RunSaver:
    """Writes the saves of one run, and its log.

    Attributes:
        log: of the run; its directory is the checkpoint directory.
        settings: how many saves are kept, how often one is due within an epoch, what a failed one means.
        scored: the variables of a state that readers of its save take.
        last_step: optimizer steps at the last save.
        best: the best epoch whose save is written.
    """

    log: RunLog
    settings: TrainingConfig
    scored: Callable[[TrainState], Variables]
    last_step: int = 0
    best: Best | None = None
    _best_before: Best | None = None
    _saver: checkpoint.BackgroundSaver = field(default_factory=checkpoint.BackgroundSaver)
    _last_time: float = field(default_factory=time.monotonic)

    @property
    def out(self) -> Path:
        """The checkpoint directory."""
        return self.log.out

    def is_due(self, step: int) -> bool:
        """True if ``--save-every`` asks for a save within the epoch, at optimizer step ``step``."""
        every = self.settings.save_every
        if every is None or step <= self.last_step:
            return False
        if every.endswith("s"):
            return time.monotonic() - self._last_time >= int(every[:-1])
        return step - self.last_step >= int(every)

    def start(self, position: Position, *, layers: Sequence[LayerRow] | None = None) -> None:
        """Start to write a save. ``wait`` for the previous one first: its failure changes which epoch is the best.

        Args:
            position: of the run; its state is copied, since the next step reuses its memory.
            layers: after an epoch, one row a layer.
        """
        step, progress = position.step, position.progress
        arrays = split_state(position.state, scored=self.scored(position.state))
        self.last_step, self._last_time = step, time.monotonic()
        if not distributed.is_first():
            self._best_before, self.best = self.best, progress.best
            return
        variables, optimizer = _copied(arrays)

        def write() -> None:
            # Before the save: resuming drops a surplus row, but could not make up a missing one.
            if layers is not None:
                self.log.append_layers(progress.epochs_done, layers)
            checkpoint.save(self.out, step, variables=variables, optimizer=optimizer, progress=progress.to_json())
            self.best = progress.best  # its save is written: this one or an earlier one
            self.log.write_history(progress.history)
            self._prune()

        self._saver.submit(write)

    def failure(self) -> CheckpointError | None:
        """The error of a save that has just failed; does not wait. Several processes hear of it in ``wait``."""
        return self._saver.failure() if distributed.is_alone() else None

    def wait(self) -> CheckpointError | None:
        """Wait for the current save; return its error, if it failed, in all processes."""
        error = distributed.error_of_first(self._saver.wait(), CheckpointError)
        if error is not None and not distributed.is_first():
            self.best = self._best_before
        return error

    def wait_here(self) -> None:
        """Wait for the current save of this process, when the others may be gone."""
        self._saver.wait()

    def tolerate(self, error: CheckpointError) -> Notice:
        """The notice of a failed save, if ``--on-save-error`` lets the run continue.

        Raises:
            CheckpointError: ``error``, if the run is to end.
        """
        if self.settings.on_save_error == "stop":
            raise error
        return Notice(f"{error.message}; the training continues")

    def save_now(self, position: Position) -> Position:
        """Save a position, unless its step is saved already, and wait; return it with the best epoch that is on disk.

        Raises:
            CheckpointError: the save could not be written.
        """
        if self.wait() is not None:
            position = replace(position, progress=replace(position.progress, best=self.best))
        (is_missing,) = distributed.maxima(
            (distributed.is_first() and position.step not in checkpoint.complete_steps(self.out),)
        )
        if is_missing:
            self.start(position)
            if error := self.wait():
                raise error
        return position

    def rewind(self, position: Position) -> None:
        """Continue from an earlier position: the log forgets what lies after it."""
        self.last_step, self.best = position.step, position.progress.best
        distributed.by_first(lambda: self.log.rewind(position.progress), CheckpointError)

    def _prune(self) -> None:
        with suppress(OSError):  # a surplus save does no harm, and the next save tries again
            checkpoint.prune(self.out, keep=self.settings.keep, best_step=self.best.step if self.best else None)


def restore(out: Path, step: int, like: TrainState) -> Position:
    """Restore a save, and remove the saves after it: the run will reach those steps again.

    Args:
        out: the checkpoint directory.
        step: which save.
        like: a state of this network and optimizer; the restored one takes its shapes and shardings.

    Raises:
        CheckpointError: the save is damaged, or of another network or optimizer.
    """
    template = like if distributed.is_alone() else jax.tree.map(np.asarray, like)
    variables, rest = split_state(template, scored=template.variables)
    state = join_state(*checkpoint.restore_training(out, step, variables=variables, optimizer=rest))
    if not distributed.is_alone():
        state = put_whole(state, make_mesh())
    progress = read_progress(out, step)
    distributed.barrier()  # before anything is removed
    distributed.by_first(lambda: checkpoint.drop_after(out, step), CheckpointError)
    return Position(state, replace(progress, best=_best_on_disk(out, progress.best)))


def read_progress(out: Path, step: int) -> RunProgress:
    """The progress of the run at a save.

    Raises:
        CheckpointError: the save is damaged.
    """
    document = checkpoint.read_progress(out, step)
    try:
        return RunProgress.from_json(document)
    except (AttributeError, OverflowError, RecursionError, TypeError, ValueError):
        raise CheckpointError(
            f"{out}: the progress of step {step} is damaged", remedy="Restore the checkpoint from a copy."
        ) from None


def latest_step(out: Path) -> int | None:
    """The step of the last intact save, in all processes; None if there is none.

    Raises:
        CheckpointError: all saves are damaged.
    """
    found = distributed.by_first(
        lambda: str(checkpoint.find_step(out, "last")) if checkpoint.complete_steps(out) else "", CheckpointError
    )
    step = distributed.text_from_first(found or "")
    return int(step) if step else None


def _copied(arrays: tuple[Variables, dict[str, Any]]) -> tuple[Variables, dict[str, Any]]:
    """Copies of the arrays, which later steps leave alone."""
    copy = partial(jax.device_put, may_alias=False) if distributed.is_alone() else partial(jax.tree.map, np.array)
    copies: tuple[Variables, dict[str, Any]] = copy(arrays)
    return copies


def _best_on_disk(out: Path, best: Best | None) -> Best | None:
    """The best epoch if its save is undamaged; None otherwise, and a later epoch becomes the best."""
    if best is None:
        return None
    try:
        distributed.by_first(lambda: checkpoint.verify(out, best.step), CheckpointError)
    except CheckpointError as error:
        warnings.warn(f"{error.message}; epoch {best.epoch} is no longer the best", BncliWarning, stacklevel=3)
        return None
    return best


def split_state(state: TrainState, *, scored: Variables) -> tuple[Variables, dict[str, Any]]:
    """(variables, everything else): the two array items of a save, apart so that a reader loads the first alone.

    Args:
        state: of a run.
        scored: the variables for readers: the trained ones or, with EMA, the averaged ones.
    """
    rest = {
        "halted": state.halted,
        "metrics": state.metrics,
        "opt_state": state.opt_state,
        "rate_scale": state.rate_scale,
        "step": state.step,
    }
    return (scored, {**rest, "trained": state.variables}) if state.ema else (state.variables, rest)


def join_state(variables: Variables, rest: Mapping[str, Any]) -> TrainState:
    """The inverse of ``split_state``."""
    if "trained" not in rest:
        return TrainState(**variables, **rest)
    others = {name: value for name, value in rest.items() if name != "trained"}
    return TrainState(**rest["trained"], **others, ema=variables["params"])
