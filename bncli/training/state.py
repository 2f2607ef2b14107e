"""Everything a run carries from one step to the next, as one pytree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from bncli.models import Network, Variables

# Folded into the seed's key, so that initial weights and dropout come from unrelated streams ("init", "drop").
_INIT_STREAM = 0x696E6974
_DROPOUT_STREAM = 0x64726F70


@struct.dataclass
class EpochMetrics:
    """Sums over the examples of the epoch under way; in the state so that an epoch can be resumed in its middle."""

    loss_sum: jax.Array  # float32 []
    num_correct: jax.Array  # int32 []
    num_examples: jax.Array  # int32 []

    @classmethod
    def zero(cls) -> EpochMetrics:
        """No example seen yet."""
        return cls(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


@struct.dataclass
class TrainState:
    """What a training step reads and writes."""

    step: jax.Array  # int32 [], optimizer steps done
    params: Mapping[str, Any]
    batch_stats: Mapping[str, Any]  # empty where the network has no BN
    opt_state: optax.OptState
    metrics: EpochMetrics

    @property
    def variables(self) -> Variables:
        """What the network is applied to."""
        return {"batch_stats": self.batch_stats, "params": self.params}


def create_train_state(
    network: Network, optimizer: optax.GradientTransformation, *, image_shape: tuple[int, int, int], seed: int
) -> TrainState:
    """The state before the first step: a pure function of the seed.

    Args:
        network: to be trained.
        optimizer: whose state starts here.
        image_shape: (H, W, C).
        seed: of the initial weights.
    """
    variables = network.init(jax.random.fold_in(jax.random.key(seed), _INIT_STREAM), image_shape)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        opt_state=optimizer.init(variables["params"]),
        metrics=EpochMetrics.zero(),
    )


def dropout_key(seed_key: jax.Array, step: jax.Array) -> jax.Array:
    """The dropout key of one step."""
    return jax.random.fold_in(jax.random.fold_in(seed_key, _DROPOUT_STREAM), step)
