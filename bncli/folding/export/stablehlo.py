"""The forward pass as StableHLO, which `jax.export.deserialize` loads without bncli and the model's source."""

from __future__ import annotations

import jax
import jax.export

from bncli.folding.trace.graph import ApplyFn, Pytree

# The program is lowered for all of these, whichever this machine has.
PLATFORMS = ("cpu", "cuda", "tpu")


def lower(apply_fn: ApplyFn, variables: Pytree, images: jax.ShapeDtypeStruct) -> jax.export.Exported:
    """`apply_fn` as a program (variables, images) -> outputs; a symbolic dimension of `images` stays free.

    Args:
        apply_fn: any traceable function.
        variables: its arrays; only shapes and dtypes are used.
        images: shape and dtype of its input.
    """
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), variables)
    return jax.export.export(jax.jit(apply_fn), platforms=PLATFORMS)(shapes, images)


def with_variables(forward: jax.export.Exported, variables: Pytree) -> jax.export.Exported:
    """The program images -> outputs, with the variables' values inside."""
    (_, images) = jax.tree.unflatten(forward.in_tree, forward.in_avals)[0]
    function = jax.jit(lambda x: forward.call(variables, x))
    return jax.export.export(function, platforms=PLATFORMS)(jax.ShapeDtypeStruct(images.shape, images.dtype))
