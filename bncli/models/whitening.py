"""Patch whitening: the kernel of a first layer whose outputs are uncorrelated and of variance 1 on given images.

Source: Page, "How to train your ResNet 8" (2019); Jordan 2024 (arXiv 2404.00498), section 3.1.

Letters: N images, k side of a patch, D = k k C values in one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# The name of the layer in a network.
WHITEN = "whiten"
# Side of a patch: three channels have as many values in 2×2 as one has in 3×3, nearly.
_SIDE, _SIDE_OF_GREY = 2, 3
# Added to the variances along the principal directions, so that those of noise alone are not blown up.
EPSILON = 5e-4
# Images whose patches are in memory at a time.
_CHUNK = 256


def patch_size(height: int, width: int, channels: int) -> int:
    """Side of the patches of images [H, W, C]."""
    return min(_SIDE_OF_GREY if channels == 1 else _SIDE, height, width)


def whitening_kernel(
    images: np.ndarray,
    size: int,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    epsilon: float = EPSILON,
) -> np.ndarray:
    """The principal directions of the patches, each divided by √(variance + ε), then their negatives.

    With Σ = E[p pᵀ] = V Λ Vᵀ over all patches p of the normalized images, column j is V_j / √(Λ_j + ε), by falling Λ_j.
    The sign of a direction makes its largest entry positive, so that it does not depend on the library that finds it.

    Args:
        images: uint8 [N, H, W, C].
        size: k.
        mean: [C], of pixels in [0, 1].
        std: [C], of pixels in [0, 1].
        epsilon: ε.

    Returns:
        float32 [k, k, C, 2 D].
    """
    channels = images.shape[-1]
    variances, directions = np.linalg.eigh(_second_moment(images, size, np.asarray(mean), np.asarray(std)))
    variances, directions = variances[::-1], directions[:, ::-1]  # eigh has them rising
    largest = np.abs(directions).argmax(axis=0)
    directions = directions * np.sign(directions[largest, np.arange(len(largest))])
    scaled = directions / np.sqrt(np.maximum(variances, 0) + epsilon)
    kernel = np.concatenate([scaled, -scaled], axis=1)
    return kernel.reshape(size, size, channels, -1).astype(np.float32)


def _second_moment(images: np.ndarray, size: int, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """E[p pᵀ] over all patches p of the normalized images, [D, D].

    The sums over the pixels are whole numbers, exact in float64, so their order plays no part: the number of threads
    that add them does not change the result.
    """
    sums, products, count = _pixel_sums(images, size)
    centre, scale = np.tile(mean, size * size), np.tile(std, size * size)
    mixed = np.outer(sums / (255 * count), centre)
    moment = products / (255**2 * count) - mixed - mixed.T + np.outer(centre, centre)
    normalized: np.ndarray = moment / np.outer(scale, scale)
    return normalized


def _pixel_sums(images: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, int]:
    """(Σ q [D], Σ q qᵀ [D, D], number of patches) over all patches q of k k C pixels in 0 … 255."""
    dimension = size * size * images.shape[-1]
    sums, products, count = np.zeros(dimension), np.zeros((dimension, dimension)), 0
    for start in range(0, len(images), _CHUNK):
        some = images[start : start + _CHUNK].astype(np.float64)
        windows = np.lib.stride_tricks.sliding_window_view(some, (size, size), axis=(1, 2))  # [N, H', W', C, k, k]
        patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, dimension)
        sums, products, count = sums + patches.sum(axis=0), products + patches.T @ patches, count + len(patches)
    return sums, products, count
