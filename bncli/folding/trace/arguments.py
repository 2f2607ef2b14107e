"""The arguments of a network: the shapes and dtypes of its variables and inputs, and the batch size of the inputs.

Variables and inputs are any pytrees of arrays and Python numbers. The batch axis of the inputs is their first axis, if
all inputs of rank 1 or more are equally long along it.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from bncli.errors import FoldError
from bncli.folding.trace.graph import Constant, Described, Path, Pytree, leaf_path

KINDS = (jnp.number, jnp.bool_, jax.dtypes.extended)  # of dtypes; PRNG keys are extended ones


def described(tree: Pytree, name: str) -> Pytree:
    """The tree with a `jax.ShapeDtypeStruct` for each leaf, in JAX's dtypes: float64 is float32 unless x64 is enabled.

    Args:
        name: the word for a leaf in an error.

    Raises:
        FoldError: a leaf is no array for JAX; the message names it.
    """
    return jax.tree_util.tree_map_with_path(lambda path, leaf: _described(leaf, name, leaf_path(path)), tree)


def concrete(variables: Pytree) -> dict[Path, Constant]:
    """The arrays by path; a Python number becomes one.

    Raises:
        FoldError: a leaf is no array, or has no numbers; the message names it.
    """
    leaves = {leaf_path(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(variables)[0]}
    return {path: _concrete(leaf, path) for path, leaf in leaves.items()}


def is_batched(inputs: Sequence[jax.ShapeDtypeStruct]) -> bool:
    """True if the inputs have a batch axis in common."""
    sizes = [x.shape[0] for x in inputs if x.shape]
    return bool(sizes) and all(size == sizes[0] for size in sizes)


def resized(inputs: Pytree, size: int) -> Pytree:
    """The description of as many examples; inputs without a batch axis as they are."""
    if not is_batched(jax.tree_util.tree_leaves(inputs)):
        return inputs
    return jax.tree_util.tree_map(lambda x: _with_shape(x, (size, *x.shape[1:]) if x.shape else ()), inputs)


def like_example(given: Pytree, example: Pytree) -> Pytree | None:
    """The description of inputs that may differ from the example's in the batch size; None if they differ otherwise."""
    structure: object = jax.tree_util.tree_structure(example)
    if jax.tree_util.tree_structure(given) != structure:
        return None
    theirs, ours = jax.tree_util.tree_leaves(given), jax.tree_util.tree_leaves(example)
    first = 1 if is_batched(ours) and is_batched(theirs) else 0
    for their, our in zip(theirs, ours, strict=True):
        same_rank = len(their.shape) == len(our.shape)
        if not same_rank or their.shape[first:] != our.shape[first:] or their.dtype != our.dtype:
            return None
    return jax.tree_util.tree_map(lambda their, our: _with_shape(our, their.shape), given, example)


def as_text(inputs: Pytree) -> str:
    """`float32[2, 3]`, or several of them in brackets."""
    texts = [f"{x.dtype.name}{list(x.shape)}" for x in jax.tree_util.tree_leaves(inputs)]
    return texts[0] if len(texts) == 1 else f"({', '.join(texts)})"


def _with_shape(x: jax.ShapeDtypeStruct, shape: Sequence[int]) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, x.dtype, weak_type=x.weak_type)


def _described(leaf: Described | complex, name: str, path: Path) -> jax.ShapeDtypeStruct:
    array = leaf if hasattr(leaf, "shape") and hasattr(leaf, "dtype") else _number(leaf, name, path)
    if not any(jnp.issubdtype(array.dtype, kind) for kind in KINDS):
        raise _refusal(name, path, f"an array of {array.dtype}")
    dtype = jax.dtypes.canonicalize_dtype(array.dtype, allow_extended_dtype=True)
    return jax.ShapeDtypeStruct(array.shape, dtype, weak_type=bool(getattr(array, "weak_type", False)))


def _concrete(leaf: Constant | complex, path: Path) -> Constant:
    if isinstance(leaf, jax.ShapeDtypeStruct | jax.core.Tracer):
        raise FoldError(
            f"the variable {'/'.join(path)} has no numbers: it is a {type(leaf).__name__}",
            remedy="fold outside of jit, grad and vmap, with the arrays themselves",
        )
    if isinstance(leaf, np.ndarray | np.generic | jax.Array):
        return leaf
    if hasattr(leaf, "__jax_array__"):  # an array in the clothes of a framework
        return jnp.asarray(leaf)
    return _number(leaf, "variable", path)


def _number(leaf: object, name: str, path: Path) -> jax.Array:
    """A Python number as JAX takes it: its dtype gives way to that of the arrays it meets."""
    if not isinstance(leaf, bool | int | float | complex):
        raise _refusal(name, path, f"a {type(leaf).__name__}")
    return jnp.asarray(leaf)


def _refusal(name: str, path: Path, kind: str) -> FoldError:
    return FoldError(
        f"the {name} {'/'.join(path)} is {kind}, and JAX computes with arrays of numbers only",
        remedy="pass arrays only, and close the apply function over everything else",
    )
