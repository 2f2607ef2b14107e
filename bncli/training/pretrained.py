"""The state before the first step of a run that starts from pretrained weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp

from bncli.training.state import TrainState
from bncli.weights import Fitted


def starting_state(make: Callable[[], TrainState], weights: Fitted | None) -> Callable[[], TrainState]:
    """Make the state before the first step.

    Args:
        make: makes the random one.
        weights: take its place in the parameters, their moving average and the BN statistics; None keeps it.
    """
    if weights is None:
        return make

    def make_from_weights() -> TrainState:
        state = make()
        variables = weights.into(state.variables)
        return replace(
            state,
            params=variables["params"],
            batch_stats=variables.get("batch_stats", {}),
            ema=jax.tree.map(jnp.copy, variables["params"]) if state.ema else {},
        )

    return make_from_weights
