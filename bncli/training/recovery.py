"""The recovery after a step that was not finite: find its cause; then skip it, go back to a save, or end the run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from bncli.config.choices import OnNan
from bncli.config.settings import RunConfig
from bncli.errors import BncliError, CheckpointError
from bncli.training.examples import Examples
from bncli.training.execution import StepExecution
from bncli.training.progress import Notice, Position, RunProgress
from bncli.training.saving import RunSaver, latest_step, restore
from bncli.training.state import TrainState

# Consecutive steps that `--on-nan skip` skips, and times that `rollback` goes back, before the run ends after all.
MAX_SKIPPED_IN_A_ROW = 10
MAX_ROLLBACKS = 3

Action: TypeAlias = Literal["end", "rollback", "skip"]


@dataclass(frozen=True)
class Recovery:
    """Applies ``--on-nan``.

    Attributes:
        config: of the run.
        execution: the training step and its batches.
        saver: of the run.
        initial_state: makes the state before the first step.
        find_cause: from the state and the examples of a step, what in it is not finite, in words.
    """

    config: RunConfig
    execution: StepExecution
    saver: RunSaver
    initial_state: Callable[[], TrainState]
    find_cause: Callable[[TrainState, Examples], str]

    def recover(self, position: Position) -> tuple[Position, Notice]:
        """The position to continue from after a halted step, and the notice to show.

        Args:
            position: its state is the one before the step; its progress may lag behind within the epoch.

        Raises:
            BncliError: the run ends; the state before the step has been saved.
            CheckpointError: the run is to go back, but the last save failed and ``--on-save-error`` is ``stop``.
        """
        position = self._before_halt(position)
        action = next_action(self.config.training.on_nan, position.progress, step=position.step + 1)
        what = self._describe(position)
        if action == "rollback":
            position, where = self._roll_back(position)
            return position, Notice(f"{what}; {where}")
        if action == "skip":
            return self._skip(position), Notice(f"{what}; step skipped")
        raise self.end(position, what)

    def end(self, position: Position, what: str) -> BncliError:
        """Save the position; return the error that ends the run because ``what`` happened."""
        try:
            self.saver.save_now(position)
            saved = f"The save of step {position.step} holds the state before it."
        except CheckpointError as error:
            saved = f"The state before it could not be saved: {error.message}."
        return diverged(what, saved=saved, learning_rate=self.config.optimizer.peak_learning_rate)

    def _before_halt(self, position: Position) -> Position:
        """The position just before the step that halted."""
        into_epoch = position.step - position.progress.epochs_done * self.execution.steps_per_epoch
        return Position(
            replace(position.state, halted=self.execution.scalar(False)),
            replace(position.progress, steps_into_epoch=into_epoch),
        )

    def _describe(self, position: Position) -> str:
        epoch = position.progress.epochs_done
        examples = self.execution.examples(epoch, position.progress.steps_into_epoch)
        try:
            cause = self.find_cause(position.state, examples)
        except Exception:  # a user's model that cannot be looked into
            cause = "a value"
        return f"step {position.step + 1} (epoch {epoch + 1}): {cause} is not finite"

    def _skip(self, position: Position) -> Position:
        step, progress = position.step + 1, position.progress
        return Position(
            replace(position.state, step=self.execution.scalar(np.int32(step))),
            replace(progress, skipped=(*progress.skipped, step), steps_into_epoch=progress.steps_into_epoch + 1),
        )

    def _roll_back(self, position: Position) -> tuple[Position, str]:
        """The last good save or the start, with half of the learning rate; and a sentence on it."""
        error = self.saver.wait()
        failed = "" if error is None else f"{self.saver.tolerate(error).message}; "
        earlier, where = self._last_save(position.state)
        rollbacks = position.progress.rollbacks + 1
        scale = np.float32(0.5**rollbacks)
        earlier = Position(
            replace(earlier.state, rate_scale=self.execution.scalar(scale)),
            replace(earlier.progress, rollbacks=rollbacks),
        )
        self.saver.rewind(earlier)
        return earlier, f"{failed}back to {where}, learning rate × {scale:g}"

    def _last_save(self, like: TrainState) -> tuple[Position, str]:
        step = latest_step(self.saver.out)
        if step is not None:
            return restore(self.saver.out, step, like), f"the save of step {step}"
        return Position(self.execution.put(self.initial_state()), RunProgress()), "the start"


def next_action(on_nan: OnNan, progress: RunProgress, *, step: int) -> Action:
    """The action after step ``step``, from 1, was not finite: go back, skip it, or end the run."""
    if on_nan == "rollback" and progress.rollbacks < MAX_ROLLBACKS:
        return "rollback"
    before = tuple(range(step - MAX_SKIPPED_IN_A_ROW, step))
    if on_nan == "skip" and progress.skipped[-MAX_SKIPPED_IN_A_ROW:] != before:
        return "skip"
    return "end"


def diverged(what: str, *, saved: str, learning_rate: float) -> BncliError:
    """The error that ends a run.

    Args:
        what: what was not finite, and where.
        saved: a sentence on what is on disk.
        learning_rate: the peak that the user asked for.
    """
    return BncliError(
        f"{what}: the training has diverged. {saved}",
        remedy=f"Start again with a lower --learning-rate (it was {learning_rate:g}), a longer --warmup-epochs or "
        "--clip-norm 1; or continue with --on-nan skip or rollback.",
    )
