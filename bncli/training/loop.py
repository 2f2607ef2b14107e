"""The training loop: takes batches to the step, epochs to the validation split, and state to the disk.

``Trainer.epochs()`` is a generator of events. It computes and saves but prints nothing: the command draws the bar.

A step that comes to NaN or infinity halts on the device (``steps.make_train_step``), with the state from before it; the
loop sees that one step later, and recovers as ``--on-nan`` says.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bncli import checkpoint
from bncli.config.settings import RunConfig
from bncli.data import Dataset
from bncli.data.batches import Batch, epoch_batches, epoch_order, steps_per_epoch
from bncli.errors import BncliError, CheckpointError, TrainingInterruptedError
from bncli.frameworks.linen import Network, Variables
from bncli.measure.eval_step import EvalStep
from bncli.measure.score import score
from bncli.process.mesh import replicated
from bncli.training.execution import StepArguments, StepExecution
from bncli.training.observation import LayerObserver
from bncli.training.progress import EpochResult, Notice, RunProgress, StepProgress, Throughput, better
from bncli.training.recovery import diverged, way_on
from bncli.training.saving import RunSaver, restore
from bncli.training.state import EpochMetrics, TrainState
from bncli.training.steps import StepMetrics, all_finite

# Steps given to the device beside the one it is at: it never idles, and Ctrl-C is answered soon.
STEPS_AHEAD = 1


@dataclass
class Trainer:
    """A run under way.

    Attributes:
        config: what the user asked for.
        dataset: train and val are used; test is not touched.
        out: the prepared checkpoint directory.
        mesh: the devices.
        execution: the training step, on the training split.
        eval_step: jitted.
        learning_rate: the schedule, for the history.
        network: what is trained.
        observe: looks at the layers after each epoch.
        find_cause: from (state, split, epoch, indices, mask), what in that step is not finite, in words.
        initial_state: makes the state before the first step.
        averaged: from the moving average of the parameters, the variables that are scored and saved in their place.
        state: the training state, replicated on the mesh.
        progress: how far it is.
        train_seconds: of the epochs done here, without compilation.
        exit_code: of a run that is stopped, see ``request_stop``.
        stop_requested: whether it was.
    """

    config: RunConfig
    dataset: Dataset
    out: Path
    mesh: jax.sharding.Mesh
    execution: StepExecution
    eval_step: EvalStep
    learning_rate: optax.Schedule
    network: Network
    observe: LayerObserver
    find_cause: Callable[..., str]
    initial_state: Callable[[], TrainState]
    saver: RunSaver
    averaged: Callable[[Variables], Variables]
    state: TrainState
    progress: RunProgress = field(default_factory=RunProgress)
    train_seconds: float = 0.0
    exit_code: int = TrainingInterruptedError.exit_code
    stop_requested: bool = False
    _scored: tuple[int, Variables] | None = None  # by step

    def epochs(self) -> Iterator[StepProgress | EpochResult | Notice]:
        """Trains to the end, yielding progress within an epoch and a result after each. All is saved when it ends.

        Raises:
            TrainingInterruptedError: a stop was requested; the state has been saved.
            BncliError: a step came to NaN or infinity; the state before it has been saved.
            CheckpointError: a save failed; earlier ones are untouched.
        """
        try:
            yield from self._epochs()
            yield from self._last_save()
        finally:
            self.saver.wait()  # of a run that ends by an error, which is what is to be told
            with suppress(RuntimeError):  # its memory may have gone to a step that failed
                jax.block_until_ready(self.state)  # an interpreter that ends while a step is under way crashes

    def _epochs(self) -> Iterator[StepProgress | EpochResult | Notice]:
        self.state = jax.device_put(self.state, replicated(self.mesh))
        while self.progress.epochs_done < self.config.training.epochs and not self._patience_is_spent():
            yield from self._epoch()

    def request_stop(self, exit_code: int = TrainingInterruptedError.exit_code) -> None:
        """Has the run saved and stopped after the step under way; the error then has this exit code."""
        self.exit_code = exit_code
        self.stop_requested = True

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch."""
        return steps_per_epoch(len(self.dataset.train), self.config.training.batch_size)

    @property
    def stopped_early(self) -> bool:
        """Whether patience ended the run before its last epoch."""
        return self.progress.epochs_done < self.config.training.epochs and self._patience_is_spent()

    def _epoch(self) -> Iterator[StepProgress | EpochResult | Notice]:
        compiling_before = self.execution.compile_seconds
        start = time.perf_counter()
        if not (yield from self._train_steps()):
            return  # back at a save: another epoch, perhaps
        train_seconds = time.perf_counter() - start - (self.execution.compile_seconds - compiling_before)
        result = self._finish_epoch(train_seconds)
        seconds = time.perf_counter() - start - (self.execution.compile_seconds - compiling_before)
        result = replace(result, seconds=seconds)
        self.train_seconds += seconds
        yield from self._save_epoch(result)
        yield result

    def _train_steps(self) -> Generator[StepProgress | Notice, None, bool]:
        """The steps of the epoch under way that are still to do; False where the run went back to a save."""
        while (yield from self._steps_until_halt()):
            rollbacks = self.progress.rollbacks
            yield self._recover()
            if self.progress.rollbacks != rollbacks:
                return False
        return True

    def _steps_until_halt(self) -> Generator[StepProgress | Notice, None, bool]:
        """Steps to the end of the epoch; True where one of them halted."""
        epoch = self.progress.epochs_done  # from 0: it seeds order and augmentation
        done = self.progress.steps_into_epoch
        pending: deque[tuple[int, StepMetrics]] = deque()
        clock = Throughput()
        for group in self.execution.groups(islice(self._batches(epoch), done, None)):
            if self.stop_requested or self.saver.is_due(epoch * self.steps_per_epoch + done):
                if (yield from self._drain(pending, clock)):
                    return True
                if self.stop_requested:
                    self._stop(steps_into_epoch=done)
                yield from self._save(steps_into_epoch=done)
            self.state, metrics = self.execution.run(self.state, epoch, group)
            done += len(group)
            pending.append((done, metrics))
            clock.count(sum(batch.num_real for batch in group))
            if (yield from self._drain(pending, clock, leave=STEPS_AHEAD)):
                return True
            yield from self._told(self.saver.failure())
        return (yield from self._drain(pending, clock))

    def _batches(self, epoch: int) -> Iterator[Batch]:
        order = epoch_order(self.config.training.seed, epoch, len(self.dataset.train))
        return epoch_batches(order, self.config.training.batch_size)

    def _drain(
        self, pending: deque[tuple[int, StepMetrics]], clock: Throughput, *, leave: int = 0
    ) -> Generator[StepProgress, None, bool]:
        """Waits for all steps but the last ``leave``; True where one of them halted."""
        while len(pending) > leave:
            step, metrics = pending.popleft()
            if bool(metrics.halted):
                return True
            yield self._step_progress(step, metrics, clock)
        return False

    def _recover(self) -> Notice:
        """Goes on after a halt as ``--on-nan`` says; to be told.

        Raises:
            BncliError: the run ends; the state before the step has been saved.
        """
        epoch, step = self.progress.epochs_done, int(self.state.step)
        self.state = replace(self.state, halted=self._scalar(False))
        at = step - epoch * self.steps_per_epoch
        batch = next(islice(self._batches(epoch), at, None))
        cause = self._cause(self.execution.arguments(epoch, [batch]))
        what = f"step {step + 1} (epoch {epoch + 1}): {cause} is not finite"
        way = way_on(self.config.training.on_nan, self.progress, step=step + 1)
        if way == "rollback":
            return Notice(f"{what}; {self._roll_back()}")
        if way == "skip":
            self.state = replace(self.state, step=self._scalar(np.int32(step + 1)))
            self.progress = replace(self.progress, skipped=(*self.progress.skipped, step + 1), steps_into_epoch=at + 1)
            return Notice(f"{what}; the step is left out")
        self.progress = replace(self.progress, steps_into_epoch=at)
        raise self._diverged(what)

    def _cause(self, arguments: StepArguments) -> str:
        """What is not finite, in words; of a user's model that cannot be looked into, only that something is."""
        try:
            return self.find_cause(self.state, *arguments)
        except Exception:
            return "a value"

    def _roll_back(self) -> str:
        """Puts the run back to its last good save, or to its start, with half of the learning rate.

        Raises:
            CheckpointError: the save under way failed, and the run is to end by that.
        """
        failed = "; ".join(notice.message for notice in self._told(self.saver.wait()))
        rollbacks = self.progress.rollbacks + 1
        if checkpoint.complete_steps(self.out):
            save = checkpoint.find_step(self.out, "last")
            self.state, progress = restore(self.out, save, self.state)
            where = f"the save of step {save}"
        else:
            self.state, progress = jax.device_put(self.initial_state(), replicated(self.mesh)), RunProgress()
            where = "the start"
        scale = np.float32(0.5**rollbacks)
        self.state = replace(self.state, rate_scale=self._scalar(scale))
        self.progress = replace(progress, rollbacks=rollbacks)
        self.saver.last_step, self.saver.best = int(self.state.step), progress.best
        self._scored = None
        checkpoint.write_metrics(self.out, progress.to_json()["history"])
        checkpoint.keep_layers(self.out, epochs=progress.epochs_done)
        return f"{failed}{'; ' if failed else ''}back to {where}, with {scale:g} of the learning rate"

    def _scalar(self, value: np.generic | bool) -> jax.Array:
        return jax.device_put(jnp.asarray(value), replicated(self.mesh))

    def _step_progress(self, step: int, metrics: StepMetrics, clock: Throughput) -> StepProgress:
        loss, accuracy = float(metrics.loss), float(metrics.accuracy)  # waits for an old step, not for the newest
        return StepProgress(
            epoch=self.progress.epochs_done + 1,
            step=step,
            steps=self.steps_per_epoch,
            loss=loss,
            accuracy=accuracy,
            images_per_second=clock.rate(),
        )

    def _finish_epoch(self, train_seconds: float) -> EpochResult:
        """Validates, and starts the next epoch's sums."""
        metrics = jax.device_get(self.state.metrics)
        epoch = self.progress.epochs_done + 1
        if metrics.num_examples == 0:
            raise self._diverged(f"epoch {epoch}: each of its steps was left out")
        result = score(
            self.eval_step,
            self._scored_variables(),
            self.dataset.val,
            class_names=self.dataset.class_names,
            batch_size=self.config.training.batch_size,
            mesh=self.mesh,
        )
        trained_now = len(self.dataset.train) * (1 - self.progress.steps_into_epoch / self.steps_per_epoch)
        zero = jax.device_put(EpochMetrics.zero(), replicated(self.mesh))
        self.state = replace(self.state, metrics=zero)
        return EpochResult(
            epoch=epoch,
            train_loss=float(metrics.loss_sum / metrics.num_examples),
            train_accuracy=float(metrics.num_correct / metrics.num_examples),
            val_loss=result.loss,
            val_accuracy=result.accuracy,
            lr=float(self.learning_rate(self._updates() - 1)) * float(self.state.rate_scale),
            seconds=0.0,
            images_per_second=trained_now / train_seconds,
        )

    def _updates(self) -> int:
        """Steps that moved the weights: the schedule counts those."""
        return int(self.state.step) - len(self.progress.skipped)

    def _diverged(self, what: str) -> BncliError:
        try:
            self._save_and_wait()
            saved = f"The save of step {int(self.state.step)} is from before it."
        except CheckpointError as error:
            saved = f"The state before it is not saved: {error.message}."
        return diverged(what, saved=saved, learning_rate=self.config.optimizer.peak_learning_rate)

    def _save_epoch(self, result: EpochResult) -> Iterator[Notice]:
        yield from self._told(self.saver.wait())
        best = better(self.progress.best, result, int(self.state.step))
        history = (*self.progress.history, result)
        self.progress = replace(self.progress, best=best, history=history, steps_into_epoch=0)
        variables = self._scored_variables()
        self.saver.start(self.state, variables, self.progress, layers=self.observe(variables))

    def _save(self, *, steps_into_epoch: int) -> Iterator[Notice]:
        """Begins a save within an epoch."""
        yield from self._told(self.saver.wait())
        progress = replace(self.progress, steps_into_epoch=steps_into_epoch)
        self.saver.start(self.state, self._scored_variables(), progress)

    def _told(self, error: CheckpointError | None) -> Iterator[Notice]:
        """Tells of a save that failed; where it was that of the best epoch, the best is the one before again."""
        if error is None:
            return
        if self.config.training.on_save_error == "stop":
            raise error
        self.progress = replace(self.progress, best=self.saver.best)
        yield Notice(f"{error.message}; the training goes on")

    def _last_save(self) -> Iterator[Notice]:
        """Waits for the save of the last epoch; where the training was to go on without it, it is tried once more."""
        error = self.saver.wait()
        yield from self._told(error)
        if error is not None or self.progress.best is None:
            last = self.progress.history[-1]
            self.progress = replace(self.progress, best=better(self.progress.best, last, int(self.state.step)))
            self._save_and_wait()

    def _save_and_wait(self) -> None:
        """Saves the state as it is, unless it is saved already.

        Raises:
            CheckpointError: it could not be written.
        """
        if self.saver.wait() is not None:
            self.progress = replace(self.progress, best=self.saver.best)
        if int(self.state.step) not in checkpoint.complete_steps(self.out):
            self._write_save()

    def _write_save(self) -> None:
        self.saver.start(self.state, self._scored_variables(), self.progress)
        if error := self.saver.wait():
            raise error

    def _stop(self, *, steps_into_epoch: int) -> None:
        self.progress = replace(self.progress, steps_into_epoch=steps_into_epoch)
        self._save_and_wait()
        error = TrainingInterruptedError(
            f"interrupted in epoch {self.progress.epochs_done + 1}; saved at step {int(self.state.step)} in {self.out}",
            remedy=f"Go on with: bncli train --resume --out {self.out}",
        )
        error.exit_code = self.exit_code
        raise error

    def _scored_variables(self) -> Variables:
        """What this step's network is scored and saved by: the trained variables, or the averaged ones."""
        if not self.state.ema:
            return self.state.variables
        step = int(self.state.step)
        if self._scored is None or self._scored[0] != step:
            averaged = {"batch_stats": self.state.batch_stats, "params": self.state.ema}
            with np.errstate(over="ignore", invalid="ignore"):
                measured = self.averaged(averaged)
            # Weights on their way to infinity have statistics beyond it, and no save is to hold those.
            self._scored = step, measured if bool(all_finite(measured)) else averaged
        return self._scored[1]

    def _patience_is_spent(self) -> bool:
        patience, best = self.config.training.patience, self.progress.best
        return patience is not None and best is not None and self.progress.epochs_done - best.epoch >= patience
