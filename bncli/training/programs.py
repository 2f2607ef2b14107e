"""The programs of a training, compiled: the first state and the training step.

Trainings of one process that need the same program share it: a second one with equal settings compiles nothing.

Letters: N examples in the split, B batch size, S steps in one dispatch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import jax
import numpy as np

from bncli.process.flags import compile_step, once_compiler_options, step_compiler_options
from bncli.process.heap import in_one_place
from bncli.process.mesh import batch_sharding, replicated
from bncli.process.shared_programs import shared
from bncli.training.examples import DeviceSplit
from bncli.training.hyperparameters import seed_key
from bncli.training.state import TrainState, create_train_state
from bncli.training.step_settings import StepSettings
from bncli.training.steps import TrainStep, make_fed_step, make_train_step, scan_steps

Tree = TypeVar("Tree")


class InitialState:
    """Makes the state before the first step; traced once, compiled at the first call."""

    def __init__(self, settings: StepSettings) -> None:
        def first_state(seed_key: jax.Array) -> TrainState:
            return create_train_state(
                settings.network,
                settings.make_optimizer(),
                image_shape=settings.preprocessor.image_shape,
                seed_key=jax.random.wrap_key_data(seed_key),
                keep_ema=settings.ema_decay is not None,
            )

        self._traced = jax.jit(first_state, compiler_options=once_compiler_options()).trace(seed_key(0))

    def __call__(self, seed: int) -> TrainState:
        """The state before the first step of a run with this seed."""
        state: TrainState = self._compiled(seed_key(seed))
        return state

    @property
    def shapes(self) -> TrainState:
        """The shape and dtype of each array of the state."""
        shapes: TrainState = self._traced.out_info
        return shapes

    @cached_property
    def _compiled(self) -> Callable[[np.ndarray], TrainState]:
        compiled: Callable[[np.ndarray], TrainState] = self._traced.lower().compile()
        return compiled


_initial_state = shared(InitialState)


def initial_state(settings: StepSettings) -> InitialState:
    """The maker of the state before the first step, shared by runs that differ in hyperparameters alone."""
    return _initial_state(settings.program)


@dataclass(frozen=True, kw_only=True)
class StepProgram:
    """Everything that a compiled step depends on.

    Attributes:
        settings: of the step, with neutral hyperparameters.
        images: shape and dtype of the split's images or, if they are fed, of the batch's.
        labels: shape and dtype of its labels.
        is_fed: the step is given the images of its batch, and not the split.
        batch_size: B.
        num_steps: S.
        has_padding: each batch comes with a mask.
        mesh: the devices.
        deterministic: on a GPU, only algorithms that give the same bytes each time.
    """

    settings: StepSettings
    images: jax.ShapeDtypeStruct
    labels: jax.ShapeDtypeStruct
    batch_size: int
    num_steps: int
    has_padding: bool
    mesh: jax.sharding.Mesh
    deterministic: bool
    is_fed: bool = False

    @property
    def compiler_options(self) -> dict[str, bool]:
        """XLA's options for the step."""
        return step_compiler_options(
            precision=self.settings.preprocessor.precision,
            image_shape=self.settings.preprocessor.image_shape,
            deterministic=self.deterministic,
        )

    def abstract_arguments(self) -> tuple[object, ...]:
        """Shapes, dtypes and shardings of the state and of the ``StepArguments``."""
        one = self.num_steps == 1
        shape = (self.batch_size,) if one else (self.num_steps, self.batch_size)
        sharding, whole = batch_sharding(self.mesh, axis=0 if one else 1), replicated(self.mesh)
        mask = jax.ShapeDtypeStruct(shape, bool, sharding=sharding) if self.has_padding else None
        return (
            self._placed(initial_state(self.settings.at_epoch(0)).shapes, whole),
            self._placed(jax.eval_shape(DeviceSplit, self.images, self.labels), sharding if self.is_fed else whole),
            self._placed(jax.ShapeDtypeStruct((), np.int32), whole),
            jax.ShapeDtypeStruct(shape, np.int32, sharding=sharding),
            mask,
            self._placed(self.settings.hyperparameters.at(np.zeros(() if one else self.num_steps, np.int64)), whole),
        )

    @staticmethod
    def _placed(tree: Tree, sharding: jax.sharding.Sharding) -> Tree:
        placed: Tree = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)
        return placed


@dataclass(frozen=True)
class CompiledStep:
    """A compiled step: the program, and the function that runs it."""

    program: jax.stages.Compiled
    run: TrainStep


@shared
def compiled_step(program: StepProgram) -> CompiledStep:
    """Compile a step, unless an equal one is compiled already. The state it is given gives up its memory."""
    step = (make_fed_step if program.is_fed else make_train_step)(program.settings)
    step = step if program.num_steps == 1 else scan_steps(step)
    jitted = jax.jit(step, donate_argnums=0)
    compiled = compile_step(jitted, program.abstract_arguments(), program.compiler_options)
    return CompiledStep(compiled, in_one_place(compiled, compiled))
