"""RandAugment (Cubuk et al. 2019, arXiv 1909.13719): a few random operations on an image, all of one magnitude.

The operations and their ranges are those of ``torchvision.transforms.RandAugment`` with its 31 magnitudes. They are
Pillow's own, so they run where the image is read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

Operation: TypeAlias = Callable[[Image.Image, float], Image.Image]  # (image, level in -1 … 1) -> image

MAX_MAGNITUDE = 30
_MAX_SHEAR = 0.3
_MAX_SHIFT = 150 / 331  # of the image's side
_MAX_DEGREES = 30.0
_MAX_CHANGE = 0.9  # of brightness, colour, contrast and sharpness
_MAX_BITS = 4  # that posterizing takes away


def rand_augment(image: np.ndarray, bits: np.ndarray, *, magnitude: int) -> np.ndarray:
    """The image after operations that random numbers pick.

    Args:
        image: uint8 [H, W, C] with C 1 or 3.
        bits: uint32 [operations, 2]: the choice of each, and its direction.
        magnitude: 0 … 30; 0 leaves little to see.

    Returns:
        uint8 [H, W, C].
    """
    changed = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    for choice, sign in bits.tolist():
        level = magnitude / MAX_MAGNITUDE * (-1 if sign >> 31 else 1)
        changed = OPERATIONS[choice % len(OPERATIONS)](changed, level)
    return np.asarray(changed).reshape(image.shape)


def _affine(image: Image.Image, a: float, b: float, c: float, d: float, e: float, f: float) -> Image.Image:
    """Move pixels: the new one at (x, y) is the old one at (ax + by + c, dx + ey + f), or black."""
    return image.transform(image.size, Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.NEAREST)


def _shear_x(image: Image.Image, level: float) -> Image.Image:
    return _affine(image, 1, level * _MAX_SHEAR, 0, 0, 1, 0)


def _shear_y(image: Image.Image, level: float) -> Image.Image:
    return _affine(image, 1, 0, 0, level * _MAX_SHEAR, 1, 0)


def _shift_x(image: Image.Image, level: float) -> Image.Image:
    return _affine(image, 1, 0, int(level * _MAX_SHIFT * image.width), 0, 1, 0)


def _shift_y(image: Image.Image, level: float) -> Image.Image:
    return _affine(image, 1, 0, 0, 0, 1, int(level * _MAX_SHIFT * image.height))


def _posterize(image: Image.Image, level: float) -> Image.Image:
    return ImageOps.posterize(image, 8 - round(abs(level) * _MAX_BITS))


def _solarize(image: Image.Image, level: float) -> Image.Image:
    return ImageOps.solarize(image, 255 - int(abs(level) * 255))


OPERATIONS: tuple[Operation, ...] = (
    lambda image, level: image,
    _shear_x,
    _shear_y,
    _shift_x,
    _shift_y,
    lambda image, level: image.rotate(level * _MAX_DEGREES),
    lambda image, level: ImageEnhance.Brightness(image).enhance(1 + level * _MAX_CHANGE),
    lambda image, level: ImageEnhance.Color(image).enhance(1 + level * _MAX_CHANGE),
    lambda image, level: ImageEnhance.Contrast(image).enhance(1 + level * _MAX_CHANGE),
    lambda image, level: ImageEnhance.Sharpness(image).enhance(1 + level * _MAX_CHANGE),
    _posterize,
    _solarize,
    lambda image, level: ImageOps.autocontrast(image),
    lambda image, level: ImageOps.equalize(image),
)
