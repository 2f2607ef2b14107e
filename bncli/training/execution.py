"""How the training step meets the devices: what one dispatch takes, compiled on first use, its batches as arrays.

Letters: N examples in the split, B batch size, S steps in one dispatch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

import jax
import numpy as np

from bncli.config.settings import TrainingConfig
from bncli.data import Dataset
from bncli.data.batches import Batch
from bncli.process.flags import compile_step, in_one_place, is_kept, step_compiler_options
from bncli.process.mesh import batch_sharding, replicated
from bncli.training.state import TrainState
from bncli.training.steps import DeviceSplit, StepMetrics, TrainStep, scan_steps

# Steps in one dispatch where a scan over steps is fast (GPU and TPU).
STEPS_PER_SCAN = 32

# (split, epoch int32 [], indices int32 [B] or [S, B], mask bool of the same shape or None): what a step takes after
# the state.
StepArguments = tuple[DeviceSplit, jax.Array, jax.Array, jax.Array | None]


class StepExecution:
    """A training step on the training split of a data set, which it holds on the devices.

    Attributes:
        programs: by S, what was compiled.
        compile_seconds: that runs waited for it.
    """

    def __init__(
        self, train_step: TrainStep, *, training: TrainingConfig, dataset: Dataset, mesh: jax.sharding.Mesh
    ) -> None:
        """Of a step that is not compiled yet; nothing is put on the devices before the first run."""
        self.programs: dict[int, jax.stages.Compiled] = {}
        self._placed: dict[int, Callable[..., Any]] = {}  # the same
        self.compile_seconds = 0.0
        self._train_step = train_step
        self._training = training
        self._dataset = dataset
        self._mesh = mesh
        self._split: DeviceSplit | None = None
        self._ahead: Future[jax.stages.Compiled] | None = None

    def compile_ahead(self, state: TrainState) -> None:
        """Begins to compile the step of a CPU on a thread; the first run waits for it. ``state``: shapes are enough.

        It helps where the interpreter is busy too, with imports and tracing; XLA's compiler lets go of it. A program
        that is not kept in the compile cache is left to the first run: what is compiled beside it would not be either.
        """
        if self._steps_per_dispatch == 1 and is_kept(self._compiler_options()):
            pool = ThreadPoolExecutor(1, thread_name_prefix="compile-step")
            self._ahead = pool.submit(self._compile, 1, state)
            pool.shutdown(wait=False)

    def groups(self, batches: Iterator[Batch]) -> Iterator[list[Batch]]:
        """Batches by what one dispatch takes: one on a CPU, several where a scan over steps is fast.

        What is left over goes one by one, so that there are at most two programs to compile.
        """
        size = self._steps_per_dispatch
        while group := list(islice(batches, size)):
            yield from [group] if len(group) == size else [[batch] for batch in group]

    def run(self, state: TrainState, epoch: int, group: Sequence[Batch]) -> tuple[TrainState, StepMetrics]:
        """(state, metrics) after the steps of one group; compiles on first use, and takes the given state's memory.

        Args:
            state: replicated on the mesh.
            epoch: from 0: it seeds the augmentation.
            group: S batches.
        """
        if len(group) not in self.programs:
            start = time.perf_counter()
            self.programs[len(group)] = self._program(len(group), state)
            self.compile_seconds += time.perf_counter() - start
            self._placed[len(group)] = in_one_place(self.programs[len(group)])
        stepped: tuple[TrainState, StepMetrics] = self._placed[len(group)](state, *self.arguments(epoch, group))
        return stepped

    def arguments(self, epoch: int, group: Sequence[Batch]) -> StepArguments:
        """What the step takes after the state, on the devices; stacked where the group is more than one batch."""
        one = len(group) == 1
        sharding = batch_sharding(self._mesh, axis=0 if one else 1)

        def put(arrays: list[np.ndarray]) -> jax.Array:
            return jax.device_put(arrays[0] if one else np.stack(arrays), sharding)  # [B] or [S, B]

        return (
            self._split_on_devices(),
            jax.device_put(np.int32(epoch), replicated(self._mesh)),
            put([batch.indices for batch in group]),
            put([batch.real for batch in group]) if self._has_padding else None,
        )

    def _program(self, num_steps: int, state: TrainState) -> jax.stages.Compiled:
        if num_steps == 1 and self._ahead is not None:
            return self._ahead.result()
        return self._compile(num_steps, state)

    def _compile(self, num_steps: int, state: TrainState) -> jax.stages.Compiled:
        step = self._train_step if num_steps == 1 else scan_steps(self._train_step)
        arguments = (self._as_replicated(state), *self._abstract_arguments(num_steps))
        return compile_step(jax.jit(step, donate_argnums=0), arguments, self._compiler_options())

    def _compiler_options(self) -> dict[str, bool]:
        return step_compiler_options(
            precision=self._training.precision,
            image_shape=self._dataset.image_shape,
            deterministic=self._training.deterministic,
        )

    def _abstract_arguments(self, num_steps: int) -> tuple[Any, ...]:
        """Shapes, dtypes and places of ``arguments``."""
        one = num_steps == 1
        shape = (self._training.batch_size,) if one else (num_steps, self._training.batch_size)
        sharding = batch_sharding(self._mesh, axis=0 if one else 1)
        train = self._dataset.train
        return (
            DeviceSplit(self._as_replicated(train.images), self._as_replicated(train.labels)),
            self._as_replicated(np.int32(0)),
            jax.ShapeDtypeStruct(shape, np.int32, sharding=sharding),
            jax.ShapeDtypeStruct(shape, bool, sharding=sharding) if self._has_padding else None,
        )

    def _as_replicated(self, tree: Any) -> Any:  # noqa: ANN401 - any pytree of what has a shape and a dtype
        sharding = replicated(self._mesh)
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)

    @property
    def _steps_per_dispatch(self) -> int:
        return 1 if self._mesh.devices.flat[0].platform == "cpu" else STEPS_PER_SCAN

    def _split_on_devices(self) -> DeviceSplit:
        if self._split is None:
            train = self._dataset.train
            self._split = DeviceSplit(*jax.device_put((train.images, train.labels), replicated(self._mesh)))
        return self._split

    @property
    def _has_padding(self) -> bool:
        """Whether some batch of an epoch is padded; then each gets a mask, so that there is one program to compile."""
        return len(self._dataset.train) % self._training.batch_size != 0
