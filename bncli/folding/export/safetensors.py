"""The arrays of a network in one file under flat names, for any framework."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import numpy as np
import safetensors.numpy

from bncli.errors import FoldError
from bncli.folding.trace.graph import Pytree, leaf_path


def to_safetensors(variables: Pytree, metadata: Mapping[str, str] | None = None) -> bytes:
    """The content of a `.safetensors` file: each array unchanged, under its path joined by dots.

    Kernels keep JAX's layout: HWIO for a convolution, `[in, out]` for a dense layer. bfloat16 stays bfloat16.

    Args:
        variables: a pytree of arrays.
        metadata: texts for the header.

    Raises:
        FoldError: the format has no name for an array's dtype, or two arrays would have the same name.
    """
    flat: dict[str, np.ndarray] = {}
    for path, array in jax.tree_util.tree_flatten_with_path(variables)[0]:
        name = ".".join(leaf_path(path))
        if name in flat:
            raise FoldError(
                f"two arrays would have the same name {name!r} in a safetensors file", remedy="rename a module"
            )
        flat[name] = np.ascontiguousarray(array)
    try:
        return safetensors.numpy.save(flat, metadata=dict(metadata or {}))
    except (KeyError, safetensors.SafetensorError) as error:
        raise FoldError(f"safetensors cannot store these arrays: {error}") from error
