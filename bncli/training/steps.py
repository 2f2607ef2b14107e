"""The training step: a pure function, compiled once.

Letters: N examples in the split, B batch size, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from bncli.config.settings import Preprocessing
from bncli.data import Augmentation
from bncli.data.augment import augment, normalize
from bncli.data.batches import example_keys
from bncli.frameworks.linen import Network, Variables
from bncli.measure.eval_step import smoothed_cross_entropy
from bncli.training.state import EpochMetrics, TrainState, dropout_key, moving_average

# A dense layer's kernel has two, a convolution's four.
_KERNEL_AXES = 2


@struct.dataclass
class DeviceSplit:
    """A split on the device, whole on each one."""

    images: jax.Array  # uint8 [N, H, W, C]
    labels: jax.Array  # int32 [N]


@struct.dataclass
class StepMetrics:
    """Averages over the examples of the epoch so far."""

    loss: jax.Array  # float32 []
    accuracy: jax.Array  # float32 []
    halted: jax.Array  # bool [], see TrainState


LossFn = Callable[..., tuple[jax.Array, tuple[jax.Array, Variables]]]
TrainStep = Callable[[TrainState, DeviceSplit, jax.Array, jax.Array, jax.Array | None], tuple[TrainState, StepMetrics]]


@dataclass(frozen=True)
class StepSettings:
    """What the training step depends on beside its arguments."""

    network: Network
    optimizer: optax.GradientTransformation
    preprocessing: Preprocessing
    augmentation: Augmentation
    label_smoothing: float
    precision: str
    seed: int
    ema_decay: float | None = None


def make_train_step(settings: StepSettings) -> TrainStep:
    """``train_step(state, split, epoch, indices, mask) -> (state, metrics)``, not yet compiled.

    One optimizer step on the examples ``indices`` int32 [B] of the split; where ``mask`` bool [B] is given, examples
    with False are padding and count neither in the loss nor in the BN statistics. The examples are augmented by keys
    that depend on (seed, epoch, example) alone.

    A step whose loss, or anything it would leave in the state, is not finite leaves the state as it was, and ``halted``
    set: so do all steps after it. The device decides, since it is several steps ahead of the host.
    """
    loss_of = make_loss(settings)

    def train_step(
        state: TrainState, split: DeviceSplit, epoch: jax.Array, indices: jax.Array, mask: jax.Array | None
    ) -> tuple[TrainState, StepMetrics]:
        labels, weights = split.labels[indices], _weights(indices, mask)
        value_and_grad = jax.value_and_grad(loss_of, has_aux=True)
        (loss, (logits, batch_stats)), grads = value_and_grad(state.params, state, split, epoch, indices, mask)
        updates, opt_state = settings.optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, jax.tree.map(lambda update: update * state.rate_scale, updates))
        metrics = _accumulate(state.metrics, loss, logits, labels, weights)
        new_state = TrainState(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            metrics=metrics,
            halted=state.halted,
            rate_scale=state.rate_scale,
            ema={}
            if settings.ema_decay is None
            else moving_average(state.ema, params, step=state.step, decay=settings.ema_decay),
        )
        # Of these alone: what else is in the new state is finite where they and the old state are. Adam has squares.
        watched = (loss, batch_stats, jax.tree.map(lambda update, grad: update + 0 * grad**2, updates, grads))
        # Behind a barrier, or XLA combines it anew in the kernel of each array below: 57 of them in the `cnn`.
        goes_on = jax.lax.optimization_barrier(all_finite(watched) & ~state.halted)
        kept = jax.tree.map(lambda new, old: jnp.where(goes_on, new, old), new_state, state)
        kept = kept.replace(halted=~goes_on)
        return kept, _averages(kept)

    return train_step


def make_loss(settings: StepSettings) -> LossFn:
    """``loss(params, state, split, epoch, indices, mask) -> (loss [], (logits [B, K], batch_stats))`` of one step."""
    seed_key = jax.random.key(settings.seed)

    def loss_fn(
        params: Variables,
        state: TrainState,
        split: DeviceSplit,
        epoch: jax.Array,
        indices: jax.Array,
        mask: jax.Array | None,
    ) -> tuple[jax.Array, tuple[jax.Array, Variables]]:
        images = augment(split.images[indices], example_keys(seed_key, epoch, indices), settings.augmentation)
        inputs = normalize(
            images, settings.preprocessing.mean, settings.preprocessing.std, dtype=jnp.dtype(settings.precision)
        )
        logits, batch_stats = settings.network.train_logits(
            {"params": params, "batch_stats": state.batch_stats},
            inputs,
            mask=mask,
            dropout_key=dropout_key(seed_key, state.step),
        )
        losses = smoothed_cross_entropy(logits, split.labels[indices], settings.label_smoothing)  # [B]
        weights = _weights(indices, mask)
        return jnp.sum(losses * weights) / jnp.sum(weights), (logits, batch_stats)

    return loss_fn


def all_finite(tree: Any) -> jax.Array:  # noqa: ANN401 - any pytree
    """Whether no float in the pytree is NaN or infinite: bool []."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    # As one vector: ResNet-18's step, with a reduction for each of its biases and statistics, compiled for 4 s longer.
    vectors = [leaf.astype(jnp.float32).ravel() for leaf in leaves if leaf.ndim < _KERNEL_AXES]
    whole = [jnp.concatenate(vectors)] if vectors else []
    whole += [leaf for leaf in leaves if leaf.ndim >= _KERNEL_AXES]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in whole])) if whole else jnp.ones((), bool)


def scan_steps(train_step: TrainStep) -> TrainStep:
    """``train_step`` over stacked batches, ``indices`` and ``mask`` [S, B]: one dispatch for S steps, for GPU and TPU.

    On a CPU a step inside a scan runs up to 50 times slower than a call of its own; there the loop makes calls.
    """

    def steps(
        state: TrainState, split: DeviceSplit, epoch: jax.Array, indices: jax.Array, mask: jax.Array | None
    ) -> tuple[TrainState, StepMetrics]:
        def body(state: TrainState, batch: tuple[jax.Array, jax.Array | None]) -> tuple[TrainState, StepMetrics]:
            return train_step(state, split, epoch, *batch)

        state, metrics = jax.lax.scan(body, state, (indices, mask))
        return state, jax.tree.map(lambda values: values[-1], metrics)

    return steps


def _accumulate(
    metrics: EpochMetrics, loss: jax.Array, logits: jax.Array, labels: jax.Array, weights: jax.Array
) -> EpochMetrics:
    num_examples = jnp.sum(weights)
    correct = (jnp.argmax(logits, axis=-1) == labels) & (weights > 0)
    return EpochMetrics(
        loss_sum=metrics.loss_sum + loss * num_examples,
        num_correct=metrics.num_correct + jnp.sum(correct, dtype=jnp.int32),
        num_examples=metrics.num_examples + num_examples.astype(jnp.int32),
    )


def _weights(indices: jax.Array, mask: jax.Array | None) -> jax.Array:
    """How much each example counts: float32 [B]."""
    return jnp.ones(indices.shape, jnp.float32) if mask is None else mask.astype(jnp.float32)


def _averages(state: TrainState) -> StepMetrics:
    metrics = state.metrics
    num_examples = jnp.maximum(metrics.num_examples, 1).astype(jnp.float32)
    return StepMetrics(
        loss=metrics.loss_sum / num_examples,
        accuracy=metrics.num_correct / num_examples,
        halted=state.halted,
    )
