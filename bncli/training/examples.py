"""Training examples on the devices: a split, and a batch of it.

Letters: N examples in the split, B batch size, H W C an image.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct


@struct.dataclass
class DeviceSplit:
    """A split in the devices' memory, whole on each device."""

    images: jax.Array  # uint8 [N, H, W, C]
    labels: jax.Array  # int32 [N]


class Examples(NamedTuple):
    """The arrays of one batch."""

    images: jax.Array  # uint8 [B, H, W, C]
    labels: jax.Array  # int32 [B]
    keys: jax.Array  # [B], typed PRNG keys for the augmentation
    mask: jax.Array | None  # bool [B], False for padding; None if no example is padding
    flips: jax.Array | None = None  # bool [B], the images to mirror where flips alternate; None if they do not

    @property
    def weights(self) -> jax.Array:
        """1.0 for each example that counts, 0.0 for padding: float32 [B]."""
        return jnp.ones(self.labels.shape, jnp.float32) if self.mask is None else self.mask.astype(jnp.float32)


def gather(
    split: DeviceSplit,
    indices: jax.Array,
    mask: jax.Array | None,
    *,
    keys: jax.Array,
    flips: jax.Array | None = None,
) -> Examples:
    """The examples ``indices`` int32 [B] of a split."""
    return Examples(split.images[indices], split.labels[indices], keys, mask, flips)
