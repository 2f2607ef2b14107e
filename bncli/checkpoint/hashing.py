"""One hash of a pytree of arrays, the same wherever and in whatever container they lie."""

from __future__ import annotations

import hashlib
from typing import Any

import jax
import numpy as np


def sha256_tree(tree: Any) -> str:  # noqa: ANN401 - any pytree
    """SHA-256 over the leaves of a pytree in path order: name, dtype, shape, little-endian bytes."""
    digest = hashlib.sha256()
    leaves = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    for name in sorted(leaves):
        leaf = np.asarray(leaves[name])
        digest.update(f"{name} {leaf.dtype.name} {leaf.shape}\n".encode())
        digest.update(leaf.astype(leaf.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()
