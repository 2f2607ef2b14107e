"""A textbook convolution and BN with their gradients, in NumPy: the reference for jaxlib.

Letters: B batch, H W image, C input and O output channels, k kernel size (odd). Images are NHWC, kernels HWIO. All
computations use the dtype of the arguments; float64 makes them a reference.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]


def conv(images: Array, kernel: Array) -> Array:
    """The convolution with stride 1 and zero padding: Σ over (i, j) of shifted images times kernel[i, j], [B, H, W, O].

    Args:
        images: [B, H, W, C].
        kernel: [k, k, C, O].
    """
    patches = _patches(images, len(kernel))
    return np.sum([patches[i][j] @ kernel[i, j] for i in range(len(kernel)) for j in range(len(kernel))], axis=0)


def conv_gradients(images: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
    """The gradients with respect to images and kernel, given the gradient of the output [B, H, W, O].

    The gradient of the images is the convolution of ``gradient`` with the flipped kernel.
    """
    to_images = conv(gradient, kernel[::-1, ::-1].swapaxes(2, 3))
    rows = gradient.reshape(-1, gradient.shape[-1])  # [B H W, O]
    patches = _patches(images, len(kernel))
    to_kernel = np.array([[patch.reshape(len(rows), -1).T @ rows for patch in line] for line in patches])
    return to_images, to_kernel


def _patches(images: Array, size: int) -> list[list[Array]]:
    """[i][j] -> the pixels [B, H, W, C] that the kernel's element (i, j) multiplies."""
    _, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (size // 2, size // 2), (size // 2, size // 2), (0, 0)))
    return [[padded[:, i : i + height, j : j + width] for j in range(size)] for i in range(size)]


@dataclass(frozen=True)
class Normalized:
    """The outputs of BN for a batch x [B, H, W, C].

    Attributes:
        y: γ x̂ + β, like x.
        mean: μ, [C].
        var: σ², biased, [C].
        unit: x̂ = (x − μ)/√(σ² + ε), like x.
        rstd: 1/√(σ² + ε), [C].
    """

    y: Array
    mean: Array
    var: Array
    unit: Array
    rstd: Array


def normalize(x: Array, scale: Array, bias: Array, epsilon: float) -> Normalized:
    """BN in train mode over all axes but the last (Ioffe & Szegedy 2015, algorithm 1)."""
    rows = x.reshape(-1, x.shape[-1])
    mean, var = rows.mean(axis=0), rows.var(axis=0)
    rstd = 1 / np.sqrt(var + epsilon)
    unit = (x - mean) * rstd
    return Normalized(scale * unit + bias, mean, var, unit, rstd)


def normalize_gradients(done: Normalized, scale: Array, gradient: Array) -> tuple[Array, Array, Array]:
    """The gradients of x, γ and β, given the gradient g of y: dx = γ/√(σ² + ε) · (g − ⟨g⟩ − x̂ ⟨g x̂⟩) (section 3)."""
    axes = tuple(range(gradient.ndim - 1))
    mean_gradient, mean_product = gradient.mean(axis=axes), (gradient * done.unit).mean(axis=axes)
    to_x = scale * done.rstd * (gradient - mean_gradient - done.unit * mean_product)
    return to_x, (gradient * done.unit).sum(axis=axes), gradient.sum(axis=axes)
