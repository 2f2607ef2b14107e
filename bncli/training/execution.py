"""The training step on the devices: compiled on first use, and given one batch or several in each dispatch.

A batch's way to the step: ``data/batches.py`` says which examples are in it, ``arguments`` puts their indices on the
devices, and the step gathers the images from the split that lies there. The images of a streamed split come with the
batch instead (``data/feed.py``), and are put on the devices while the step before runs.

Letters: N examples in the split, B batch size, S steps in one dispatch.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from itertools import islice
from typing import TypeAlias, TypeVar

import jax
import numpy as np

from bncli.data import Split
from bncli.data.batches import Batch, epoch_batches, epoch_order, steps_per_epoch
from bncli.data.feed import training_feed
from bncli.process import distributed
from bncli.process.flags import is_kept
from bncli.process.memory import require_memory
from bncli.process.mesh import fitting_batch_size, own_rows, put_rows, put_whole
from bncli.process.phase_clock import PhaseClock
from bncli.training.examples import DeviceSplit, Examples, gather
from bncli.training.hyperparameters import Hyperparameters, Rates
from bncli.training.programs import CompiledStep, StepProgram, compiled_step
from bncli.training.state import TrainState
from bncli.training.step_settings import StepSettings
from bncli.training.steps import StepMetrics, changes

# Most steps in one dispatch where a scan over steps is fast (GPU and TPU).
STEPS_PER_SCAN = 32
# Most bytes of their images: 6 batches of 128 photographs of 224×224. Ctrl-C waits for the dispatch under way.
BYTES_PER_SCAN = 1 << 27
_FEWER_IMAGES = "Train on fewer or smaller images, or use a machine with more memory."

# The arguments of a step after the state: (split, epoch int32 [], indices int32 [B] or [S, B], mask bool of the same
# shape or None, hyperparameters).
StepArguments: TypeAlias = tuple[DeviceSplit, jax.Array, jax.Array, jax.Array | None, Hyperparameters]
Tree = TypeVar("Tree")


class StepExecution:
    """A training step together with the split that it trains on.

    Attributes:
        programs: the steps in use, by (True if ``--unfreeze-at`` has come, S).
        compile_seconds: time that the run has waited for compilation.
    """

    def __init__(
        self,
        settings: StepSettings,
        split: Split,
        *,
        batch_size: int,
        mesh: jax.sharding.Mesh,
        deterministic: bool = False,
        workers: int = 0,
        clock: PhaseClock | None = None,
    ) -> None:
        """Nothing is compiled, read or put on the devices before the first run."""
        self.programs: dict[tuple[bool, int], CompiledStep] = {}
        self.compile_seconds = 0.0
        self.mesh = mesh
        self._clock = clock or PhaseClock()
        self._settings = settings
        self._split = split
        parts = 1 if settings.accumulation is None else settings.accumulation.steps
        self._batch_size = fitting_batch_size(batch_size, len(split), mesh, parts=parts)
        self._deterministic = deterministic
        self._feed = training_feed(
            split,
            settings.augmentation.when_read,
            seed=settings.seed,
            batch_size=self._batch_size,
            part=own_rows(mesh, self._batch_size),
            workers=workers,
        )
        self._ahead: Future[CompiledStep] | None = None
        self._source = settings.hyperparameters
        self._known_rates = (0, self._source.rates(np.arange(0)))  # (the first update, the rates from it on)

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch."""
        return steps_per_epoch(len(self._split), self._batch_size)

    def compile_ahead(self) -> None:
        """Start to compile the step of a CPU on a thread; the first run waits for it.

        It helps while the interpreter is busy with imports and tracing, because XLA's compiler releases it. A program
        that is not kept in the compile cache is left to the first run: programs compiled beside it would not be kept
        either.
        """
        program = self._program(self._settings.at_epoch(0), 1)
        if self._steps_per_dispatch == 1 and is_kept(program.compiler_options):
            pool = ThreadPoolExecutor(1, thread_name_prefix="compile-step")
            self._ahead = pool.submit(compiled_step, program)
            pool.shutdown(wait=False)

    def groups(self, epoch: int, *, start: int = 0) -> Iterator[list[Batch]]:
        """The batches of an epoch from step ``start`` on, grouped as they are dispatched."""
        batches = islice(self._batches(epoch), start, None)
        if self._feed is not None:
            return self._fed(batches, epoch * self.steps_per_epoch + start)
        return grouped(batches, self._steps_per_dispatch, start=start)

    def run(
        self, state: TrainState, epoch: int, group: Sequence[Batch], *, updates: int
    ) -> tuple[TrainState, StepMetrics]:
        """(state, metrics) after the steps of one group. It compiles on first use, and reuses the given state's memory.

        Args:
            state: replicated on the mesh.
            epoch: from 0; it seeds the augmentation.
            group: S batches.
            updates: done before, for the learning rate.
        """
        settings = self.settings_at(epoch)
        key = settings.released, len(group)
        if key not in self.programs:
            start = time.perf_counter()
            with self._clock.phase("compile"):
                self.programs[key] = self._compiled(settings, len(group))
                distributed.barrier()  # the collectives of a CPU fail if a process comes 30 s late
            self.compile_seconds += time.perf_counter() - start
        return self.programs[key].run(state, *self.arguments(epoch, group, updates=updates))

    def settings_at(self, epoch: int) -> StepSettings:
        """The settings of the step in an epoch, from 0."""
        return self._settings.at_epoch(epoch)

    def arguments(self, epoch: int, group: Sequence[Batch], *, updates: int) -> StepArguments:
        """The step's arguments after the state, on the devices; stacked if the group has more than one batch."""
        rates = self._rates(updates, updates + len(group))
        one = len(group) == 1

        def put(arrays: list[np.ndarray]) -> jax.Array:
            stacked = arrays[0] if one else np.stack(arrays)  # [B] or [S, B]
            placed: jax.Array = put_rows(stacked, self.mesh, axis=0 if one else 1)
            return placed

        return (
            self._on_devices if self._feed is None else self._batch_on_devices(group),
            put_whole(np.int32(epoch), self.mesh),
            put([batch.indices for batch in group]),
            put([batch.real for batch in group]) if self._has_padding else None,
            replace(self._hyperparameters, rates=self.put(rates.first if one else rates)),
        )

    def _rates(self, start: int, stop: int) -> Rates:
        """The rates of the updates from ``start`` to before ``stop``; those of many are computed at once."""
        first, known = self._known_rates
        if not first <= start <= stop <= first + known.learning_rate.size:
            first = start
            known = self._source.rates(np.arange(start, start + max(self.steps_per_epoch, stop - start)))
            self._known_rates = first, known
        part = slice(start - first, stop - first)
        return Rates(known.learning_rate[part], known.release[part])

    def learning_rate(self, update: int) -> float:
        """The learning rate of one update, from 0."""
        return float(self._rates(update, update + 1).learning_rate[0])

    def examples(self, epoch: int, step: int) -> Examples:
        """The examples of one batch, the ``step``-th of the epoch from 0, as the step sees them."""
        (batch,) = next(iter(self.groups(epoch, start=step)))[:1]
        split, number, indices, mask, hyperparameters = self.arguments(epoch, [batch], updates=0)
        keys, flips = changes(self._settings, hyperparameters, number, indices)
        if self._feed is not None:
            return Examples(split.images, split.labels, keys, mask, flips)
        return gather(split, indices, mask, keys=keys, flips=flips)

    @property
    def is_fed(self) -> bool:
        """True if images are read while the training runs, and are not all on the devices."""
        return self._feed is not None

    def close(self) -> None:
        """End the reading of streamed images."""
        if self._feed is not None:
            self._feed.close()

    def put(self, tree: Tree) -> Tree:
        """A state or a part of one on the devices, whole on each."""
        placed: Tree = put_whole(tree, self.mesh)
        return placed

    def scalar(self, value: np.generic | bool) -> jax.Array:
        """A number on the devices, to take the place of one in the state."""
        placed: jax.Array = put_whole(np.asarray(value), self.mesh)
        return placed

    def _fed(self, batches: Iterator[Batch], first: int) -> Iterator[list[Batch]]:
        """The batches one by one, each with its images on the devices; one is put there ahead of its use."""
        assert self._feed is not None
        ahead: deque[Batch] = deque()
        for step, batch in enumerate(batches, start=first):
            ahead.append(self._with_images(batch, self._feed.images(step)))
            if len(ahead) > 1:
                yield [ahead.popleft()]
        yield from ([batch] for batch in ahead)

    def _with_images(self, batch: Batch, images: np.ndarray) -> Batch:
        placed: jax.Array = put_rows(images, self.mesh, whole=False)
        return replace(batch, images=placed)

    def _batch_on_devices(self, group: Sequence[Batch]) -> DeviceSplit:
        """The images and labels of a batch."""
        (batch,) = group
        assert batch.images is not None, "a streamed batch comes with its images"
        labels: jax.Array = put_rows(self._split.labels[batch.indices], self.mesh)
        return DeviceSplit(batch.images, labels)

    def _batches(self, epoch: int) -> Iterator[Batch]:
        return epoch_batches(epoch_order(self._settings.seed, epoch, len(self._split)), self._batch_size)

    def _compiled(self, settings: StepSettings, num_steps: int) -> CompiledStep:
        if num_steps == 1 and self._ahead is not None and settings.program == self._settings.at_epoch(0).program:
            return self._ahead.result()
        return compiled_step(self._program(settings, num_steps))

    def _program(self, settings: StepSettings, num_steps: int) -> StepProgram:
        images, labels = self._split.images, self._split.labels
        count = len(self._split) if self._feed is None else self._batch_size
        return StepProgram(
            settings=settings.program,
            images=jax.ShapeDtypeStruct((count, *images.shape[1:]), images.dtype),
            labels=jax.ShapeDtypeStruct((count,), labels.dtype),
            is_fed=self._feed is not None,
            batch_size=self._batch_size,
            num_steps=num_steps,
            has_padding=self._has_padding,
            mesh=self.mesh,
            deterministic=self._deterministic,
        )

    @property
    def _has_padding(self) -> bool:
        """True if some batch of an epoch is padded. Then each batch has a mask, so that one program serves all."""
        return len(self._split) % self._batch_size != 0

    @property
    def _steps_per_dispatch(self) -> int:
        if self._feed is not None:  # many batches of photographs would fill the memory of a device
            return 1
        if self.mesh.devices.flat[0].platform == "cpu":
            return 1
        batch_bytes = self._batch_size * math.prod(self._split.images.shape[1:])
        return scan_size(self.steps_per_epoch, most=min(STEPS_PER_SCAN, max(1, BYTES_PER_SCAN // batch_bytes)))

    @cached_property
    def _hyperparameters(self) -> Hyperparameters:
        """The hyperparameters on the devices; their rates are those of no step."""
        placed: Hyperparameters = self.put(self._source.at())
        return placed

    @cached_property
    def _on_devices(self) -> DeviceSplit:
        if self.mesh.devices.flat[0].platform == "cpu":  # whose devices have the memory of this process
            require_memory(self._split.images.nbytes, what="a copy of the training images", remedy=_FEWER_IMAGES)
        return DeviceSplit(*put_whole((self._split.images, self._split.labels), self.mesh))


def scan_size(steps_per_epoch: int, *, most: int) -> int:
    """The steps of one dispatch, at most ``most``, that cut an epoch into equal pieces.

    If a number in the upper half of ``most`` divides the epoch, all are equal, and one program serves them.
    Otherwise the last piece is a little smaller. A step by itself would wait for the host.
    """
    exact = (size for size in range(most, most // 2, -1) if steps_per_epoch % size == 0)
    num_pieces = -(-steps_per_epoch // most)
    return next(exact, -(-steps_per_epoch // num_pieces))


def grouped(batches: Iterator[Batch], size: int, *, start: int = 0) -> Iterator[list[Batch]]:
    """The batches from step ``start`` of an epoch on, cut at the multiples of ``size``.

    Up to the first multiple they go one by one, so that an epoch that is taken up anywhere needs one program more.
    """
    yield from ([batch] for batch in islice(batches, -start % size))
    while group := list(islice(batches, size)):
        yield group
