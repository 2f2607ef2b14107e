"""The check that a network makes logits. Nothing is computed: JAX only derives the output's shape."""

from __future__ import annotations

from collections.abc import Callable

import jax

from bncli.errors import BncliError, ModelError
from bncli.frameworks.linen import Variables

_REMEDY = "The model must return logits [B, num_classes]; fold other models in Python with bncli.fold."


def count_classes(
    apply_fn: Callable[[Variables, jax.Array], jax.Array],
    variables: Variables,
    images: jax.ShapeDtypeStruct,
    *,
    name: str,
) -> int:
    """K of the logits [B, K] that a network makes in inference mode.

    Args:
        apply_fn: (variables, normalized images [B, H, W, C]) -> logits.
        variables: arrays of the network, or their shapes and dtypes.
        images: shape and dtype of a batch of its input.
        name: the network's name in an error message.

    Raises:
        ModelError: the network cannot be applied to such images, or its output is not [B, K].
    """
    try:
        outputs = jax.eval_shape(apply_fn, variables, images)
    except BncliError:
        raise
    except Exception as error:
        raise ModelError(f"{name} cannot be applied in eval mode: {error}", remedy=_REMEDY) from error
    shape = getattr(outputs, "shape", None)
    if shape is None:
        raise ModelError(f"{name} returns a {type(outputs).__name__}, not an array", remedy=_REMEDY)
    if len(shape) != 2 or shape[0] != images.shape[0]:
        raise ModelError(f"{name} returns outputs of shape {shape} for {images.shape[0]} images", remedy=_REMEDY)
    return int(shape[1])
