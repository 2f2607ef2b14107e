"""Colour jitter and random erasing of a batch, on the device.

Letters: B batch, H W height and width, C channels.
"""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

# Luma of ITU-R BT.601, as in Pillow and torchvision.
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_ORDERS = np.array(list(itertools.permutations(range(3))), np.int32)
_AREAS = (0.02, 0.33)
_RATIOS = (0.3, 3.3)
_TRIES = 10


def jitter_colour(images: jax.Array, keys: jax.Array, *, strength: float) -> jax.Array:
    """The images with brightness, contrast and saturation changed by random factors, in random order.

    Each factor is drawn from [max(0, 1 - strength), 1 + strength], as ``torchvision.transforms.ColorJitter`` does with
    one strength for all three. Only RGB images have a saturation.

    Args:
        images: [B, H, W, C], pixels in 0 … 255.
        keys: [B], typed PRNG keys.
        strength: 0 changes nothing.

    Returns:
        float32 [B, H, W, C] in 0 … 255.
    """
    return jax.vmap(lambda image, key: _jittered(image, key, strength))(images.astype(jnp.float32), keys)


def _jittered(image: jax.Array, key: jax.Array, strength: float) -> jax.Array:
    order_key, factor_key = jax.random.split(key)
    order = jnp.asarray(_ORDERS)[jax.random.randint(order_key, (), 0, len(_ORDERS))]
    factors = jax.random.uniform(factor_key, (3,), minval=max(0.0, 1 - strength), maxval=1 + strength)
    for place in range(3):
        change = order[place]
        factor = factors[change]
        image = jnp.clip(factor * image + (1 - factor) * _opposite(image, change), 0, 255)
    return image


def _opposite(image: jax.Array, change: jax.Array) -> jax.Array:
    """The image that a factor of 0 leads to: black, the mean grey, or the image without colour."""
    is_rgb = image.shape[-1] == 3
    grey = image @ _LUMA if is_rgb else image.mean(axis=-1)  # [H, W]
    without_colour = jnp.broadcast_to(grey[..., None], image.shape) if is_rgb else image
    return jnp.select(
        [change == 0, change == 1], [jnp.zeros_like(image), jnp.full_like(image, grey.mean())], without_colour
    )


def erase(images: jax.Array, keys: jax.Array, *, probability: float, fill: jax.Array) -> jax.Array:
    """The images, each with a random rectangle set to one colour with this probability.

    Zhong et al. 2017 (arXiv 1708.04896), with the ranges and the ten tries of ``torchvision.transforms.RandomErasing``.

    Args:
        images: [B, H, W, C].
        keys: [B], typed PRNG keys.
        probability: of each image.
        fill: [C], the colour; the mean pixel becomes 0 when images are normalized.
    """
    height, width = images.shape[1:3]
    erased = jax.vmap(lambda key: _rectangle(key, height, width, probability))(keys)  # [B, H, W]
    return jnp.where(erased[..., None], fill.astype(images.dtype), images)


def _rectangle(key: jax.Array, height: int, width: int, probability: float) -> jax.Array:
    """The pixels to erase, bool [H, W]: the first of ten random rectangles that fits into the image."""
    chance, *draws = jax.random.split(key, 5)
    area, ratio, y, x = (jax.random.uniform(draw, (_TRIES,)) for draw in draws)
    pixels = height * width * (_AREAS[0] + area * (_AREAS[1] - _AREAS[0]))
    low, high = map(math.log, _RATIOS)
    aspect = jnp.exp(low + ratio * (high - low))
    tall, wide = jnp.round(jnp.sqrt(pixels * aspect)), jnp.round(jnp.sqrt(pixels / aspect))
    fits = (tall < height) & (wide < width)
    first = jnp.argmax(fits)
    top = jnp.floor(y * (height - tall + 1))[first]
    left = jnp.floor(x * (width - wide + 1))[first]
    rows, columns = jnp.arange(height), jnp.arange(width)
    inside = ((rows >= top) & (rows < top + tall[first]))[:, None] & (
        (columns >= left) & (columns < left + wide[first])
    )
    return inside & jnp.any(fits) & (jax.random.uniform(chance) < probability)
