"""A convolution for training steps on a CPU: the values of ``lax.conv_general_dilated``, gradients by cheaper ways.

Letters: B batch, H W input image, H' W' output image, C input and O output channels. Images NHWC, kernels HWIO.

XLA turns the weight gradient into a convolution over arrays with the batch innermost. Left alone it fuses whatever
made those arrays into that transposition, and so computes the chain of a residual network's blocks again and again,
element by element, at strides that miss the cache: 330 of a ResNet-20 step's 510 ms. The barriers below have each
convolution's input and output gradient in memory once.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# The weight gradient of up to this many pairs of channels is taken in parts of the batch, each of at least so many
# bytes, so that a part stays in the second-level cache: 40 → 27 ms for 32→32 channels at 32×32. With more channels
# (256→256 at 8×8) the parts are slower: 57 → 60 ms.
_MAX_CHANNEL_PAIRS = 128 * 128
_MIN_PART_BYTES = 1 << 19
_PARTS = (8, 4, 2)
# XLA and oneDNN compute a convolution with a kernel larger than its image element by element: 10 ms for 128→128
# channels at 2×2, batch 64, where one matrix product takes 0.5 ms. As a matrix the kernel has H W H' W' blocks.
_MAX_BLOCKS = 81

Padding = str | Sequence[tuple[int, int]]
_NHWC = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))


def train_conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: Padding,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,  # noqa: ANN401 - what lax takes
    feature_group_count: int = 1,
    precision: Any = None,  # noqa: ANN401 - what lax takes
) -> jax.Array:
    """``lax.conv_general_dilated`` for the ``conv_general_dilated`` of an ``nn.Conv`` in train mode.

    Args:
        lhs: images, [B, H, W, C] for two dimensions.
        rhs: kernel, [kh, kw, C / groups, O].
        window_strides: per spatial dimension.
        padding: "SAME", "VALID" or pairs per spatial dimension.
        lhs_dilation: see lax.
        rhs_dilation: see lax.
        dimension_numbers: see lax.
        feature_group_count: see lax.
        precision: see lax.

    Returns:
        [B, H', W', O]. It can be differentiated in reverse mode only.
    """

    def conv(images: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            images,
            kernel,
            window_strides,
            padding,
            lhs_dilation=lhs_dilation,
            rhs_dilation=rhs_dilation,
            dimension_numbers=dimension_numbers,
            feature_group_count=feature_group_count,
            precision=precision,
        )

    if jax.default_backend() != "cpu":
        return conv(lhs, rhs)
    plain = feature_group_count == 1 and all(d == 1 for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))
    if plain and dimension_numbers == _NHWC and _kernel_is_larger(lhs, rhs):
        pads = _explicit(padding, lhs, rhs, window_strides)
        if 0 < _num_blocks(lhs, rhs, pads, window_strides) <= _MAX_BLOCKS:
            return _conv_by_matrix(lhs, rhs, pads, window_strides)
    return _with_cheap_gradient(conv)(lhs, rhs)


def _with_cheap_gradient(conv: Any) -> Any:  # noqa: ANN401 - functions of (images, kernel)
    @jax.custom_vjp
    def call(images: jax.Array, kernel: jax.Array) -> jax.Array:
        return conv(images, kernel)

    def forward(images: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        images = lax.optimization_barrier(images)
        return conv(images, kernel), (images, kernel)

    def backward(saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
        images, kernel = saved
        gradient = lax.optimization_barrier(gradient)
        (to_images,) = jax.vjp(lambda images: conv(images, kernel), images)[1](gradient)
        size = len(images) // _num_parts(images, gradient)
        parts = [
            jax.vjp(lambda kernel, images=images[start : start + size]: conv(images, kernel), kernel)[1](
                gradient[start : start + size]
            )[0]
            for start in range(0, len(images), size)
        ]
        return to_images, sum(parts[1:], start=parts[0])

    call.defvjp(forward, backward)
    return call


def _num_parts(images: jax.Array, gradient: jax.Array) -> int:
    """In how many parts of the batch the weight gradient is taken."""
    # On several devices the batch is split already, and a part would lie on one of them.
    if jax.device_count() > 1 or images.shape[-1] * gradient.shape[-1] > _MAX_CHANNEL_PAIRS:
        return 1
    num_bytes = images.size * images.dtype.itemsize + gradient.size * gradient.dtype.itemsize
    fitting = (n for n in _PARTS if len(images) % n == 0 and num_bytes >= n * _MIN_PART_BYTES)
    return next(fitting, 1)


def _kernel_is_larger(images: jax.Array, kernel: jax.Array) -> bool:
    return images.ndim == 4 and any(image < size for image, size in zip(images.shape[1:3], kernel.shape, strict=False))


def _explicit(
    padding: Padding, images: jax.Array, kernel: jax.Array, strides: Sequence[int]
) -> Sequence[tuple[int, int]]:
    if not isinstance(padding, str):
        return padding
    return lax.padtype_to_pads(images.shape[1:3], kernel.shape[:2], strides, padding)


def _output_size(size: int, kernel: int, pads: tuple[int, int], stride: int) -> int:
    return max(0, (size + sum(pads) - kernel) // stride + 1)


def _num_blocks(images: jax.Array, kernel: jax.Array, pads: Sequence[tuple[int, int]], strides: Sequence[int]) -> int:
    sizes = [_output_size(images.shape[1 + axis], kernel.shape[axis], pads[axis], strides[axis]) for axis in (0, 1)]
    return int(np.prod((*images.shape[1:3], *sizes)))


def _conv_by_matrix(
    images: jax.Array, kernel: jax.Array, pads: Sequence[tuple[int, int]], strides: Sequence[int]
) -> jax.Array:
    """The convolution as one product of flattened images with a matrix of copies of the kernel."""
    b, height, width, c = images.shape
    outs = [_output_size(images.shape[1 + axis], kernel.shape[axis], pads[axis], strides[axis]) for axis in (0, 1)]
    # Output pixel p is reached from input pixel i by the kernel's element i − stride·p + pad, zero outside of it.
    ends = [(stride * (out - 1), low) for out, stride, (low, _) in zip(outs, strides, pads, strict=True)]
    margins = [
        (max(0, last - low), max(0, low + size - k))
        for (last, low), size, k in zip(ends, (height, width), kernel.shape[:2], strict=True)
    ]
    padded = jnp.pad(kernel, (*margins, (0, 0), (0, 0)))
    starts = [
        [margin + low - stride * p for p in range(out)]
        for (margin, _), (_, low), stride, out in zip(margins, ends, strides, outs, strict=True)
    ]
    columns = [padded[top : top + height, left : left + width] for top, left in product(*starts)]  # each [H, W, C, O]
    matrix = jnp.stack(columns, axis=3).reshape(height * width * c, -1)  # [H W C, H' W' O]
    return (images.reshape(b, -1) @ matrix).reshape(b, *outs, kernel.shape[-1])
