"""A hash of a pytree of arrays that depends neither on the device nor on the container of the arrays."""

from __future__ import annotations

import hashlib

import jax
import numpy as np


def sha256_tree(tree: object) -> str:
    """SHA-256 over the leaves of a pytree in path order: name, dtype, shape, little-endian bytes."""
    digest = hashlib.sha256()
    leaves = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    for name in sorted(leaves):
        leaf = np.asarray(leaves[name])
        digest.update(f"{name} {leaf.dtype.name} {leaf.shape}\n".encode())
        digest.update(leaf.astype(leaf.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()
