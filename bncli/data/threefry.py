"""JAX's counter-based random numbers in NumPy: the same keys, bits and permutations, bit by bit.

The processes that read images draw from an example's key as the training step does, without starting JAX. The numbers
are those of ``jax.random`` with ``impl="threefry2x32"`` and its default ``jax_threefry_partitionable``: 20 rounds of
Threefry-2x32 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3).

A key is uint32 [2]; an array of keys is [..., 2].
"""

from __future__ import annotations

import math

import numpy as np

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)
_GROUPS = 5  # of four rounds each
_MASK = 0xFFFFFFFF


def key_of(seed: int) -> np.ndarray:
    """The key of ``jax.random.key(seed)``."""
    return np.array([(seed >> 32) & _MASK, seed & _MASK], np.uint32)


def fold_in(keys: np.ndarray, data: int | np.ndarray) -> np.ndarray:
    """The keys of ``jax.random.fold_in(key, number)``, uint32 [..., 2].

    Args:
        keys: [..., 2].
        data: one number for all keys or, for a single key, one for each result.
    """
    words = np.asarray(data).astype(np.uint32)
    first, second = _hashed(keys, np.zeros_like(words).reshape(-1), words.reshape(-1))
    folded = np.stack([first, second], axis=-1)  # [..., numbers, 2]
    return folded if words.ndim else folded[..., 0, :]


def random_bits(keys: np.ndarray, count: int) -> np.ndarray:
    """The numbers of ``jax.random.bits(key, (count,), "uint32")`` for each key: uint32 [..., count]."""
    high, low = _hashed(keys, *_counters(count))
    bits: np.ndarray = high ^ low
    return bits


def permutation(key: np.ndarray, count: int) -> np.ndarray:
    """The order of ``jax.random.permutation(key, count)``, int32 [count].

    As in JAX, it is sorted by random numbers several times, since few of 32 bits would collide too often.
    """
    order = np.arange(count, dtype=np.int32)
    for _ in range(_sorts(count)):
        key, subkey = _split(key)
        order = order[np.argsort(random_bits(subkey, count), kind="stable")]
    return order


def _sorts(count: int) -> int:
    return math.ceil(3 * math.log(max(1, count)) / math.log(_MASK))


def _split(key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two keys of ``jax.random.split(key)``."""
    high, low = _hashed(key, *_counters(2))
    return np.array([high[0], low[0]]), np.array([high[1], low[1]])


def _counters(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The upper and lower words of 0 … count - 1."""
    return np.zeros(count, np.uint32), np.arange(count, dtype=np.uint32)


def _hashed(keys: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Threefry-2x32 of pairs of words, both uint32 [N], by keys [..., 2]: two arrays [..., N]."""
    one, other = keys[..., :1], keys[..., 1:]
    schedule = (one, other, one ^ other ^ _PARITY)
    with np.errstate(over="ignore"):  # modulo 2^32
        first, second = first + schedule[0], second + schedule[1]
        for group in range(_GROUPS):
            for rotation in _ROTATIONS[group % 2]:
                first = first + second
                second = (second << np.uint32(rotation)) | (second >> np.uint32(32 - rotation))
                second = first ^ second
            first = first + schedule[(group + 1) % 3]
            second = second + schedule[(group + 2) % 3] + np.uint32(group + 1)
    return first, second
