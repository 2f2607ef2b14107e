"""Batches: their examples are pure functions of (seed, epoch, step), so that a resumed run sees the same ones.

Letters: N examples, B batch size, r = N mod B.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from bncli.data import threefry
from bncli.errors import ConfigError

# Folded into the seed's key, so that the order of an epoch and the keys of its examples come from unrelated streams
# ("ordr", "exmp"). The flips that alternate have one too ("flip").
_ORDER_STREAM = 0x6F726472
EXAMPLE_STREAM = 0x65786D70
FLIP_STREAM = 0x666C6970


@dataclass(frozen=True)
class Batch:
    """The examples of one step. ``mask`` is False for padding, and None if there is no padding.

    A streamed batch has its images with it.
    """

    indices: np.ndarray  # int32 [B]
    mask: np.ndarray | None  # bool [B]
    images: jax.Array | None = None  # uint8 [B, H, W, C], on the devices

    @property
    def real(self) -> np.ndarray:
        """The mask as an array, bool [B]: all True if there is no padding."""
        return np.ones(len(self.indices), bool) if self.mask is None else self.mask

    @property
    def num_real(self) -> int:
        """Number of examples that are not padding."""
        return len(self.indices) if self.mask is None else int(self.mask.sum())


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """ceil(N / B): the number of batches in an epoch, of training and of evaluation alike."""
    _check_sizes(num_examples, batch_size)
    return -(-num_examples // batch_size)


def epoch_order(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    """The order of the examples in one epoch, int32 [N]: a permutation that depends on (seed, epoch, N) only."""
    # Users can change JAX's default implementation of keys; the order must not depend on it.
    key = threefry.fold_in(threefry.fold_in(threefry.key_of(seed), _ORDER_STREAM), epoch)
    return threefry.permutation(key, num_examples)


def example_keys(seed_key: jax.Array, epoch: jax.Array | int, indices: jax.Array) -> jax.Array:
    """One key per example, [B], that depends on (seed, epoch, example) only; ``jit``-able.

    Args:
        seed_key: the run's typed key, ``jax.random.key(seed)``.
        epoch: from 0; it may be traced.
        indices: int32 [B], the examples' places in the split.
    """
    return keys_in_epoch(jax.random.fold_in(seed_key, EXAMPLE_STREAM), epoch, indices)


def keys_in_epoch(stream_key: jax.Array, epoch: jax.Array | int, indices: jax.Array) -> jax.Array:
    """``example_keys`` where the seed's key is folded with ``EXAMPLE_STREAM`` already."""
    epoch_key = jax.random.fold_in(stream_key, epoch)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(epoch_key, indices)


def alternating_flips(seed_key: jax.Array, epoch: jax.Array | int, indices: jax.Array) -> jax.Array:
    """True for each example that is mirrored in an epoch, bool [B]; the next epoch mirrors the others; ``jit``-able.

    A coin, tossed once per (seed, example), says whether an example is mirrored in even or in odd epochs. So any two
    epochs in a row show an image both ways, where independent coins show half of the images twice the same way (Jordan
    2024, arXiv 2404.00498, section 3.6).

    Args:
        seed_key: the run's typed key, ``jax.random.key(seed)``.
        epoch: from 0; it may be traced.
        indices: int32 [B], the examples' places in the split.
    """
    return flips_in_epoch(jax.random.fold_in(seed_key, FLIP_STREAM), epoch, indices)


def flips_in_epoch(stream_key: jax.Array, epoch: jax.Array | int, indices: jax.Array) -> jax.Array:
    """``alternating_flips`` where the seed's key is folded with ``FLIP_STREAM`` already."""
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(stream_key, indices)
    coins = jax.vmap(lambda key: jax.random.bits(key, (), "uint32"))(keys)
    flips: jax.Array = (coins + jnp.asarray(epoch).astype(jnp.uint32)) % 2 == 1
    return flips


def read_keys(seed: int, epoch: int, indices: np.ndarray) -> np.ndarray:
    """The keys of ``example_keys`` where images are read, by processes without JAX: uint32 [B, 2].

    They are the same numbers where JAX's default implementation of keys is threefry.
    """
    stream = threefry.fold_in(threefry.fold_in(threefry.key_of(seed), EXAMPLE_STREAM), epoch)
    return threefry.fold_in(stream, indices)


def epoch_batches(order: np.ndarray, batch_size: int) -> Iterator[Batch]:
    """The batches of one training epoch, each example exactly once.

    If B divides N, all batches are full. Otherwise the last two batches share the remaining B + r examples:
    ceil((B + r) / 2) and floor((B + r) / 2). The BN statistics of a tiny last batch would be noise; so no batch holds
    fewer than B / 2 real examples, unless N < B. The rest of a batch is padding: real examples from the start of the
    order, masked out, so that a model that takes no mask still sees real data.

    Args:
        order: int32 [N], the examples in the order to visit.
        batch_size: B.
    """
    for step in range(steps_per_epoch(len(order), batch_size)):
        yield epoch_batch(order, batch_size, step)


def epoch_batch(order: np.ndarray, batch_size: int, step: int) -> Batch:
    """The batch of one step of an epoch, from 0: the ``step``-th of ``epoch_batches``."""
    start, end = _epoch_range(len(order), batch_size, step)
    return _padded(order[start:end], batch_size, padding=order)


def eval_batches(num_examples: int, batch_size: int) -> Iterator[Batch]:
    """The batches of one evaluation: examples 0 … N-1 in order, the last batch padded and masked."""
    _check_sizes(num_examples, batch_size)
    order = np.arange(num_examples, dtype=np.int32)
    for start in range(0, num_examples, batch_size):
        yield _padded(order[start : start + batch_size], batch_size, padding=order)


def _epoch_range(num_examples: int, batch_size: int, step: int) -> tuple[int, int]:
    """The first example of a step in the order, and the one after its last."""
    steps, rest = steps_per_epoch(num_examples, batch_size), num_examples % batch_size
    start = step * batch_size
    if rest == 0 or steps == 1 or step < steps - 2:
        return start, min(start + batch_size, num_examples)
    middle = num_examples - (batch_size + rest) // 2
    return (start, middle) if step == steps - 2 else (middle, num_examples)


def _padded(indices: np.ndarray, batch_size: int, *, padding: np.ndarray) -> Batch:
    """A batch of ``indices``, filled up to ``batch_size`` from the start of ``padding``, repeated as needed."""
    missing = batch_size - len(indices)
    if missing == 0:
        return Batch(indices=indices, mask=None)
    filled = np.concatenate([indices, np.resize(padding, missing)])
    return Batch(indices=filled, mask=np.arange(batch_size) < len(indices))


def _check_sizes(num_examples: int, batch_size: int) -> None:
    if batch_size < 1:
        raise ConfigError(f"the batch size is {batch_size}", remedy="Choose a batch size of at least 1.")
    if num_examples < 1:
        raise ConfigError("there is no example to make a batch of", remedy="Choose a split that is not empty.")
