"""A convolution for training steps on a CPU: the values of ``lax.conv_general_dilated`` with cheaper gradients.

Letters: B batch, H W input image, H' W' output image, C input and O output channels. Images NHWC, kernels HWIO.

XLA turns the weight gradient into a convolution over arrays with the batch innermost. By default it fuses the
operations that made those arrays into that transposition. So it recomputes the chain of a residual network's blocks
again and again, element by element, at strides that miss the cache: 330 of a ResNet-20 step's 510 ms. The barriers
below keep each convolution's input and output gradient in memory once.

With oneDNN on, XLA delegates these convolutions too. Their kernel is as large as an image, and for large arrays XLA's
own algorithm takes a quarter to a half less time. XLA does not delegate a convolution with a reversed kernel, so large
ones are reversed here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# The weight gradient is computed in parts of the batch, each of at least so many bytes, so that a part stays in the
# second-level cache: 40 → 27 ms for 32→32 channels at 32×32.
_MIN_PART_BYTES = 1 << 19
_PARTS = (8, 4, 2)
# From so many pairs of channels, or bytes, on the kernel is reversed and parts are larger: 133 → 62 ms for 64→64
# channels at 32×32, 29 → 20 ms for 32→32, 66 → 36 ms for 256→256 at 8×8, batch 128. Smaller ones gain nothing, or lose
# 2 ms.
_MIN_REVERSED_PAIRS = 128 * 128 + 1
_MIN_REVERSED_BYTES = 1 << 25
_MIN_REVERSED_PART_BYTES = 1 << 22
_REVERSED_PARTS = (16, 8, 4, 2)
# XLA and oneDNN compute a convolution with a kernel larger than its image element by element: 10 ms for 128→128
# channels at 2×2, batch 64, while one matrix product takes 0.5 ms. As a matrix the kernel has H W H' W' blocks.
_MAX_BLOCKS = 81

Padding: TypeAlias = str | Sequence[tuple[int, int]]
Pads: TypeAlias = Sequence[tuple[int, int]]  # (low, high) per spatial dimension
Conv: TypeAlias = Callable[[jax.Array, jax.Array], jax.Array]  # (images, kernel) -> outputs
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
        (to_images,) = jax.vjp(lambda images: conv(images, kernel), images)[1](gradient)
        if pads is not None and kernel.shape[:2] == (1, 1) and not any(map(any, pads)):
            return to_images, _weight_gradient_of_pixels(images, gradient, strides)
        is_reversed = pads is not None and _pays_reversed(images, gradient)

        def to_kernel(images: jax.Array, gradient: jax.Array) -> jax.Array:
            if pads is not None and is_reversed:
                images = lax.optimization_barrier(images)
                return _reversed_weight_gradient(images, gradient, kernel.shape[:2], pads, strides)
            (to_weights,) = jax.vjp(lambda kernel: conv(images, kernel), kernel)[1](gradient)
            weights: jax.Array = to_weights
            return weights

        size = len(images) // _num_parts(images, gradient, is_reversed=is_reversed)
        parts = [
            to_kernel(images[start : start + size], gradient[start : start + size])
            for start in range(0, len(images), size)
        ]
        return to_images, sum(parts[1:], start=parts[0])

    call.defvjp(forward, backward)
    return call


def _pays_reversed(images: jax.Array, gradient: jax.Array) -> bool:
    # On several devices the batch is split already, and the shapes do not tell a device's share.
    if jax.device_count() > 1:
        return False
    pairs = images.shape[-1] * gradient.shape[-1]
    return pairs >= _MIN_REVERSED_PAIRS or _num_bytes(images, gradient) >= _MIN_REVERSED_BYTES


def _num_parts(images: jax.Array, gradient: jax.Array, *, is_reversed: bool) -> int:
    """Number of parts of the batch in which the weight gradient is computed."""
    if jax.device_count() > 1:  # a part would lie on one of the devices
        return 1
    counts, least = (_REVERSED_PARTS, _MIN_REVERSED_PART_BYTES) if is_reversed else (_PARTS, _MIN_PART_BYTES)
    fitting = (n for n in counts if len(images) % n == 0 and _num_bytes(images, gradient) >= n * least)
    return next(fitting, 1)


def _num_bytes(images: jax.Array, gradient: jax.Array) -> int:
    return images.size * images.dtype.itemsize + gradient.size * gradient.dtype.itemsize


def _weight_gradient_of_pixels(images: jax.Array, gradient: jax.Array, strides: Sequence[int]) -> jax.Array:
    """The weight gradient of a 1×1 kernel, [1, 1, C, O]: one matrix product, in the memory order of the arrays.

    173 → 19 ms for 256→64 channels at 32×32, batch 128; 27 → 3 ms for 64→128 with a stride of 2.
    """
    if any(stride != 1 for stride in strides):
        images = lax.optimization_barrier(images[:, :: strides[0], :: strides[1]])
    pixels, gradients = (array.reshape(-1, array.shape[-1]) for array in (images, gradient))
    product: jax.Array = lax.dot_general(pixels, gradients, (((0,), (0,)), ((), ())))
    return product[None, None]


def _reversed_weight_gradient(
    images: jax.Array,
    gradient: jax.Array,
    kernel_size: Sequence[int],
    pads: Pads,
    strides: Sequence[int],
) -> jax.Array:
    """The weight gradient [kh, kw, C, O] as a convolution whose kernel is the gradient, its channels in reverse order.

    At a kernel's element i it is Σ over p of image[stride·p + i − low] · gradient[p]: a correlation whose kernel is the
    gradient, with its elements a stride apart.
    """
    ends = []
    for axis, (k, stride, (low, _)) in enumerate(zip(kernel_size, strides, pads, strict=True)):
        last = stride * (gradient.shape[1 + axis] - 1)
        ends.append((low, last + k - images.shape[1 + axis] - low))  # high: below the padding if a stride skips pixels
    cut = [(min(0, low), min(0, high), 0) for low, high in ends]
    images = lax.pad(images, jnp.zeros((), images.dtype), ((0, 0, 0), *cut, (0, 0, 0)))
    elements = lax.conv_general_dilated(
        images.transpose(3, 1, 2, 0),  # [C, H, W, B]
        lax.rev(gradient.transpose(1, 2, 0, 3), (3,)),  # [H', W', B, O]
        (1, 1),
        [(max(0, low), max(0, high)) for low, high in ends],
        rhs_dilation=tuple(strides),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # [C, kh, kw, O]
    return lax.rev(elements, (3,)).transpose(1, 2, 0, 3)


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
