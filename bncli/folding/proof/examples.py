"""Random examples of a network's inputs."""

from __future__ import annotations

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from bncli.folding.folded import Folded
from bncli.folding.trace.arguments import is_batched, resized
from bncli.folding.trace.graph import Pytree

BATCHES = 2
EXAMPLES = 2  # in a batch; as many as the example has where the network runs with no other number
SYMBOLIC_EXAMPLES = 4  # for a batch size that is a symbol; many expressions of a symbol take this value


def random_inputs(folded: Folded) -> list[Pytree] | None:
    """Batches of random examples; None if there are none of these dtypes, or if the network does not run on them."""
    inputs = jax.tree_util.tree_leaves(folded.example)
    sizes = [x.shape[0] for x in inputs if x.shape] if is_batched(inputs) else []
    for size in _sizes(sizes[0]) if sizes else [0]:
        example = resized(folded.example, size) if sizes else folded.example
        if _runs(folded, example):
            return [_random(example, seed) for seed in range(BATCHES)]
    return None


def _sizes(own: int) -> list[int]:
    """The numbers of examples to try: few, or as many as the network was folded with."""
    if jax.export.is_symbolic_dim(own):
        return [SYMBOLIC_EXAMPLES]
    return [EXAMPLES, own] if own > EXAMPLES else [own]


def _runs(folded: Folded, example: Pytree) -> bool:
    """True if both networks take such inputs, and random numbers of their dtypes exist."""
    leaves = jax.tree_util.tree_leaves(example)
    if any(jax.export.is_symbolic_dim(size) for x in leaves for size in x.shape):
        return False
    keys = [x.dtype for x in leaves if jnp.issubdtype(x.dtype, jax.dtypes.extended)]
    if any(dtype != jax.random.key(0).dtype for dtype in keys):
        return False
    try:
        jax.eval_shape(folded.apply, folded.variables, example)
    except Exception:  # raised by the network itself, so it may be of any type
        return False
    return True


def _random(example: Pytree, seed: int) -> Pytree:
    rng = np.random.default_rng(seed)
    return jax.tree_util.tree_map(lambda x: _random_array(x, rng), example)


def _random_array(x: jax.ShapeDtypeStruct, rng: np.random.Generator) -> jax.Array:
    """Standard normal numbers; bytes for a type of 8 bits (an image); 0 and 1 for other integers (indices)."""
    if jnp.issubdtype(x.dtype, jax.dtypes.extended):
        return jax.random.split(jax.random.key(int(rng.integers(2**31))), x.shape)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        return jnp.asarray(rng.normal(size=x.shape) + 1j * rng.normal(size=x.shape), x.dtype)
    if jnp.issubdtype(x.dtype, jnp.floating):
        return jnp.asarray(rng.normal(size=x.shape), x.dtype)
    largest = np.iinfo(x.dtype).max if x.dtype in (np.uint8, np.int8) else 1
    return jnp.asarray(rng.integers(0, largest, x.shape, endpoint=True), x.dtype)


def count(x: Pytree) -> int:
    """The number of examples in a batch; 1 for inputs without a batch axis."""
    leaves = jax.tree_util.tree_leaves(x)
    return next((len(leaf) for leaf in leaves if leaf.ndim), 1) if is_batched(leaves) else 1
