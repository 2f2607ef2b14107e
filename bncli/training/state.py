"""Everything a run carries from one step to the next, as one pytree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp
import optax
from flax import struct

from bncli.frameworks.network import Network, Variables

# Folded into the seed's key, so that initial weights and dropout come from unrelated streams ("init", "drop").
_INIT_STREAM = 0x696E6974
DROPOUT_STREAM = 0x64726F70

ArrayTree: TypeAlias = Mapping[str, "ArrayTree | jax.Array"]


@struct.dataclass
class EpochMetrics:
    """Sums over the examples of the current epoch. They are part of the state, so a run can resume within an epoch."""

    loss_sum: jax.Array  # float32 []
    num_correct: jax.Array  # int32 []
    num_examples: jax.Array  # int32 []

    @classmethod
    def zero(cls) -> EpochMetrics:
        """The sums before the first example."""
        return cls(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


@struct.dataclass
class TrainState:
    """The input and output of a training step."""

    step: jax.Array  # int32 [], optimizer steps done
    params: ArrayTree
    batch_stats: ArrayTree  # empty if the network has no BN
    opt_state: optax.OptState
    metrics: EpochMetrics
    halted: jax.Array  # bool [], a step was not finite: this is the state before it, and later steps keep it
    rate_scale: jax.Array  # float32 [], factor of the learning rate: 1, halved by each rollback
    ema: ArrayTree = struct.field(default_factory=dict)  # moving average of params; empty without EMA

    @property
    def variables(self) -> Variables:
        """The trained params and their batch_stats."""
        return {"batch_stats": self.batch_stats, "params": self.params}


def create_train_state(
    network: Network,
    optimizer: optax.GradientTransformation,
    *,
    image_shape: tuple[int, int, int],
    seed_key: jax.Array,
    keep_ema: bool = False,
) -> TrainState:
    """The state before the first step: a pure function of the seed.

    Args:
        network: the network to train.
        optimizer: its initial state becomes part of the result.
        image_shape: (H, W, C).
        seed_key: the key of the run's seed, which determines the initial weights.
        keep_ema: keep a moving average of the parameters.
    """
    variables = network.init(jax.random.fold_in(seed_key, _INIT_STREAM), image_shape)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        opt_state=optimizer.init(variables["params"]),
        metrics=EpochMetrics.zero(),
        halted=jnp.zeros((), bool),
        rate_scale=jnp.ones((), jnp.float32),
        ema=jax.tree.map(jnp.copy, variables["params"]) if keep_ema else {},  # copies, because buffers are donated
    )


def moving_average(ema: ArrayTree, params: ArrayTree, *, step: jax.Array, decay: float) -> ArrayTree:
    """The moving average after one more step: decay · ema + (1 − decay) · params.

    The decay of step t is min(decay, (1 + t) / (10 + t)), so that the average soon forgets the initial weights
    (TensorFlow's ``ExponentialMovingAverage`` with ``num_updates``).
    """
    t = step.astype(jnp.float32)
    share = 1 - jnp.minimum(decay, (1 + t) / (10 + t))
    averaged: ArrayTree = jax.tree.map(lambda old, new: old + share * (new - old), ema, params)
    return averaged
