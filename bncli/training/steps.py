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
from bncli.data.augment import normalize
from bncli.data.batches import flips_in_epoch, keys_in_epoch
from bncli.data.mixing import Labels, MixedLabels, augmented
from bncli.frameworks.linen import LinenNetwork
from bncli.frameworks.network import Network, Variables
from bncli.measure.eval_step import smoothed_cross_entropy
from bncli.ops import LayerNumbers
from bncli.training.accumulation import make_accumulated
from bncli.training.hyperparameters import Hyperparameters, HyperparameterSource, Rates
from bncli.training.micro_batches import Accumulation, Inputs
from bncli.training.optimizer import (
    UpdateNumbers,
    create_learning_rate_fn,
    create_optimizer,
    create_release_fn,
    create_tuned_optimizer,
)
from bncli.training.state import ArrayTree, EpochMetrics, TrainState, moving_average
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


# (params, state, examples, hyperparameters) -> (loss [], (logits [B, K], batch_stats))
LossFn: TypeAlias = Callable[
    [ArrayTree, TrainState, Examples, Hyperparameters], tuple[jax.Array, tuple[jax.Array, Variables]]
]
# (params, state, examples, hyperparameters) -> ((loss [], (logits [B, K], batch_stats)), gradients)
LossAndGrads: TypeAlias = Callable[
    [ArrayTree, TrainState, Examples, Hyperparameters],
    tuple[tuple[jax.Array, tuple[jax.Array, Variables]], ArrayTree],
]
# (state, images, labels, keys, mask, hyperparameters, flips) -> (state, metrics); for the shapes see Examples
TrainOn: TypeAlias = Callable[
    [TrainState, jax.Array, jax.Array, jax.Array, jax.Array | None, Hyperparameters, jax.Array | None],
    tuple[TrainState, StepMetrics],
]
# (state, split, epoch int32 [], indices int32 [B], mask bool [B] or None, hyperparameters) -> (state, metrics)
TrainStep: TypeAlias = Callable[
    [TrainState, DeviceSplit, jax.Array, jax.Array, jax.Array | None, Hyperparameters], tuple[TrainState, StepMetrics]
]


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """Everything besides the state and the examples that the training step depends on.

    The program depends on ``program`` alone. The rest are ``hyperparameters``, arguments of the step.

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
        layers: the numbers in whose place ``network`` has ``GIVEN``; None if it has its own.
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
    layers: LayerNumbers | None = None

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

    @property
    def program(self) -> StepSettings:
        """The settings with neutral values in place of the hyperparameters: equal ones make equal programs."""
        return replace(
            self,
            optimizer=replace(
                self.optimizer,
                learning_rate=None,
                weight_decay=0.0,
                schedule="constant",
                schedule_epochs=None,
                warmup_epochs=0.0,
            ),
            steps_per_epoch=1,
            schedule_epochs=1,
            preprocessor=self.preprocessor.neutral,
            seed=0,
            tuning=None if self.tuning is None else replace(self.tuning, release_epoch=None),
            layers=jax.tree.map(lambda number: type(number)(0), self.layers),
        )

    @property
    def hyperparameters(self) -> HyperparameterSource:
        """The arguments of the step that follow from the settings."""
        tuning = self.tuning
        release_epoch = 0 if tuning is None else tuning.release_epoch or 0
        return HyperparameterSource(
            learning_rate=create_learning_rate_fn(
                self.optimizer, steps_per_epoch=self.steps_per_epoch, epochs=self.schedule_epochs
            ),
            release=create_release_fn(
                self.optimizer,
                steps_per_epoch=self.steps_per_epoch,
                epochs=self.schedule_epochs,
                start=self.steps_per_epoch * release_epoch,
            ),
            weight_decay=self.optimizer.weight_decay,
            mean=self.preprocessor.settings.mean,
            std=self.preprocessor.settings.std,
            seed=self.seed,
            layers=self.layers,
        )

    def network_with(self, layers: LayerNumbers | None) -> Network:
        """The network with traced numbers of its layers."""
        if layers is None:
            return self.network
        assert isinstance(self.network, LinenNetwork)
        return replace(self.network, given=layers)

    def make_optimizer(self, numbers: UpdateNumbers | None = None) -> optax.GradientTransformation:
        """The optimizer of one update with these numbers; its initial state depends on none of them."""
        numbers = numbers or UpdateNumbers()
        if self.tuning is None:
            return create_optimizer(self.optimizer, numbers)
        return create_tuned_optimizer(self.optimizer, numbers, self.tuning, released=self.released)


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


def make_loss_and_grads(settings: StepSettings) -> LossAndGrads:
    """Make the function that returns the loss of one step and its gradient."""
    if settings.accumulation is None:
        return jax.value_and_grad(make_loss(settings), has_aux=True)
    accumulation, smoothing = settings.accumulation, settings.optimizer.label_smoothing

    def loss_and_grads(
        params: ArrayTree, state: TrainState, examples: Examples, hyperparameters: Hyperparameters
    ) -> tuple[tuple[jax.Array, tuple[jax.Array, Variables]], ArrayTree]:
        images, labels = augmented_batch(settings, examples, hyperparameters)
        inputs = Inputs(images, labels, examples.mask, dropout_key(hyperparameters, state.step))
        accumulated = make_accumulated(
            accumulation,
            settings.network_with(hyperparameters.layers),
            lambda images: normalized(settings, images, hyperparameters),
            lambda logits, labels: label_losses(logits, labels, smoothing),
        )
        outputs, grads = accumulated(params, state.batch_stats, inputs)
        return outputs, without(settings.held, grads)

    return loss_and_grads


def make_loss(settings: StepSettings) -> LossFn:
    """Make the loss of one step, a function of the parameters: see ``LossFn``."""

    def loss(
        params: ArrayTree, state: TrainState, examples: Examples, hyperparameters: Hyperparameters
    ) -> tuple[jax.Array, tuple[jax.Array, Variables]]:
        images, labels = augmented_batch(settings, examples, hyperparameters)
        logits, batch_stats = settings.network_with(hyperparameters.layers).train_logits(
            {"params": detached(settings.held, params), "batch_stats": state.batch_stats},
            normalized(settings, images, hyperparameters),
            mask=examples.mask,
            dropout_key=dropout_key(hyperparameters, state.step),
        )
        losses = label_losses(logits, labels, settings.optimizer.label_smoothing)  # [B]
        weights = examples.weights
        return jnp.sum(losses * weights) / jnp.sum(weights), (logits, batch_stats)

    return loss


def dropout_key(hyperparameters: Hyperparameters, step: jax.Array) -> jax.Array:
    """The dropout key of one step."""
    return jax.random.fold_in(jax.random.wrap_key_data(jnp.asarray(hyperparameters.dropout_key)), step)


def augmented_batch(
    settings: StepSettings, examples: Examples, hyperparameters: Hyperparameters
) -> tuple[jax.Array, Labels]:
    """The images of a batch, changed at random, and their labels."""
    mean = jnp.asarray(hyperparameters.mean)
    return augmented(
        examples.images, examples.labels, examples.keys, settings.augmentation, mean=mean, flips=examples.flips
    )


def normalized(settings: StepSettings, images: jax.Array, hyperparameters: Hyperparameters) -> jax.Array:
    """The network's input."""
    mean, std = jnp.asarray(hyperparameters.mean), jnp.asarray(hyperparameters.std)
    return normalize(images, mean, std, dtype=settings.preprocessor.dtype)


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
