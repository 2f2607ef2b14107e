"""Mixup and CutMix: two examples in one image, and a label for each with its weight.

Mixup (Zhang et al. 2017, arXiv 1710.09412) adds two images; CutMix (Yun et al. 2019, arXiv 1905.04899) pastes a part of
one into the other. Examples 2k and 2k+1 of a batch are partners, so a part of a batch that holds both can be mixed by
itself. Each example draws its own weight, which is at least 1/2: it stays the main one of its image.

Letters: B batch, H W height and width, C channels.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from bncli.data.augment import Augmentation, Channels, augment, stream_keys

_MIX_STREAM = 0x6D697820  # "mix "


class MixedLabels(NamedTuple):
    """The labels of mixed examples."""

    own: jax.Array  # int32 [B]
    others: jax.Array  # int32 [B], those of the partners
    weights: jax.Array  # float32 [B] in 1/2 … 1, of each example's own label; the partner's is 1 - weight


Labels: TypeAlias = jax.Array | MixedLabels


def augmented(
    images: jax.Array,
    labels: jax.Array,
    keys: jax.Array,
    augmentation: Augmentation,
    *,
    mean: Channels,
    flips: jax.Array | None = None,
) -> tuple[jax.Array, Labels]:
    """(the images of a training batch, changed at random; their labels, which are mixed if images are).

    Args:
        images: uint8 [B, H, W, C].
        labels: int32 [B].
        keys: [B], typed PRNG keys.
        augmentation: the changes.
        mean: [C], the mean pixel in 0 … 1.
        flips: bool [B], the images to mirror; None draws them, where the augmentation mirrors.
    """
    changed = augment(images, keys, augmentation, mean, flips=flips)
    return mix(changed, labels, keys, augmentation) if augmentation.mixes else (changed, labels)


def mix(
    images: jax.Array, labels: jax.Array, keys: jax.Array, augmentation: Augmentation
) -> tuple[jax.Array, MixedLabels]:
    """The examples, each mixed with its partner by mixup or CutMix; by one of them at random if both are on.

    Args:
        images: [B, H, W, C], pixels in 0 … 255.
        labels: int32 [B].
        keys: [B], typed PRNG keys.
        augmentation: its ``mixup`` and ``cutmix`` are the α of Beta(α, α), which the weights are drawn from.
    """
    partners = jnp.minimum(jnp.arange(len(labels)) ^ 1, len(labels) - 1)
    height, width = images.shape[1:3]
    added, kept = jax.vmap(lambda key: _draw(key, augmentation, height, width))(stream_keys(keys, _MIX_STREAM))
    images = images.astype(jnp.float32)
    sums = added[:, None, None, None] * images + (1 - added)[:, None, None, None] * images[partners]
    mixed = jnp.where(kept[..., None], sums, images[partners])
    return mixed, MixedLabels(labels, labels[partners], added * jnp.mean(kept, axis=(1, 2)))


def _draw(key: jax.Array, augmentation: Augmentation, height: int, width: int) -> tuple[jax.Array, jax.Array]:
    """(the weight of the example's pixels in a sum, the pixels bool [H, W] that are not the partner's alone)."""
    choice, mixup, cutmix, box = jax.random.split(key, 4)
    whole = jnp.ones((height, width), bool)
    added = _weight(mixup, augmentation.mixup) if augmentation.mixup else jnp.float32(1)
    kept = ~_box(box, 1 - _weight(cutmix, augmentation.cutmix), height, width) if augmentation.cutmix else whole
    if not (augmentation.mixup and augmentation.cutmix):
        return added, kept
    adds = jax.random.bernoulli(choice)
    return jnp.where(adds, added, 1), jnp.where(adds, whole, kept)


def _weight(key: jax.Array, alpha: float) -> jax.Array:
    """The larger of two weights that add up to 1, by Beta(α, α)."""
    weight = jax.random.beta(key, alpha, alpha, dtype=jnp.float32)
    return jnp.maximum(weight, 1 - weight)


def _box(key: jax.Array, area: jax.Array, height: int, width: int) -> jax.Array:
    """The pixels of a box of this share of the image, of its shape, around a random centre: bool [H, W]."""
    side = jnp.sqrt(area)
    y, x = jax.random.uniform(key, (2,))
    inside_y = jnp.abs(jnp.arange(height) + 0.5 - y * height) * 2 < side * height
    inside_x = jnp.abs(jnp.arange(width) + 0.5 - x * width) * 2 < side * width
    return inside_y[:, None] & inside_x[None, :]
