"""A convolution for training steps on a CPU: the values of ``lax.conv_general_dilated`` with cheaper gradients.

Letters: B batch, H W input image, H' W' output image, C input and O output channels. Images NHWC, kernels HWIO.

XLA turns the weight gradient into a convolution over arrays with the batch innermost. By default it fuses the
operations that made those arrays into that transposition. So it recomputes the chain of a residual network's blocks
again and again, element by element, at strides that miss the cache: 330 of a ResNet-20 step's 510 ms. The barriers
below keep each convolution's input and output gradient in memory once.

XLA passes a convolution to oneDNN only if it has no dilated array and, in bfloat16, no reversed kernel either. So where
a program asks for oneDNN, input gradients in bfloat16 and those of strides are written as such convolutions: 51 → 3 ms
in bfloat16 for 24→64 channels at 32×32, batch 128. The weight gradient is in ``weight_gradient.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bncli.ops.onednn import is_onednn_asked_for
from bncli.ops.weight_gradient import Conv, Pads, weight_gradient

# XLA and oneDNN compute a convolution with a kernel larger than its image element by element: 10 ms for 128→128
# channels at 2×2, batch 64, while one matrix product takes 0.5 ms. As a matrix the kernel has H W H' W' blocks.
_MAX_BLOCKS = 81

Padding: TypeAlias = str | Sequence[tuple[int, int]]
_NHWC = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))


def train_conv_general_dilated(  # noqa: PLR0913 - the signature of lax.conv_general_dilated
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: Padding,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: lax.ConvGeneralDilatedDimensionNumbers = None,
    feature_group_count: int = 1,
    precision: lax.PrecisionLike = None,
) -> jax.Array:
    """``lax.conv_general_dilated``, as the ``conv_general_dilated`` of an ``nn.Conv`` in train mode.

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
        outputs: jax.Array = lax.conv_general_dilated(
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
        return outputs

    if jax.default_backend() != "cpu":
        return conv(lhs, rhs)
    undilated = all(d == 1 for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))
    plain = feature_group_count == 1 and undilated
    if undilated and dimension_numbers == _NHWC and feature_group_count == lhs.shape[-1] == rhs.shape[-1] > 1:
        return _depthwise(lhs, rhs, _explicit(padding, lhs, rhs, window_strides), window_strides)
    pads = _explicit(padding, lhs, rhs, window_strides) if plain and dimension_numbers == _NHWC else None
    if (
        pads is not None
        and _kernel_is_larger(lhs, rhs)
        and 0 < _num_blocks(lhs, rhs, pads, window_strides) <= _MAX_BLOCKS
    ):
        return _conv_by_matrix(lhs, rhs, pads, window_strides)
    return _with_cheap_gradient(conv, pads, window_strides)(lhs, rhs)


def _depthwise(images: jax.Array, kernel: jax.Array, pads: Pads, strides: Sequence[int]) -> jax.Array:
    """Each channel by a kernel of its own, [kh, kw, 1, C]: the sum of the shifted images, each times one element.

    XLA computes such a convolution element by element, and fuses this sum: for 96 channels at 32×32, batch 8, 3×3, one
    core takes 43 → 1 ms, and 134 → 17 ms with the gradients.
    """
    padded = lax.pad(images, jnp.zeros((), images.dtype), ((0, 0, 0), *((*pad, 0) for pad in pads), (0, 0, 0)))
    sizes = [_output_size(images.shape[1 + axis], kernel.shape[axis], pads[axis], strides[axis]) for axis in (0, 1)]
    ends = [strides[axis] * (sizes[axis] - 1) + 1 for axis in (0, 1)]
    taps = [
        padded[:, i : i + ends[0] : strides[0], j : j + ends[1] : strides[1]] * kernel[i, j, 0]
        for i, j in product(range(kernel.shape[0]), range(kernel.shape[1]))
    ]
    return sum(taps[1:], start=taps[0])


def _with_cheap_gradient(conv: Conv, pads: Pads | None, strides: Sequence[int]) -> Conv:
    """``conv`` with cheap gradients.

    Args:
        conv: the convolution.
        pads: its padding; None unless it has two dimensions, NHWC, without dilation and groups.
        strides: its strides.
    """

    @jax.custom_vjp
    def call(images: jax.Array, kernel: jax.Array) -> jax.Array:
        return conv(images, kernel)

    def forward(images: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        images = lax.optimization_barrier(images)
        return conv(images, kernel), (images, kernel)

    def backward(saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
        images, kernel = saved
        gradient = lax.optimization_barrier(gradient)
        is_dilated = any(stride > 1 for stride in strides)
        if pads is not None and is_onednn_asked_for() and (is_dilated or images.dtype == jnp.bfloat16):
            to_images = _input_gradient(gradient, kernel, images.shape[1:3], pads, strides)
        else:
            (to_images,) = jax.vjp(lambda images: conv(images, kernel), images)[1](gradient)
        return to_images, weight_gradient(conv, images, gradient, kernel, pads, strides)

    call.defvjp(forward, backward)
    return call


def _input_gradient(
    gradient: jax.Array, kernel: jax.Array, size: Sequence[int], pads: Pads, strides: Sequence[int]
) -> jax.Array:
    """The gradient of the images [B, H, W, C], with (H, W) = ``size``, by a convolution that dilates nothing.

    A stride's zeros are written between the elements of the gradient beforehand, and the kernel is turned around.
    """
    turned = lax.optimization_barrier(lax.rev(kernel, (0, 1)).transpose(0, 1, 3, 2))  # [kh, kw, O, C]
    around = []
    for axis, (k, stride, (low, _)) in enumerate(zip(kernel.shape[:2], strides, pads, strict=True)):
        dilated = stride * (gradient.shape[1 + axis] - 1) + 1
        around.append((k - 1 - low, size[axis] - dilated + low, stride - 1))
    zero = jnp.zeros((), gradient.dtype)
    if any(between for *_, between in around):
        gradient = lax.optimization_barrier(
            lax.pad(gradient, zero, ((0, 0, 0), *((0, 0, between) for *_, between in around), (0, 0, 0)))
        )
    to_images: jax.Array = lax.conv_general_dilated(
        gradient, turned, (1, 1), [ends[:2] for ends in around], dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return to_images


def _kernel_is_larger(images: jax.Array, kernel: jax.Array) -> bool:
    return images.ndim == 4 and any(image < size for image, size in zip(images.shape[1:3], kernel.shape, strict=False))


def _explicit(padding: Padding, images: jax.Array, kernel: jax.Array, strides: Sequence[int]) -> Pads:
    if not isinstance(padding, str):
        return padding
    pads: Pads = lax.padtype_to_pads(images.shape[1:3], kernel.shape[:2], strides, padding)
    return pads


def _output_size(size: int, kernel: int, pads: tuple[int, int], stride: int) -> int:
    return max(0, (size + sum(pads) - kernel) // stride + 1)


def _num_blocks(images: jax.Array, kernel: jax.Array, pads: Pads, strides: Sequence[int]) -> int:
    sizes = [_output_size(images.shape[1 + axis], kernel.shape[axis], pads[axis], strides[axis]) for axis in (0, 1)]
    return int(np.prod((*images.shape[1:3], *sizes)))


def _conv_by_matrix(images: jax.Array, kernel: jax.Array, pads: Pads, strides: Sequence[int]) -> jax.Array:
    """The convolution as one product of flattened images with a matrix of copies of the kernel."""
    b, height, width, c = images.shape
    outs = [_output_size(images.shape[1 + axis], kernel.shape[axis], pads[axis], strides[axis]) for axis in (0, 1)]
    # Input pixel i contributes to output pixel p by the kernel's element i − stride·p + pad, zero outside the kernel.
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
