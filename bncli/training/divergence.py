"""Where in the network a step first came to a value that is not finite."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bncli.frameworks.linen import observing
from bncli.training.state import TrainState
from bncli.training.steps import DeviceSplit, StepSettings, all_finite, make_loss


def first_not_finite(
    settings: StepSettings,
    state: TrainState,
    split: DeviceSplit,
    epoch: jax.Array,
    indices: jax.Array,
    mask: jax.Array | None,
) -> str:
    """Names it, in the order in which a step computes: "the output of Conv_2", "the gradient of Dense_0/kernel".

    Args:
        settings: of the step.
        state: the state before it.
        split: the training images.
        epoch: from 0.
        indices: int32 [B], of the batch.
        mask: bool [B], or None.
    """
    loss_of = make_loss(settings)
    outputs: list[str] = []

    def look(module: nn.Module, given: Any, made: Any) -> None:  # noqa: ANN401 - whatever a module takes and returns
        outputs.append("/".join(module.path))
        finite.append(all_finite(made))

    finite: list[jax.Array] = []

    def examine(state: TrainState) -> dict[str, Any]:
        finite.clear()
        outputs.clear()
        with observing(look):
            loss, (_, batch_stats) = loss_of(state.params, state, split, epoch, indices, mask)
        grads, _ = jax.grad(loss_of, has_aux=True)(state.params, state, split, epoch, indices, mask)
        return {
            "outputs": list(finite),
            "loss": jnp.isfinite(loss),
            "batch_stats": jax.tree.map(all_finite, batch_stats),
            "grads": jax.tree.map(lambda grad: all_finite(grad**2), grads),
        }

    found = jax.device_get(jax.jit(examine)(state))
    for name, is_finite in zip(outputs, found["outputs"], strict=True):
        if not is_finite:
            return f"the output of {name}" if name else "the output of the network"
    if bad := _paths(found["batch_stats"]):
        return f"the running statistics of {min(bad, key=lambda path: _place(path, outputs))}"
    if not found["loss"]:
        return "the loss"
    if bad := _paths(found["grads"]):  # they are computed from the loss back to the images
        return f"the gradient of {max(bad, key=lambda path: _place(path, outputs))}"
    return "the optimizer's update"


def _paths(tree: Any) -> list[str]:  # noqa: ANN401 - any pytree
    """The paths of the leaves that are False."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, is_finite in leaves if not is_finite]


def _place(path: str, outputs: list[str]) -> int:
    """When the module that owns an array is called."""
    owner = path.rpartition("/")[0]
    return outputs.index(owner) if owner in outputs else -1
