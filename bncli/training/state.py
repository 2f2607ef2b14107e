"""Everything a run carries from one step to the next, as one pytree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from bncli.frameworks.linen import Network, Variables

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
    halted: jax.Array  # bool [], a step came to values that are not finite: the state is that before it, and stays so
    rate_scale: jax.Array  # float32 [], factor of the learning rate: 1, halved by each rollback
    ema: Mapping[str, Any] = struct.field(default_factory=dict)  # moving average of params; empty where none is kept

    @property
    def variables(self) -> Variables:
        """What is trained: params, and their batch_stats."""
        return {"batch_stats": self.batch_stats, "params": self.params}


def create_train_state(
    network: Network,
    optimizer: optax.GradientTransformation,
    *,
    image_shape: tuple[int, int, int],
    seed: int,
    keep_ema: bool = False,
) -> TrainState:
    """The state before the first step: a pure function of the seed.

    Args:
        network: to be trained.
        optimizer: whose state starts here.
        image_shape: (H, W, C).
        seed: of the initial weights.
        keep_ema: whether a moving average of the parameters is kept.
    """
    variables = network.init(jax.random.fold_in(jax.random.key(seed), _INIT_STREAM), image_shape)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        opt_state=optimizer.init(variables["params"]),
        metrics=EpochMetrics.zero(),
        halted=jnp.zeros((), bool),
        rate_scale=jnp.ones((), jnp.float32),
        ema=jax.tree.map(jnp.copy, variables["params"]) if keep_ema else {},  # not the same buffers: they are donated
    )


def moving_average(ema: Mapping[str, Any], params: Mapping[str, Any], *, step: jax.Array, decay: float) -> Any:  # noqa: ANN401 - a pytree
    """``ema`` one step on: decay · ema + (1 − decay) · params, with a smaller decay in the first steps.

    The decay of step t is min(decay, (1 + t) / (10 + t)), so that the initial weights are soon forgotten
    (TensorFlow's ``ExponentialMovingAverage`` with ``num_updates``).
    """
    t = step.astype(jnp.float32)
    share = 1 - jnp.minimum(decay, (1 + t) / (10 + t))
    return jax.tree.map(lambda old, new: old + share * (new - old), ema, params)


def dropout_key(seed_key: jax.Array, step: jax.Array) -> jax.Array:
    """The dropout key of one step."""
    with jax.ensure_compile_time_eval():  # it is the same in all steps
        stream_key = jax.random.fold_in(seed_key, _DROPOUT_STREAM)
    return jax.random.fold_in(stream_key, step)
