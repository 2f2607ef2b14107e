"""The training loop: takes batches to the step, epochs to the validation split, and state to the disk.

``Trainer.epochs()`` is a generator of events. It computes and saves but prints nothing: the command draws the bar.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from bncli import checkpoint
from bncli.config import RunConfig
from bncli.data import Dataset
from bncli.data.batches import Batch, epoch_batches, epoch_order, steps_per_epoch
from bncli.errors import BncliError, TrainingInterruptedError
from bncli.evaluation import evaluate
from bncli.models import Network, Variables
from bncli.runtime import batch_sharding, compile_step, replicated, step_compiler_options
from bncli.training.observation import LayerObserver
from bncli.training.progress import EpochResult, RunProgress, StepProgress, better
from bncli.training.state import EpochMetrics, TrainState
from bncli.training.steps import DeviceSplit, EvalStep, StepMetrics, TrainStep, scan_steps

# Steps given to the device beside the one it is at: it never idles, and Ctrl-C is answered soon.
STEPS_AHEAD = 1
# Steps in one dispatch where a scan over steps is fast (GPU and TPU).
STEPS_PER_SCAN = 32


@dataclass
class Timer:
    """Seconds by what they were spent on."""

    compile: float = 0.0
    train: float = 0.0

    def timed_compile(self, compile_fn: Callable[[], Any]) -> Any:  # noqa: ANN401 - whatever was compiled
        """The result of ``compile_fn``, its time counted as compilation."""
        start = time.perf_counter()
        compiled = compile_fn()
        self.compile += time.perf_counter() - start
        return compiled


@dataclass
class Trainer:
    """A run under way.

    Attributes:
        config: what the user asked for.
        dataset: train and val are used; test is not touched.
        out: the prepared checkpoint directory.
        mesh: the devices.
        train_step: not yet compiled.
        eval_step: jitted.
        learning_rate: the schedule, for the history.
        network: what is trained.
        observe: looks at the layers after each epoch.
        averaged: from the moving average of the parameters, the variables that are scored and saved in their place.
        state: the training state, replicated on the mesh.
        progress: how far it is.
        timer: filled while it runs.
        stop_requested: see ``request_stop``.
    """

    config: RunConfig
    dataset: Dataset
    out: Path
    mesh: jax.sharding.Mesh
    train_step: TrainStep
    eval_step: EvalStep
    learning_rate: optax.Schedule
    network: Network
    observe: LayerObserver
    averaged: Callable[[Variables], Variables]
    state: TrainState
    progress: RunProgress = field(default_factory=RunProgress)
    timer: Timer = field(default_factory=Timer)
    stop_requested: bool = False
    _compiled: dict[int, Callable[..., Any]] = field(default_factory=dict)
    _scored: tuple[int, Variables] | None = None  # by step

    def epochs(self) -> Iterator[StepProgress | EpochResult]:
        """Trains to the end, yielding progress within an epoch and a result after each.

        Raises:
            TrainingInterruptedError: ``stop_requested`` was set; the state has been saved.
            BncliError: the loss is no longer finite; earlier saves are untouched.
            CheckpointError: a save failed.
        """
        self.state = jax.device_put(self.state, replicated(self.mesh))
        train = self.dataset.train
        split = DeviceSplit(*jax.device_put((train.images, train.labels), replicated(self.mesh)))
        while self.progress.epochs_done < self.config.training.epochs and not self._patience_is_spent():
            yield from self._epoch(split)

    def request_stop(self) -> None:
        """Has the run saved and stopped after the step under way."""
        self.stop_requested = True

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch."""
        return steps_per_epoch(len(self.dataset.train), self.config.training.batch_size)

    @property
    def stopped_early(self) -> bool:
        """Whether patience ended the run before its last epoch."""
        return self.progress.epochs_done < self.config.training.epochs and self._patience_is_spent()

    def _epoch(self, split: DeviceSplit) -> Iterator[StepProgress | EpochResult]:
        compiling_before = self.timer.compile
        start = time.perf_counter()
        yield from self._train_steps(split)
        train_seconds = time.perf_counter() - start - (self.timer.compile - compiling_before)
        result = self._finish_epoch(train_seconds)
        seconds = time.perf_counter() - start - (self.timer.compile - compiling_before)
        result = replace(result, seconds=seconds)
        self.timer.train += seconds
        self._save_epoch(result)
        yield result

    def _train_steps(self, split: DeviceSplit) -> Iterator[StepProgress]:
        """The steps of the epoch under way that are still to do."""
        epoch = self.progress.epochs_done  # from 0: it seeds order and augmentation
        order = epoch_order(self.config.training.seed, epoch, len(self.dataset.train))
        batches = epoch_batches(order, self.config.training.batch_size)
        done = self.progress.steps_into_epoch
        pending: deque[tuple[int, StepMetrics]] = deque()
        clock = _Throughput()
        for group in self._groups(islice(batches, done, None)):
            if self.stop_requested:
                self._stop(steps_into_epoch=done)
            metrics = self._run(split, epoch, group)
            done += len(group)
            pending.append((done, metrics))
            clock.count(sum(batch.num_real for batch in group))
            if len(pending) > STEPS_AHEAD:
                yield self._step_progress(*pending.popleft(), clock)
        while pending:
            yield self._step_progress(*pending.popleft(), clock)

    def _groups(self, batches: Iterator[Batch]) -> Iterator[list[Batch]]:
        """Batches by what one dispatch takes: one on a CPU, several where a scan over steps is fast."""
        size = 1 if self.mesh.devices.flat[0].platform == "cpu" else STEPS_PER_SCAN
        while group := list(islice(batches, size)):
            yield from [group] if len(group) == size else [[batch] for batch in group]

    def _run(self, split: DeviceSplit, epoch: int, group: list[Batch]) -> StepMetrics:
        """Runs the steps of one group; compiles on first use."""
        arguments = self._device_arguments(split, epoch, group)
        if len(group) not in self._compiled:
            step = self.train_step if len(group) == 1 else scan_steps(self.train_step)
            jitted = jax.jit(step, donate_argnums=0)
            self._compiled[len(group)] = self.timer.timed_compile(
                lambda: compile_step(jitted, (self.state, *arguments), self._compiler_options)
            )
        self.state, metrics = self._compiled[len(group)](self.state, *arguments)
        return metrics

    @property
    def _compiler_options(self) -> dict[str, bool]:
        return step_compiler_options(precision=self.config.training.precision, image_shape=self.dataset.image_shape)

    def _device_arguments(self, split: DeviceSplit, epoch: int, group: list[Batch]) -> tuple[Any, ...]:
        one = len(group) == 1
        sharding = batch_sharding(self.mesh, axis=0 if one else 1)

        def put(arrays: list[np.ndarray]) -> jax.Array:
            return jax.device_put(arrays[0] if one else np.stack(arrays), sharding)  # [B] or [S, B]

        return (
            split,
            jax.device_put(np.int32(epoch), replicated(self.mesh)),
            put([batch.indices for batch in group]),
            put([batch.real for batch in group]) if self._has_padding else None,
        )

    @property
    def _has_padding(self) -> bool:
        """Whether some batch of an epoch is padded; then each gets a mask, so that there is one program to compile."""
        return len(self.dataset.train) % self.config.training.batch_size != 0

    def _step_progress(self, step: int, metrics: StepMetrics, clock: _Throughput) -> StepProgress:
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
        train_loss = float(metrics.loss_sum / metrics.num_examples)
        epoch = self.progress.epochs_done + 1
        if not math.isfinite(train_loss):
            raise self._diverged(epoch)
        result = evaluate(
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
            train_loss=train_loss,
            train_accuracy=float(metrics.num_correct / metrics.num_examples),
            val_loss=result.loss,
            val_accuracy=result.accuracy,
            lr=float(self.learning_rate(int(self.state.step) - 1)),
            seconds=0.0,
            images_per_second=trained_now / train_seconds,
        )

    def _diverged(self, epoch: int) -> BncliError:
        steps = checkpoint.complete_steps(self.out)
        saved = f" The save of step {steps[-1]} is from before it." if steps else ""
        rate = self.config.optimizer.peak_learning_rate
        return BncliError(
            f"the loss is not finite in epoch {epoch}: the training has diverged.{saved}",
            remedy=f"Start again with a lower --learning-rate (it was {rate:g}), a longer --warmup-epochs "
            "or --clip-norm 1.",
        )

    def _save_epoch(self, result: EpochResult) -> None:
        best = better(self.progress.best, result, int(self.state.step))
        self.progress = RunProgress(best=best, history=(*self.progress.history, result))
        layers = self.observe(self._scored_variables())
        # Before the save: a row too many is dropped on resume, one too few would be lost.
        checkpoint.append_layers(self.out, {"epoch": result.epoch, "layers": [asdict(row) for row in layers]})
        self._save()
        checkpoint.append_metrics(self.out, asdict(result))
        checkpoint.prune(self.out, keep=self.config.training.keep, best_step=best.step)

    def _stop(self, *, steps_into_epoch: int) -> None:
        if not math.isfinite(float(self.state.metrics.loss_sum)):
            raise self._diverged(self.progress.epochs_done + 1)  # a save of it would be the last one, and useless
        self.progress = replace(self.progress, steps_into_epoch=steps_into_epoch)
        step = int(self.state.step)
        if step not in checkpoint.complete_steps(self.out):
            self._save()
        raise TrainingInterruptedError(
            f"interrupted in epoch {self.progress.epochs_done + 1}; saved at step {step} in {self.out}",
            remedy=f"Go on with: bncli train --resume --out {self.out}",
        )

    def _save(self) -> None:
        variables, optimizer = split_state(self.state, scored=self._scored_variables())
        checkpoint.save(
            self.out,
            int(self.state.step),
            variables=variables,
            optimizer=optimizer,
            progress=self.progress.to_json(),
        )

    def _scored_variables(self) -> Variables:
        """What this step's network is scored and saved by: the trained variables, or the averaged ones."""
        if not self.state.ema:
            return self.state.variables
        step = int(self.state.step)
        if self._scored is None or self._scored[0] != step:
            self._scored = step, self.averaged({"batch_stats": self.state.batch_stats, "params": self.state.ema})
        return self._scored[1]

    def _patience_is_spent(self) -> bool:
        patience, best = self.config.training.patience, self.progress.best
        return patience is not None and best is not None and self.progress.epochs_done - best.epoch >= patience


def split_state(state: TrainState, *, scored: Variables) -> tuple[Variables, dict[str, Any]]:
    """(variables, the rest) of a state: the two array items of a save, apart so that a reader takes the first alone.

    Args:
        state: of a run.
        scored: what readers are to take: the trained variables, or where there is a moving average that one.
    """
    rest = {"metrics": state.metrics, "opt_state": state.opt_state, "step": state.step}
    return (scored, {**rest, "trained": state.variables}) if state.ema else (state.variables, rest)


def join_state(variables: Variables, rest: Mapping[str, Any]) -> TrainState:
    """The inverse of ``split_state``."""
    if "trained" not in rest:
        return TrainState(**variables, **rest)
    others = {name: value for name, value in rest.items() if name != "trained"}
    return TrainState(**rest["trained"], **others, ema=variables["params"])


class _Throughput:
    """Images per second since the first step was through, so that compilation does not count."""

    def __init__(self) -> None:
        self._start: float | None = None
        self._images = 0

    def count(self, images: int) -> None:
        if self._start is None:
            self._start = time.perf_counter()
        else:
            self._images += images

    def rate(self) -> float:
        elapsed = time.perf_counter() - (self._start or 0.0)
        return self._images / elapsed if self._images else 0.0
