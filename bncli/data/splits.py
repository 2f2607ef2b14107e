"""Setting examples aside: which ones, and how to do it without a second copy of the images.

Letters: N examples, n_k examples of class k.
"""

from __future__ import annotations

import numpy as np

from bncli.errors import ConfigError

# Memory of a data set, relative to its images: splits carved out of train are copies, at most a fifth and a tenth.
CARVING_FACTOR = 1.3
_CHUNK_BYTES = 1 << 22


def stratified_sample(labels: np.ndarray, fraction: float, *, seed: int) -> np.ndarray:
    """The indices of the examples to set aside, ascending: a share ``fraction`` of every class.

    Class k gives n_k * fraction examples, rounded so that all classes together give round(N * fraction), but at least
    one in total. At least one example of every class stays, so a class with a single example gives none.

    Args:
        labels: int [N], 0 … K-1.
        fraction: more than 0 and less than 1.
        seed: picks the examples.

    Returns:
        int64 [M]; M is 0 only if no class has two examples.
    """
    check_fraction(fraction)
    if seed < 0:
        raise ConfigError(f"the seed is {seed}", remedy="Choose 0 or a positive number.")
    # NumPy promises never to change the raw stream of a bit generator, unlike the rest of numpy.random.
    ranks = np.random.PCG64(seed).random_raw(len(labels))
    quotas = _quotas(np.bincount(labels), fraction)
    chosen = [_lowest(np.flatnonzero(labels == label), ranks, quota) for label, quota in enumerate(quotas) if quota]
    return np.sort(np.concatenate(chosen)) if chosen else np.empty(0, np.int64)


def check_fraction(fraction: float) -> None:
    """Raise ConfigError unless ``fraction`` is between 0 and 1."""
    if not 0 < fraction < 1:
        raise ConfigError(
            f"the fraction to set aside is {fraction}", remedy="Choose more than 0 and less than 1, such as 0.1."
        )


def take_out(array: np.ndarray, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the rest, the examples taken out), both in their original order; the rest moves together in place.

    The rest is a view of ``array``, so splitting a data set needs no second copy of it.

    Args:
        array: [N, …], writable.
        indices: int [M], ascending and distinct.
    """
    taken = array[indices]
    keep = np.ones(len(array), bool)
    keep[indices] = False
    kept = np.flatnonzero(keep)
    step = max(1, _CHUNK_BYTES // max(1, array[:1].nbytes))
    for start in range(0, len(kept), step):
        # Every source is at or behind its destination, so no chunk overwrites one that is still to be read.
        array[start : start + step][: len(kept) - start] = array[kept[start : start + step]]
    return array[: len(kept)], taken


def _lowest(indices: np.ndarray, ranks: np.ndarray, count: int) -> np.ndarray:
    """The ``count`` of ``indices`` whose ranks are lowest."""
    return indices[np.argsort(ranks[indices], kind="stable")[:count]]


def _quotas(counts: np.ndarray, fraction: float) -> np.ndarray:
    """The number of examples to take of each class: largest remainders first, never the last example of a class."""
    spare = np.maximum(counts - 1, 0)
    exact = counts * fraction
    quotas: np.ndarray = np.minimum(np.floor(exact).astype(np.int64), spare)
    total = min(max(1, round(float(counts.sum()) * fraction)), int(spare.sum()))
    by_remainder = np.argsort(quotas - exact, kind="stable")
    while quotas.sum() < total:
        for label in by_remainder:
            if quotas.sum() < total and quotas[label] < spare[label]:
                quotas[label] += 1
    return quotas
