"""Replicas of one network, as ``jax.pmap`` leaves them in a checkpoint that was not unreplicated.

Letters: R replicas.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bncli.inspection.readers.arrays import Arrays, Stored
from bncli.inspection.readers.grouping import Found


def count_replicas(found: Sequence[Found], arrays: Arrays) -> int | None:
    """R if every array of the network has a leading axis of length R along which parameters are equal; else None.

    Layers stacked by ``nn.scan`` have such an axis too, but their kernels differ, and arrays outside have no such axis.
    """
    collections = found[0].convention.collections
    if collections is None or any(layer.place != found[0].place for layer in found):
        return None
    statistics, params = (_below(arrays, (*found[0].place, name)) for name in collections)
    leading = {array.shape[:1] for array in (*statistics, *params)}
    if len(leading) != 1 or leading <= {(), (0,), (1,)} or any(layer.mean.shape[1:] == () for layer in found):
        return None
    return next(iter(leading))[0] if all(map(_is_equal_in_all, params)) else None


def _below(arrays: Arrays, place: tuple[str, ...]) -> list[Stored]:
    return [array for path, array in arrays.items() if path[: len(place)] == place]


def _is_equal_in_all(array: Stored) -> bool:
    values = np.asarray(array.read())
    return all(values[0].tobytes() == replica.tobytes() for replica in values[1:])
