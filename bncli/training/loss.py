"""The loss of a training step: augmented images, the network in training mode, label smoothing; and its gradient.

Letters: B batch size, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from bncli.data.augment import normalize
from bncli.data.mixing import Labels, MixedLabels, augmented
from bncli.frameworks.network import Variables
from bncli.measure.eval_step import smoothed_cross_entropy
from bncli.training.accumulation import make_accumulated
from bncli.training.examples import Examples
from bncli.training.hyperparameters import Hyperparameters
from bncli.training.micro_batches import Inputs
from bncli.training.state import ArrayTree, TrainState
from bncli.training.step_settings import StepSettings
from bncli.training.tuning import detached, without

# (params, state, examples, hyperparameters) -> (loss [], (logits [B, K], batch_stats))
LossFn: TypeAlias = Callable[
    [ArrayTree, TrainState, Examples, Hyperparameters], tuple[jax.Array, tuple[jax.Array, Variables]]
]
# (params, state, examples, hyperparameters) -> ((loss [], (logits [B, K], batch_stats)), gradients)
LossAndGrads: TypeAlias = Callable[
    [ArrayTree, TrainState, Examples, Hyperparameters],
    tuple[tuple[jax.Array, tuple[jax.Array, Variables]], ArrayTree],
]


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
