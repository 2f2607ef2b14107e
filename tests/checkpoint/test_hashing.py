"""The hash of a tree is of its contents alone."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bncli import checkpoint

ARRAYS = st.sampled_from(["<f4", "<f8", "<i4", "|u1", "|b1"]).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3))
)
TREES = st.dictionaries(st.text("abc", min_size=1, max_size=3), ARRAYS, min_size=1, max_size=4)


@given(tree=TREES)
def test_the_hash_is_of_names_dtypes_shapes_and_bytes_whatever_the_order_and_the_container(tree):
    digest = checkpoint.sha256_tree(tree)
    assert checkpoint.sha256_tree(dict(reversed(tree.items()))) == digest
    assert checkpoint.sha256_tree({name: np.array(leaf, order="F") for name, leaf in tree.items()}) == digest
    assert checkpoint.sha256_tree({n: leaf.astype(leaf.dtype.newbyteorder(">")) for n, leaf in tree.items()}) == digest
    name, leaf = next(iter(tree.items()))
    others = [
        {**tree, name: leaf[None]},
        {**tree, name: leaf.astype(np.complex128)},
        {**tree, "d": leaf},
        {("d" if key == name else key): value for key, value in tree.items()},
    ]
    if leaf.size:
        changed = leaf.copy().reshape(-1)
        changed.view(np.uint8)[0] ^= 1
        others.append({**tree, name: changed.reshape(leaf.shape)})
    assert digest not in [checkpoint.sha256_tree(other) for other in others]


def test_the_hash_tells_zeros_apart_and_is_that_of_device_arrays():
    assert checkpoint.sha256_tree({"a": np.float32(0.0)}) != checkpoint.sha256_tree({"a": np.float32(-0.0)})
    tree = {
        "a": {"b": np.array([np.nan, -0.0], np.float32)},
        "half": np.asarray(jnp.linspace(0, 1, 5, dtype=jnp.bfloat16)),
    }
    on_device = jax.tree.map(jnp.asarray, tree)
    assert checkpoint.sha256_tree(on_device) == checkpoint.sha256_tree(tree)


def test_the_hash_stays_what_it_is():
    """Published hashes must stay comparable: the format is in the docstring, this is its value."""
    expected = hashlib.sha256(
        b"['a']['b'] int32 (2,)\n" + bytes([1, 0, 0, 0, 2, 0, 0, 0]) + b"['c'] float32 ()\n" + bytes(4)
    )
    tree = {"c": np.float32(0), "a": {"b": np.array([1, 2], np.int32)}}
    assert checkpoint.sha256_tree(tree) == expected.hexdigest()
