"""Wrappings that training puts around arrays: boxes of partitioned parameters, and the replicas of ``pmap``.

Letters: R replicas.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np

Key: TypeAlias = tuple[str, ...]  # path of an array in a tree
Shapes: TypeAlias = Mapping[Key, tuple[int, ...]]

# Names of the array in a box of ``flax.linen.Partitioned``, ``LogicallyPartitioned`` or ``nnx.Variable``.
BOXED = ("value", "raw_value")


def unbox(arrays: Mapping[Key, object], expected: Shapes) -> dict[Key, object]:
    """The arrays under the model's own paths, out of the boxes of which the model knows nothing."""
    return {_without_box(key, arrays, expected): array for key, array in arrays.items()}


def _without_box(key: Key, arrays: Mapping[Key, object], expected: Shapes) -> Key:
    is_box = key[-1:] and key[-1] in BOXED and key not in expected and key[:-1] in expected
    return key[:-1] if is_box and sum((*key[:-1], name) in arrays for name in BOXED) == 1 else key


def count_replicas(arrays: Mapping[Key, object], expected: Shapes) -> int | None:
    """R if every array has a leading axis of length R before the model's shape; None otherwise."""
    if arrays.keys() != expected.keys():
        return None
    counts = {_leading(array, expected[key]) for key, array in arrays.items()}
    return counts.pop() if len(counts) == 1 else None


def _leading(array: object, shape: tuple[int, ...]) -> int | None:
    """The length of the single axis before ``shape``; None if there is no such axis, or nothing along it."""
    if not isinstance(array, np.ndarray) or not array.ndim or array.shape[1:] != shape:
        return None
    return len(array) or None


def differing(arrays: Mapping[Key, object]) -> list[Key]:
    """The arrays that are not the same in all replicas."""
    return [key for key, array in arrays.items() if isinstance(array, np.ndarray) and not _is_equal_in_all(array)]


def _is_equal_in_all(array: np.ndarray) -> bool:
    return all(array[0].tobytes() == replica.tobytes() for replica in array[1:])


def first_replica(arrays: Mapping[Key, object]) -> dict[Key, object]:
    """The arrays of the first replica."""
    return {key: array[0] for key, array in arrays.items() if isinstance(array, np.ndarray)}
