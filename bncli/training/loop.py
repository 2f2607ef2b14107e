"""The training loop: batches to the step, epochs to the validation split, saves to the disk.

``Trainer.epochs()`` is a generator of events. It computes and saves but prints nothing: the command draws the bar.

A step that is not finite halts on the device (``steps.make_train_on``) and keeps the state from before it. The loop
sees that one step later and leaves the rest to ``recovery.py``.
"""

from __future__ import annotations

import atexit
import weakref
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NoReturn, TypeAlias

import jax

from bncli.config.document import WeightsRecord
from bncli.config.settings import RunConfig
from bncli.data import Dataset
from bncli.errors import CheckpointError, TrainingInterruptedError
from bncli.frameworks.linen import Variables
from bncli.measure.score import EvalResult
from bncli.process import distributed
from bncli.process.phase_clock import PhaseClock
from bncli.training.evaluation import Evaluation
from bncli.training.execution import StepExecution
from bncli.training.progress import (
    Best,
    EpochClock,
    EpochResult,
    Notice,
    Position,
    RunProgress,
    StepProgress,
    ValStatistics,
    highest,
    last_of_the_best,
)
from bncli.training.recovery import Recovery
from bncli.training.saving import RunSaver
from bncli.training.state import EpochMetrics, TrainState
from bncli.training.steps import StepMetrics
from bncli.training.watch import GAP, Watch
from bncli.weights import Fitted

# Steps given to the device besides the current one: it never idles, and Ctrl-C is answered soon.
STEPS_AHEAD = 1

Event: TypeAlias = StepProgress | EpochResult | Notice


@dataclass
class Trainer:
    """A run in progress.

    Attributes:
        config: the user's settings.
        dataset: train and val are used; test is not touched.
        execution: the training step, on the training split.
        evaluation: scores the network on the validation split.
        saver: writes saves and the log.
        recovery: decides what follows a step that is not finite.
        watch: tells of a run that will not end well.
        position: the training state, on the devices, and the progress.
        clock: of the run.
        stop_code: the exit code of a run that was asked to stop; None if it was not.
        agreed_stop: the same once all processes know it.
        weights: the pretrained weights that were read for it, with an account of their arrays; None without.
        record: those that the run began with, for ``config.json``.
    """

    config: RunConfig
    dataset: Dataset
    execution: StepExecution
    evaluation: Evaluation
    saver: RunSaver
    recovery: Recovery
    watch: Watch
    position: Position
    clock: PhaseClock
    stop_code: int | None = None
    agreed_stop: int | None = None
    weights: Fitted | None = None
    record: WeightsRecord | None = None

    def epochs(self) -> Generator[Event, None, None]:
        """Train to the end; yield progress within an epoch and a result after each. Everything is saved when it ends.

        A script that leaves early must close the generator, which waits for the save in progress
        (``contextlib.closing``): Python stops the threads of a save when the script ends.

        Raises:
            TrainingInterruptedError: a stop was requested; the state has been saved.
            BncliError: a step was not finite; the state before it has been saved.
            CheckpointError: a save failed; earlier ones are untouched.
        """
        return _closed_at_exit(self._events())

    def _events(self) -> Generator[Event, None, None]:
        try:
            yield from self._epochs()
            yield from self._ensure_saved()
        finally:
            self.execution.close()
            self.saver.wait_here()  # if the run ends with an error, that error is the one to report
            with suppress(RuntimeError):  # a failed step may have taken the state's memory
                jax.block_until_ready(self.state)  # an interpreter that exits during a step crashes

    def request_stop(self, exit_code: int = TrainingInterruptedError.exit_code) -> None:
        """Save and stop after the current step; the error that ends the run then has this exit code."""
        self.stop_code = exit_code

    @property
    def state(self) -> TrainState:
        """The training state."""
        return self.position.state

    @property
    def progress(self) -> RunProgress:
        """The progress so far."""
        return self.position.progress

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch."""
        return self.execution.steps_per_epoch

    @property
    def stopped_early(self) -> bool:
        """True if patience ended the run before its last epoch."""
        return self.progress.epochs_done < self.config.training.epochs and self._patience_is_exhausted()

    def _epochs(self) -> Iterator[Event]:
        self.position = replace(self.position, state=self.execution.put(self.state))
        clock = EpochClock(lambda: self.execution.compile_seconds)
        while not self._is_finished():
            with self.clock.phase("train"):
                yield from self._train_epoch(clock)
            if bool(self.state.halted):
                yield from self._recover(clock)
            else:
                yield from self._finish_epoch(clock)

    def _train_epoch(self, clock: EpochClock) -> Iterator[StepProgress | Notice]:
        """Do the remaining steps of the current epoch; end early if one of them halts."""
        epoch, done = self.progress.epochs_done, self.progress.steps_into_epoch
        self.evaluation.follow(self.execution.settings_at(epoch).network)
        in_flight = StepsInFlight()
        for group in self.execution.groups(epoch, start=done):
            if self._should_pause(epoch * self.steps_per_epoch + done):
                yield from self._read(in_flight, clock)
                if in_flight.halted:
                    return
                yield from self._pause(done)
            updates = epoch * self.steps_per_epoch + done - len(self.progress.skipped)
            state, metrics = self.execution.run(self.state, epoch, group, updates=updates)
            self.position = replace(self.position, state=state)
            done += len(group)
            in_flight.add(StepInFlight(done, sum(batch.num_real for batch in group), metrics))
            yield from self._read(in_flight, clock, leave=STEPS_AHEAD)
            if in_flight.halted:
                return
            yield from self._report(self.saver.failure())
        yield from self._read(in_flight, clock)

    def _read(self, in_flight: StepsInFlight, clock: EpochClock, *, leave: int = 0) -> Iterator[StepProgress]:
        """Wait for all steps but the last ``leave``, or for the first that halts; yield their progress."""
        for step in in_flight.read(leave=leave):
            clock.count(step.images)
            yield StepProgress(
                epoch=self.progress.epochs_done + 1,
                step=step.number,
                steps=self.steps_per_epoch,
                loss=float(step.metrics.loss),
                accuracy=float(step.metrics.accuracy),
                images_per_second=clock.images_per_second,
            )

    def _should_pause(self, step: int) -> bool:
        """True if a stop was requested or a save is due, in any process: all must pause at the same step."""
        stop, is_due = distributed.maxima((self.stop_code or 0, self.saver.is_due(step)))
        self.agreed_stop = stop or None
        return bool(stop or is_due)

    def _pause(self, steps_into_epoch: int) -> Iterator[Notice]:
        """Save within the epoch, in the background; if a stop was requested, save and stop."""
        if self.agreed_stop is not None:
            self._stop(self._within_epoch(steps_into_epoch), exit_code=self.agreed_stop)
        with self.clock.phase("saving"):
            error = self.saver.wait()
        yield from self._report(error)
        with self.clock.phase("saving"):
            self.saver.start(self._within_epoch(steps_into_epoch))

    def _within_epoch(self, steps_into_epoch: int) -> Position:
        return replace(self.position, progress=replace(self.progress, steps_into_epoch=steps_into_epoch))

    def _stop(self, position: Position, *, exit_code: int) -> NoReturn:
        self.position = self.saver.save_now(position)
        out = self.saver.out
        error = TrainingInterruptedError(
            f"interrupted in epoch {self.progress.epochs_done + 1}; saved at step {position.step} in {out}",
            remedy=f"Continue with: bncli train --resume --out {out}",
        )
        error.exit_code = exit_code
        raise error

    def _recover(self, clock: EpochClock) -> Iterator[Notice]:
        """Apply ``--on-nan`` after a step that was not finite."""
        rollbacks = self.progress.rollbacks
        self.position, notice = self.recovery.recover(self.position)
        yield notice
        if self.progress.rollbacks > rollbacks:
            clock.restart()  # the steps since the save do not count: they are done again

    def _finish_epoch(self, clock: EpochClock) -> Iterator[EpochResult | Notice]:
        """Validate and save; yield the result."""
        images_per_second = clock.images_per_second
        metrics: EpochMetrics = jax.device_get(self.state.metrics)
        epoch = self.progress.epochs_done + 1
        if metrics.num_examples == 0:
            raise self.recovery.end(self.position, f"epoch {epoch}: all of its steps were skipped")
        with self.clock.phase("validation"):
            variables = self.evaluation.variables(self.state)
        train_loss = float(metrics.loss_sum / metrics.num_examples)
        train_accuracy = float(metrics.num_correct / metrics.num_examples)
        with self.clock.phase("validation"):
            val, statistics = self._validate(variables, train_loss=train_loss, train_accuracy=train_accuracy)
        result = EpochResult(
            epoch=epoch,
            train_loss=train_loss,
            train_accuracy=train_accuracy,
            val_loss=val.loss,
            val_accuracy=val.accuracy,
            lr=self.execution.learning_rate(self.position.updates - 1) * float(self.state.rate_scale),
            seconds=clock.seconds,
            images_per_second=images_per_second,
            val_statistics=statistics,
        )
        with self.clock.phase("saving"):
            error = self.saver.wait()
        yield from self._report(error)
        self._begin_next_epoch(result)
        with self.clock.phase("validation"):
            layers = self.evaluation.layers(variables)
        with self.clock.phase("saving"):
            self.saver.start(self.position, layers=layers)
        yield result
        yield from self.watch.notices(
            self.progress.history, lambda: self.evaluation.score_by_batch(variables, self.dataset.val)
        )
        clock.restart()

    def _validate(
        self, variables: Variables, *, train_loss: float, train_accuracy: float
    ) -> tuple[EvalResult, ValStatistics | None]:
        """The validation score, and the BN statistics behind it: those that the epoch would be used with.

        Running statistics that lag behind the weights say nothing about them. Such an epoch is scored with statistics
        taken anew, which it gets at the end if it is the best.
        """
        val = self.evaluation.validate(variables, self.dataset.val)
        if not self.state.batch_stats:
            return val, None
        if not self.watch.may_lag:
            return val, "measured" if self.evaluation.measures else "running"
        if self.watch.looks_lagging(
            train_loss=train_loss, train_accuracy=train_accuracy, val_loss=val.loss, val_accuracy=val.accuracy
        ):
            by_batch = self.evaluation.score_by_batch(variables, self.dataset.val)
            if by_batch.accuracy >= val.accuracy + GAP:
                anew = self.evaluation.validate_anew(variables, self.dataset.val)
                if anew.accuracy > val.accuracy and anew.loss < val.loss:
                    return anew, "measured"
        return val, "running"

    def _begin_next_epoch(self, result: EpochResult) -> None:
        """Add the result to the history, and start the next epoch's sums."""
        progress = replace(self.progress, history=(*self.progress.history, result), steps_into_epoch=0)
        self.position = Position(
            replace(self.state, metrics=self.execution.put(EpochMetrics.zero())),
            replace(progress, best=self._best_of(progress)),
        )

    def _best_of(self, progress: RunProgress) -> Best | None:
        """The best epoch after the last one of the history."""
        step, num_val = self.position.step, self.watch.guess.num_val
        if self.config.training.patience is None:
            return last_of_the_best(progress.best, progress.history, step, num_val=num_val)
        return highest(progress.best, progress.history[-1], step)

    def _report(self, error: CheckpointError | None) -> Iterator[Notice]:
        """Report a failed save. If it held the best epoch, fall back to the previous best."""
        if error is not None:
            notice = self.saver.tolerate(error)
            self.position = replace(self.position, progress=replace(self.progress, best=self.saver.best))
            yield notice

    def _ensure_saved(self) -> Iterator[Notice]:
        """Wait for the save of the last epoch; if it failed and the run may continue, save once more."""
        with self.clock.phase("saving"):
            error = self.saver.wait()
        yield from self._report(error)
        if error is not None or self.progress.best is None:
            best = highest(self.progress.best, self.progress.history[-1], self.position.step)
            self.position = self.saver.save_now(replace(self.position, progress=replace(self.progress, best=best)))

    def _is_finished(self) -> bool:
        return self.progress.epochs_done >= self.config.training.epochs or self._patience_is_exhausted()

    def _patience_is_exhausted(self) -> bool:
        patience, best = self.config.training.patience, self.progress.best
        return patience is not None and best is not None and self.progress.epochs_done - best.epoch >= patience


def _closed_at_exit(events: Generator[Event, None, None]) -> Generator[Event, None, None]:
    """``events``, closed at the latest when the interpreter ends: later, the modules its clean-up needs are gone."""
    reference = weakref.ref(events)

    def close() -> None:
        if (abandoned := reference()) is not None:
            abandoned.close()

    atexit.register(close)
    return events


@dataclass(frozen=True)
class StepInFlight:
    """One step, or one dispatch of several, given to the device."""

    number: int  # of its last step in the epoch, from 1
    images: int
    metrics: StepMetrics


class StepsInFlight:
    """Steps given to the device whose metrics the host has not read yet.

    Attributes:
        halted: True once a step that halted was read.
    """

    def __init__(self) -> None:
        self.halted = False
        self._steps: deque[StepInFlight] = deque()

    def add(self, step: StepInFlight) -> None:
        """Add the newest step."""
        self._steps.append(step)

    def read(self, *, leave: int) -> Iterator[StepInFlight]:
        """Wait for all steps but the last ``leave``, oldest first; stop at the first that halted."""
        while len(self._steps) > leave:
            step = self._steps.popleft()
            self.halted = bool(step.metrics.halted)
            if self.halted:
                return
            yield step
