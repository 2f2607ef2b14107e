"""The training step: a pure function of the state and one batch.

``train_on`` takes a batch as arrays, wherever they come from. ``train_step`` takes a batch as indices into a split on
the devices, and gathers its arrays inside the same program.

Letters: N examples in the split, B batch size, S steps in one dispatch, H W C an image, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import jax
import jax.numpy as jnp
import optax
from flax import struct

from bncli.data.batches import flips_in_epoch, keys_in_epoch
from bncli.training.examples import DeviceSplit, Examples, gather
from bncli.training.hyperparameters import Hyperparameters, Rates
from bncli.training.loss import make_loss_and_grads
from bncli.training.optimizer import UpdateNumbers
from bncli.training.state import ArrayTree, EpochMetrics, TrainState, moving_average
from bncli.training.step_settings import StepSettings
from bncli.training.tuning import keep

# A dense layer's kernel has two axes, a convolution's four.
_KERNEL_AXES = 2


@struct.dataclass
class StepMetrics:
    """Averages over the examples of the epoch so far."""

    loss: jax.Array  # float32 []
    accuracy: jax.Array  # float32 []
    halted: jax.Array  # bool [], see TrainState


# (state, images, labels, keys, mask, hyperparameters, flips) -> (state, metrics); for the shapes see Examples
TrainOn: TypeAlias = Callable[
    [TrainState, jax.Array, jax.Array, jax.Array, jax.Array | None, Hyperparameters, jax.Array | None],
    tuple[TrainState, StepMetrics],
]
# (state, split, epoch int32 [], indices int32 [B], mask bool [B] or None, hyperparameters) -> (state, metrics)
TrainStep: TypeAlias = Callable[
    [TrainState, DeviceSplit, jax.Array, jax.Array, jax.Array | None, Hyperparameters], tuple[TrainState, StepMetrics]
]


def make_train_step(settings: StepSettings) -> TrainStep:
    """Make ``train_step(state, split, epoch, indices, mask, hyperparameters) -> (state, metrics)``, not yet compiled.

    Like ``train_on``, for the examples ``indices`` of a split on the devices. They are augmented by keys that depend on
    (seed, epoch, example) alone.
    """
    train_on = make_train_on(settings)

    def train_step(
        state: TrainState,
        split: DeviceSplit,
        epoch: jax.Array,
        indices: jax.Array,
        mask: jax.Array | None,
        hyperparameters: Hyperparameters,
    ) -> tuple[TrainState, StepMetrics]:
        keys, flips = changes(settings, hyperparameters, epoch, indices)
        images, labels, *_ = gather(split, indices, mask, keys=keys)
        return train_on(state, images, labels, keys, mask, hyperparameters, flips)

    return train_step


def make_fed_step(settings: StepSettings) -> TrainStep:
    """Make a ``train_step`` whose split is the batch itself, for images that are streamed: nothing is gathered.

    ``indices`` are still the examples' places in the whole split, which their keys depend on.
    """
    train_on = make_train_on(settings)

    def fed_step(
        state: TrainState,
        batch: DeviceSplit,
        epoch: jax.Array,
        indices: jax.Array,
        mask: jax.Array | None,
        hyperparameters: Hyperparameters,
    ) -> tuple[TrainState, StepMetrics]:
        keys, flips = changes(settings, hyperparameters, epoch, indices)
        return train_on(state, batch.images, batch.labels, keys, mask, hyperparameters, flips)

    return fed_step


def changes(
    settings: StepSettings, hyperparameters: Hyperparameters, epoch: jax.Array, indices: jax.Array
) -> tuple[jax.Array, jax.Array | None]:
    """(keys, flips) of the examples ``indices`` int32 [B] in an epoch, as in ``Examples``."""
    of_flips, of_examples = (
        jax.random.wrap_key_data(jnp.asarray(data)) for data in (hyperparameters.flip_key, hyperparameters.example_key)
    )
    flips = flips_in_epoch(of_flips, epoch, indices) if settings.augmentation.alternates else None
    return keys_in_epoch(of_examples, epoch, indices), flips


def make_train_on(settings: StepSettings) -> TrainOn:
    """Make ``train_on(state, images, labels, keys, mask, hyperparameters, flips) -> (state, metrics)``, not compiled.

    It does one optimizer step. Padding counts neither in the loss nor in the BN statistics.

    If the loss or anything in the new state is not finite, the step returns the old state with ``halted`` set. All
    later steps then do the same. The device decides, because it runs several steps ahead of the host.
    """
    loss_and_grads = make_loss_and_grads(settings)

    def train_on(
        state: TrainState,
        images: jax.Array,
        labels: jax.Array,
        keys: jax.Array,
        mask: jax.Array | None,
        hyperparameters: Hyperparameters,
        flips: jax.Array | None = None,
    ) -> tuple[TrainState, StepMetrics]:
        examples = Examples(images, labels, keys, mask, flips)
        (loss, (logits, batch_stats)), grads = loss_and_grads(state.params, state, examples, hyperparameters)
        rates = hyperparameters.rates
        numbers = map(jnp.asarray, (rates.learning_rate, rates.release, hyperparameters.weight_decay))
        optimizer = settings.make_optimizer(UpdateNumbers(*numbers))
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, jax.tree.map(lambda update: update * state.rate_scale, updates))
        params = keep(settings.held, params, state.params)
        new_state = replace(
            state,
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            metrics=_accumulate(state.metrics, loss, logits, examples),
            ema=_average_weights(state, params, settings),
        )
        # Checking these suffices: if they and the old state are finite, so is the new state. `grad**2` covers Adam's
        # second moment.
        watched = (loss, batch_stats, jax.tree.map(lambda update, grad: update + 0 * grad**2, updates, grads))
        kept = _unless_halted(state, new_state, is_finite=all_finite(watched))
        return kept, _averages(kept)

    return train_on


def all_finite(tree: object) -> jax.Array:
    """True if no float in the pytree is NaN or infinite: bool []."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    # One vector for all small arrays: with a reduction for each bias and statistic, ResNet-18's step compiled 4 s
    # longer.
    vectors = [leaf.astype(jnp.float32).ravel() for leaf in leaves if leaf.ndim < _KERNEL_AXES]
    whole = [jnp.concatenate(vectors)] if vectors else []
    whole += [leaf for leaf in leaves if leaf.ndim >= _KERNEL_AXES]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in whole])) if whole else jnp.ones((), bool)


def scan_steps(train_step: TrainStep) -> TrainStep:
    """Make a step over stacked batches: one dispatch for S steps, for GPU and TPU.

    ``indices`` and ``mask`` are [S, B], the ``rates`` of the hyperparameters [S].

    On a CPU a step inside a scan runs up to 50 times slower than a call of its own, so the loop makes calls there.
    """

    def steps(
        state: TrainState,
        split: DeviceSplit,
        epoch: jax.Array,
        indices: jax.Array,
        mask: jax.Array | None,
        hyperparameters: Hyperparameters,
    ) -> tuple[TrainState, StepMetrics]:
        def body(
            state: TrainState, of_step: tuple[jax.Array, jax.Array | None, Rates]
        ) -> tuple[TrainState, StepMetrics]:
            indices, mask, rates = of_step
            return train_step(state, split, epoch, indices, mask, replace(hyperparameters, rates=rates))

        state, metrics = jax.lax.scan(body, state, (indices, mask, hyperparameters.rates))
        return state, jax.tree.map(lambda values: values[-1], metrics)

    return steps


def _average_weights(state: TrainState, params: ArrayTree, settings: StepSettings) -> ArrayTree:
    if settings.ema_decay is None:
        return {}
    averaged = moving_average(state.ema, params, step=state.step, decay=settings.ema_decay)
    return keep(settings.held, averaged, params)


def _unless_halted(state: TrainState, new_state: TrainState, *, is_finite: jax.Array) -> TrainState:
    """The new state, or the old one with ``halted`` set if this or an earlier step was not finite."""
    # Behind a barrier, or XLA recomputes the condition in the kernel of each array below: 57 of them in the `cnn`.
    goes_on = jax.lax.optimization_barrier(is_finite & ~state.halted)
    kept: TrainState = jax.tree.map(lambda new, old: jnp.where(goes_on, new, old), new_state, state)
    return replace(kept, halted=~goes_on)


def _accumulate(metrics: EpochMetrics, loss: jax.Array, logits: jax.Array, examples: Examples) -> EpochMetrics:
    weights = examples.weights
    num_examples = jnp.sum(weights)
    correct = (jnp.argmax(logits, axis=-1) == examples.labels) & (weights > 0)
    return EpochMetrics(
        loss_sum=metrics.loss_sum + loss * num_examples,
        num_correct=metrics.num_correct + jnp.sum(correct, dtype=jnp.int32),
        num_examples=metrics.num_examples + num_examples.astype(jnp.int32),
    )


def _averages(state: TrainState) -> StepMetrics:
    metrics = state.metrics
    num_examples = jnp.maximum(metrics.num_examples, 1).astype(jnp.float32)
    return StepMetrics(
        loss=metrics.loss_sum / num_examples,
        accuracy=metrics.num_correct / num_examples,
        halted=state.halted,
    )
