"""The cause of a step that was not finite: the place in the network where the first such value appears."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bncli.frameworks.calls import LayerCall, observing
from bncli.process.shared_programs import shared
from bncli.training.examples import Examples
from bncli.training.hyperparameters import Hyperparameters
from bncli.training.loss import make_loss
from bncli.training.state import ArrayTree, TrainState
from bncli.training.step_settings import StepSettings
from bncli.training.steps import all_finite


class _Finite(NamedTuple):
    """Booleans: for each value of a step, True if it is finite."""

    outputs: list[jax.Array]  # of the modules, in the order in which they finish
    batch_stats: ArrayTree
    loss: jax.Array
    grads: ArrayTree


def first_non_finite(settings: StepSettings, state: TrainState, examples: Examples) -> str:
    """Name the value that is first not finite in a step: "the output of Conv_2", "the gradient of Dense_0/kernel".

    Args:
        settings: of the step.
        state: before the step.
        examples: of the step.
    """
    hyperparameters = settings.hyperparameters.at()
    names, finite = _examination(settings.program)(state, examples, hyperparameters)
    for name, is_finite in zip(names, finite.outputs, strict=True):
        if not is_finite:
            return f"the output of {name}" if name else "the output of the network"
    if bad := _paths(finite.batch_stats):
        return f"the running statistics of {min(bad, key=lambda path: _place(path, names))}"
    if not finite.loss:
        return "the loss"
    if bad := _paths(finite.grads):  # gradients are computed from the loss back to the images
        return f"the gradient of {max(bad, key=lambda path: _place(path, names))}"
    return "the optimizer's update"


class _Examination:
    """Finds which values of a step are finite; compiled at the first call."""

    def __init__(self, settings: StepSettings) -> None:
        self._loss_of = make_loss(settings)
        self._names: list[str] = []
        self._jitted = jax.jit(self._examine)

    def __call__(
        self, state: TrainState, examples: Examples, hyperparameters: Hyperparameters
    ) -> tuple[list[str], _Finite]:
        """The paths of the modules in the order in which they finish, and which values are finite."""
        finite: _Finite = jax.device_get(self._jitted(state, examples, hyperparameters))
        return self._names, finite

    def _examine(self, state: TrainState, examples: Examples, hyperparameters: Hyperparameters) -> _Finite:
        names: list[str] = []
        outputs: list[jax.Array] = []

        def look(call: LayerCall) -> None:
            names.append(call.path)
            outputs.append(all_finite(call.outputs))

        with observing(look, hidden=lambda call: None):  # a module around the loop is named instead
            loss, (_, batch_stats) = self._loss_of(state.params, state, examples, hyperparameters)
        grads, _ = jax.grad(self._loss_of, has_aux=True)(state.params, state, examples, hyperparameters)
        self._names = names  # as traced: the same each time
        return _Finite(
            outputs=outputs,
            batch_stats=jax.tree.map(all_finite, batch_stats),
            loss=jnp.isfinite(loss),
            grads=jax.tree.map(lambda grad: all_finite(grad**2), grads),
        )


_examination = shared(_Examination)


def _paths(tree: ArrayTree) -> list[str]:
    """The paths of the leaves that are False."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, is_finite in leaves if not is_finite]


def _place(path: str, names: list[str]) -> int:
    """The place of the module that owns an array in the order of the calls."""
    owner = path.rpartition("/")[0]
    return names.index(owner) if owner in names else -1
