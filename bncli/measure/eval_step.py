"""The evaluation step, from images and labels to each example's loss and prediction: a pure function, compiled once.

Letters: B batch size, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import struct

from bncli.frameworks.linen import Variables
from bncli.ops import pad_small_images

TOP_K = 5


@struct.dataclass
class ExampleOutcome:
    """The loss and prediction of each example in a batch."""

    loss: jax.Array  # float32 [B], cross-entropy in nats
    prediction: jax.Array  # int32 [B]
    in_top5: jax.Array  # bool [B]


# (variables, normalized images [B, H, W, C], mask [B]) -> logits [B, K]
LogitsFn = Callable[[Variables, jax.Array, jax.Array], jax.Array]
EvalStep = Callable[[Variables, jax.Array, jax.Array, jax.Array], ExampleOutcome]


def make_eval_step(logits_fn: LogitsFn, preprocessor: Callable[[jax.Array], jax.Array]) -> EvalStep:
    """``eval_step(variables, images, labels, mask) -> ExampleOutcome``, not yet compiled.

    Args:
        logits_fn: the network in eval mode, or with batch statistics.
        preprocessor: turns uint8 ``images`` [B, H, W, C] into the network's input.
    """

    def eval_step(variables: Variables, images: jax.Array, labels: jax.Array, mask: jax.Array) -> ExampleOutcome:
        logits = pad_small_images(logits_fn)(variables, preprocessor(images), mask)
        assert logits.ndim == 2, f"logits must be [B, K], not {logits.shape}"
        k = min(TOP_K, logits.shape[-1])
        _, top = jax.lax.top_k(logits, k)  # [B, k]
        return ExampleOutcome(
            loss=smoothed_cross_entropy(logits, labels, 0.0),
            prediction=jnp.argmax(logits, axis=-1).astype(jnp.int32),
            in_top5=jnp.any(top == labels[:, None], axis=-1),
        )

    return eval_step


def averaged_over_flip(logits_fn: LogitsFn) -> LogitsFn:
    """The mean of the logits of each image and of its mirror image, left and right: test-time augmentation."""

    def averaged(variables: Variables, images: jax.Array, mask: jax.Array) -> jax.Array:
        as_it_is, mirrored = (logits_fn(variables, seen, mask) for seen in (images, images[:, :, ::-1]))
        return (as_it_is + mirrored) / 2

    return averaged


def smoothed_cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float) -> jax.Array:
    """Cross-entropy [B] in nats of logits [B, K] against labels [B].

    A share ``smoothing`` of the target is spread over all K classes (Szegedy et al. 2015, arXiv 1512.00567, section 7).
    """
    if smoothing == 0:
        exact: jax.Array = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return exact
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), smoothing)
    smoothed: jax.Array = optax.softmax_cross_entropy(logits, targets)
    return smoothed
