"""The training step: a pure function of the state and one batch.

``train_on`` takes a batch as arrays, wherever they come from. ``train_step`` takes a batch as indices into a split on
the devices, and gathers its arrays inside the same program.

Letters: N examples in the split, B batch size, S steps in one dispatch, H W C an image, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from flax import struct

from bncli.config.settings import OptimizerConfig
from bncli.data import Augmentation, Preprocessor
from bncli.data.batches import alternating_flips, example_keys
from bncli.data.mixing import Labels, MixedLabels, augmented
from bncli.frameworks.network import Network, Variables
from bncli.measure.eval_step import smoothed_cross_entropy
from bncli.training.accumulation import make_accumulated
from bncli.training.micro_batches import Accumulation, Inputs
from bncli.training.optimizer import (
    create_learning_rate_fn,
    create_optimizer,
    create_release_fn,
    create_tuned_optimizer,
)
from bncli.training.state import ArrayTree, EpochMetrics, TrainState, dropout_key, moving_average
from bncli.training.tuning import Tuning, detached, keep, without

# A dense layer's kernel has two axes, a convolution's four.
_KERNEL_AXES = 2


@struct.dataclass
class DeviceSplit:
    """A split in the devices' memory, whole on each device."""

    images: jax.Array  # uint8 [N, H, W, C]
    labels: jax.Array  # int32 [N]


class Examples(NamedTuple):
    """The arrays of one batch."""

    images: jax.Array  # uint8 [B, H, W, C]
    labels: jax.Array  # int32 [B]
    keys: jax.Array  # [B], typed PRNG keys for the augmentation
    mask: jax.Array | None  # bool [B], False for padding; None if no example is padding
    flips: jax.Array | None = None  # bool [B], the images to mirror where flips alternate; None if they do not

    @property
    def weights(self) -> jax.Array:
        """1.0 for each example that counts, 0.0 for padding: float32 [B]."""
        return jnp.ones(self.labels.shape, jnp.float32) if self.mask is None else self.mask.astype(jnp.float32)


@struct.dataclass
class StepMetrics:
    """Averages over the examples of the epoch so far."""

    loss: jax.Array  # float32 []
    accuracy: jax.Array  # float32 []
    halted: jax.Array  # bool [], see TrainState


# (params, state, examples) -> (loss [], (logits [B, K], batch_stats))
LossFn: TypeAlias = Callable[[ArrayTree, TrainState, Examples], tuple[jax.Array, tuple[jax.Array, Variables]]]
# (params, state, examples) -> ((loss [], (logits [B, K], batch_stats)), gradients)
LossAndGrads: TypeAlias = Callable[
    [ArrayTree, TrainState, Examples], tuple[tuple[jax.Array, tuple[jax.Array, Variables]], ArrayTree]
]
# (state, images, labels, keys, mask, flips) -> (state, metrics); for the shapes see Examples
TrainOn: TypeAlias = Callable[
    [TrainState, jax.Array, jax.Array, jax.Array, jax.Array | None, jax.Array | None], tuple[TrainState, StepMetrics]
]
# (state, split, epoch int32 [], indices int32 [B], mask bool [B] or None) -> (state, metrics)
TrainStep: TypeAlias = Callable[
    [TrainState, DeviceSplit, jax.Array, jax.Array, jax.Array | None], tuple[TrainState, StepMetrics]
]


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """Everything besides its arguments that the training step depends on. Equal settings make equal programs.

    Attributes:
        network: the network, with the BN layers that are frozen at present.
        optimizer: its settings.
        steps_per_epoch: batches per epoch.
        schedule_epochs: length of the learning-rate schedule.
        preprocessor: from images to the network's input.
        augmentation: of the training images.
        seed: of augmentation and dropout.
        ema_decay: of the moving average of the parameters; None for none.
        tuning: which arrays are trained, and how fast; None if all are trained alike.
        released: True from ``--unfreeze-at`` on.
        accumulation: the division of the batch into micro-batches; None computes it at once.
    """

    network: Network
    optimizer: OptimizerConfig
    steps_per_epoch: int
    schedule_epochs: int
    preprocessor: Preprocessor
    augmentation: Augmentation
    seed: int
    ema_decay: float | None = None
    tuning: Tuning | None = None
    released: bool = False
    accumulation: Accumulation | None = None

    def at_epoch(self, epoch: int) -> StepSettings:
        """The settings of an epoch, from 0."""
        if self.tuning is None:
            return self
        released = self.tuning.is_released(epoch)
        network = replace(self.network, frozen=self.tuning.norms(released=released))
        return replace(self, network=network, released=released)

    @property
    def held(self) -> frozenset[str]:
        """The paths of the arrays that are not trained at present."""
        return frozenset() if self.tuning is None else self.tuning.held(released=self.released)

    def learning_rate(self) -> optax.Schedule:
        """The learning rate as a function of the step."""
        return create_learning_rate_fn(
            self.optimizer, steps_per_epoch=self.steps_per_epoch, epochs=self.schedule_epochs
        )

    def make_optimizer(self) -> optax.GradientTransformation:
        """The optimizer with its learning-rate schedule."""
        if self.tuning is None:
            return create_optimizer(self.optimizer, self.learning_rate())
        release = create_release_fn(
            self.optimizer,
            steps_per_epoch=self.steps_per_epoch,
            epochs=self.schedule_epochs,
            start=self.steps_per_epoch * (self.tuning.release_epoch or 0),
        )
        return create_tuned_optimizer(
            self.optimizer, self.learning_rate(), self.tuning, released=self.released, release=release
        )


def make_train_step(settings: StepSettings) -> TrainStep:
    """Make ``train_step(state, split, epoch, indices, mask) -> (state, metrics)``, not yet compiled.

    Like ``train_on``, for the examples ``indices`` of a split on the devices. They are augmented by keys that depend on
    (seed, epoch, example) alone.
    """
    train_on = make_train_on(settings)
    seed_key = jax.random.key(settings.seed)

    def train_step(
        state: TrainState, split: DeviceSplit, epoch: jax.Array, indices: jax.Array, mask: jax.Array | None
    ) -> tuple[TrainState, StepMetrics]:
        keys, flips = changes(settings, seed_key, epoch, indices)
        return train_on(state, *gather(split, indices, mask, keys=keys, flips=flips))

    return train_step


def make_fed_step(settings: StepSettings) -> TrainStep:
    """Make a ``train_step`` whose split is the batch itself, for images that are streamed: nothing is gathered.

    ``indices`` are still the examples' places in the whole split, which their keys depend on.
    """
    train_on = make_train_on(settings)
    seed_key = jax.random.key(settings.seed)

    def fed_step(
        state: TrainState, batch: DeviceSplit, epoch: jax.Array, indices: jax.Array, mask: jax.Array | None
    ) -> tuple[TrainState, StepMetrics]:
        keys, flips = changes(settings, seed_key, epoch, indices)
        return train_on(state, batch.images, batch.labels, keys, mask, flips)

    return fed_step


def changes(
    settings: StepSettings, seed_key: jax.Array, epoch: jax.Array, indices: jax.Array
) -> tuple[jax.Array, jax.Array | None]:
    """(keys, flips) of the examples ``indices`` int32 [B] in an epoch, as in ``Examples``."""
    flips = alternating_flips(seed_key, epoch, indices) if settings.augmentation.alternates else None
    return example_keys(seed_key, epoch, indices), flips


def gather(
    split: DeviceSplit,
    indices: jax.Array,
    mask: jax.Array | None,
    *,
    keys: jax.Array,
    flips: jax.Array | None = None,
) -> Examples:
    """The examples ``indices`` int32 [B] of a split."""
    return Examples(split.images[indices], split.labels[indices], keys, mask, flips)


def make_train_on(settings: StepSettings) -> TrainOn:
    """Make ``train_on(state, images, labels, keys, mask, flips) -> (state, metrics)``, not yet compiled.

    It does one optimizer step. Padding counts neither in the loss nor in the BN statistics.

    If the loss or anything in the new state is not finite, the step returns the old state with ``halted`` set. All
    later steps then do the same. The device decides, because it runs several steps ahead of the host.
    """
    loss_and_grads = make_loss_and_grads(settings)
    optimizer = settings.make_optimizer()

    def train_on(
        state: TrainState,
        images: jax.Array,
        labels: jax.Array,
        keys: jax.Array,
        mask: jax.Array | None,
        flips: jax.Array | None = None,
    ) -> tuple[TrainState, StepMetrics]:
        examples = Examples(images, labels, keys, mask, flips)
        (loss, (logits, batch_stats)), grads = loss_and_grads(state.params, state, examples)
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


def make_loss_and_grads(settings: StepSettings) -> LossAndGrads:
    """Make the function that returns the loss of one step and its gradient."""
    if settings.accumulation is None:
        return jax.value_and_grad(make_loss(settings), has_aux=True)
    seed_key, smoothing = jax.random.key(settings.seed), settings.optimizer.label_smoothing
    accumulated = make_accumulated(
        settings.accumulation,
        settings.network,
        settings.preprocessor,
        lambda logits, labels: label_losses(logits, labels, smoothing),
    )

    def loss_and_grads(
        params: ArrayTree, state: TrainState, examples: Examples
    ) -> tuple[tuple[jax.Array, tuple[jax.Array, Variables]], ArrayTree]:
        images, labels = augmented_batch(settings, examples)
        inputs = Inputs(images, labels, examples.mask, dropout_key(seed_key, state.step))
        outputs, grads = accumulated(params, state.batch_stats, inputs)
        return outputs, without(settings.held, grads)

    return loss_and_grads


def make_loss(settings: StepSettings) -> LossFn:
    """Make ``loss(params, state, examples) -> (loss [], (logits [B, K], batch_stats))`` of one step."""
    seed_key = jax.random.key(settings.seed)

    def loss(params: ArrayTree, state: TrainState, examples: Examples) -> tuple[jax.Array, tuple[jax.Array, Variables]]:
        images, labels = augmented_batch(settings, examples)
        logits, batch_stats = settings.network.train_logits(
            {"params": detached(settings.held, params), "batch_stats": state.batch_stats},
            settings.preprocessor(images),
            mask=examples.mask,
            dropout_key=dropout_key(seed_key, state.step),
        )
        losses = label_losses(logits, labels, settings.optimizer.label_smoothing)  # [B]
        weights = examples.weights
        return jnp.sum(losses * weights) / jnp.sum(weights), (logits, batch_stats)

    return loss


def augmented_batch(settings: StepSettings, examples: Examples) -> tuple[jax.Array, Labels]:
    """The images of a batch, changed at random, and their labels."""
    mean = settings.preprocessor.settings.mean
    return augmented(
        examples.images, examples.labels, examples.keys, settings.augmentation, mean=mean, flips=examples.flips
    )


def label_losses(logits: jax.Array, labels: Labels, smoothing: float) -> jax.Array:
    """The loss of each example, [B]; that of a mixed one is the mean over its two labels by their weights."""
    if not isinstance(labels, MixedLabels):
        return smoothed_cross_entropy(logits, labels, smoothing)
    own, others = (smoothed_cross_entropy(logits, label, smoothing) for label in (labels.own, labels.others))
    return labels.weights * own + (1 - labels.weights) * others


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
    """Make a step over stacked batches, ``indices`` and ``mask`` [S, B]: one dispatch for S steps, for GPU and TPU.

    On a CPU a step inside a scan runs up to 50 times slower than a call of its own, so the loop makes calls there.
    """

    def steps(
        state: TrainState, split: DeviceSplit, epoch: jax.Array, indices: jax.Array, mask: jax.Array | None
    ) -> tuple[TrainState, StepMetrics]:
        def body(state: TrainState, batch: tuple[jax.Array, jax.Array | None]) -> tuple[TrainState, StepMetrics]:
            return train_step(state, split, epoch, *batch)

        state, metrics = jax.lax.scan(body, state, (indices, mask))
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
