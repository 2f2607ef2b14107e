"""The weight gradient of a convolution in training on a CPU, faster than XLA's own.

Letters: B batch, H W C input image, H' W' O output image. Images NHWC, kernels HWIO; a stride and a pair of pads for
each image axis.

It is a convolution too: of images whose batch are the channels, with the gradient of the outputs as the kernel. The
batch is cut into parts that stay in the second-level cache.

In float32, oneDNN takes a third to double the time more than XLA's own algorithm where such arrays are large. XLA does
not delegate a convolution with a reversed kernel, so large ones are reversed here. In bfloat16 on a CPU with matrix
units (AMX), oneDNN is many times as fast if its convolution gives the units what they need.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from bncli.ops.onednn import is_onednn_asked_for

# Each part has at least so many bytes: 40 → 27 ms for 32→32 channels at 32×32.
_MIN_PART_BYTES = 1 << 19
_PARTS = (8, 4, 2)
# From so many pairs of channels, or bytes, on the kernel is reversed and parts are larger: 133 → 62 ms for 64→64
# channels at 32×32, 29 → 20 ms for 32→32, 66 → 36 ms for 256→256 at 8×8, batch 128. Smaller ones gain nothing, or lose
# 2 ms.
_MIN_REVERSED_PAIRS = 128 * 128 + 1
_MIN_REVERSED_BYTES = 1 << 25
_MIN_REVERSED_PART_BYTES = 1 << 22
_REVERSED_PARTS = (16, 8, 4, 2)
# For oneDNN as few parts as have at most so many bytes: 109, 75, 63 and 48 ms in 1, 2, 4 and 8 parts for 64→256
# channels at 15×15, batch 256, bfloat16. One value of each example of a part fills a register, over which oneDNN sums.
_MAX_ONEDNN_PART_BYTES = 1 << 21
_MIN_REGISTER_BYTES = 64
_MAX_ONEDNN_VALUES = 1 << 14
_MIN_ONEDNN_CHANNELS = 16
_ONEDNN_PARTS = (1, 2, 4, 8, 16, 32, 64)

Pads: TypeAlias = Sequence[tuple[int, int]]  # (low, high) per spatial dimension
Conv: TypeAlias = Callable[[jax.Array, jax.Array], jax.Array]  # (images, kernel) -> outputs
ToKernel: TypeAlias = Callable[[jax.Array, jax.Array], jax.Array]  # (images, gradient) -> weight gradient


class _Window(NamedTuple):
    """The window of a convolution: a size, a pair of pads and a stride for each image axis."""

    kernel_size: Sequence[int]
    pads: Pads
    strides: Sequence[int]


def weight_gradient(
    conv: Conv, images: jax.Array, gradient: jax.Array, kernel: jax.Array, pads: Pads | None, strides: Sequence[int]
) -> jax.Array:
    """The gradient of the kernel, in its shape and dtype.

    Args:
        conv: the convolution.
        images: [B, H, W, C].
        gradient: of the outputs, [B, H', W', O].
        kernel: [kh, kw, C, O].
        pads: None unless the convolution has two dimensions, NHWC, without dilation and groups.
        strides: its strides.
    """

    def own(images: jax.Array, gradient: jax.Array) -> jax.Array:
        (to_kernel,) = jax.vjp(lambda kernel: conv(images, kernel), kernel)[1](gradient)
        weights: jax.Array = to_kernel
        return weights

    if pads is None:
        return _by_parts(own, images, gradient, _num_parts(images, gradient, is_reversed=False))
    window = _Window(kernel.shape[:2], pads, strides)
    is_of_pixels = kernel.shape[:2] == (1, 1) and not any(map(any, pads))
    is_half = images.dtype == jnp.bfloat16
    if is_onednn_asked_for() and _pays_by_onednn(images, strides) and (is_half or not is_of_pixels):
        return _by_parts(partial(_by_onednn, window=window), images, gradient, _num_parts_by_onednn(images, gradient))
    if is_of_pixels:
        return _of_pixels(images, gradient, strides)
    is_reversed = _pays_reversed(images, gradient)
    parts = _num_parts(images, gradient, is_reversed=is_reversed)
    return _by_parts(partial(_reversed, window=window) if is_reversed else own, images, gradient, parts)


def _by_parts(to_kernel: ToKernel, images: jax.Array, gradient: jax.Array, parts: int) -> jax.Array:
    """The sum over the parts of the batch, in float32 or wider."""
    size = len(images) // parts
    of_parts = [
        to_kernel(images[start : start + size], gradient[start : start + size]) for start in range(0, len(images), size)
    ]
    if parts == 1:
        return of_parts[0]
    dtype = of_parts[0].dtype
    wide = [part.astype(jnp.promote_types(dtype, jnp.float32)) for part in of_parts]
    return sum(wide[1:], start=wide[0]).astype(dtype)


def _pays_by_onednn(images: jax.Array, strides: Sequence[int]) -> bool:
    """True on one device in bfloat16, and in float32 for images of few values in several channels.

    8.2 → 7.1 ms for 16→16 channels at 32×32, 10.7 → 8.4 for 128→128 at 8×8, and 32 → 25 for 512→512 at 4×4, batch 128.
    The others take as long or, with a stride or fewer channels, up to a quarter longer.
    """
    if jax.device_count() > 1:  # a sum over the batch would be one over the devices
        return False
    if images.dtype == jnp.bfloat16:
        return True
    values, channels = math.prod(images.shape[1:]), images.shape[-1]
    return values <= _MAX_ONEDNN_VALUES and channels >= _MIN_ONEDNN_CHANNELS and set(strides) == {1}


def _pays_reversed(images: jax.Array, gradient: jax.Array) -> bool:
    # On several devices the batch is split already, and the shapes do not tell a device's share.
    if jax.device_count() > 1:
        return False
    pairs = images.shape[-1] * gradient.shape[-1]
    return pairs >= _MIN_REVERSED_PAIRS or _num_bytes(images, gradient) >= _MIN_REVERSED_BYTES


def _num_parts(images: jax.Array, gradient: jax.Array, *, is_reversed: bool) -> int:
    """Number of parts of the batch for XLA."""
    if jax.device_count() > 1:  # a part would lie on one of the devices
        return 1
    counts, least = (_REVERSED_PARTS, _MIN_REVERSED_PART_BYTES) if is_reversed else (_PARTS, _MIN_PART_BYTES)
    fitting = (n for n in counts if len(images) % n == 0 and _num_bytes(images, gradient) >= n * least)
    return next(fitting, 1)


def _num_parts_by_onednn(images: jax.Array, gradient: jax.Array) -> int:
    """Number of parts of the batch for oneDNN."""
    least = _MIN_REGISTER_BYTES // images.dtype.itemsize
    counts = [n for n in _ONEDNN_PARTS if n == 1 or (len(images) % n == 0 and len(images) >= n * least)]
    return next((n for n in counts if _num_bytes(images, gradient) <= n * _MAX_ONEDNN_PART_BYTES), counts[-1])


def _num_bytes(images: jax.Array, gradient: jax.Array) -> int:
    return images.size * images.dtype.itemsize + gradient.size * gradient.dtype.itemsize


def _of_pixels(images: jax.Array, gradient: jax.Array, strides: Sequence[int]) -> jax.Array:
    """The weight gradient of a 1×1 kernel, [1, 1, C, O]: one matrix product, in the memory order of the arrays.

    173 → 19 ms for 256→64 channels at 32×32, batch 128; 27 → 3 ms for 64→128 with a stride of 2.
    """
    if any(stride != 1 for stride in strides):
        images = lax.optimization_barrier(images[:, :: strides[0], :: strides[1]])
    pixels, gradients = (array.reshape(-1, array.shape[-1]) for array in (images, gradient))
    product: jax.Array = lax.dot_general(pixels, gradients, (((0,), (0,)), ((), ())))
    return product[None, None]


def _reversed(images: jax.Array, gradient: jax.Array, window: _Window) -> jax.Array:
    """The weight gradient [kh, kw, C, O] as a convolution with the gradient's channels in reverse order."""
    images, ends = _cut(lax.optimization_barrier(images), gradient, window)
    elements = lax.conv_general_dilated(
        images.transpose(3, 1, 2, 0),  # [C, H, W, B]
        lax.rev(gradient.transpose(1, 2, 0, 3), (3,)),  # [H', W', B, O]
        (1, 1),
        ends,
        rhs_dilation=tuple(window.strides),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # [C, kh, kw, O]
    return lax.rev(elements, (3,)).transpose(1, 2, 0, 3)


def _by_onednn(images: jax.Array, gradient: jax.Array, window: _Window) -> jax.Array:
    """The weight gradient [kh, kw, C, O] as a convolution of one image [H, W, C] with three axes and B channels.

    Of its products the rows are the C channels, as many as the matrix units like; with the channels as a batch they are
    the kw columns of the result: 143 → 48 ms for 64→256 channels at 15×15, batch 256.
    """
    images, ends = _cut(images, gradient, window)
    # Behind barriers the transpositions are copies, which XLA makes in blocks; fused ones are not.
    turned, kernel = lax.optimization_barrier((images.transpose(1, 2, 3, 0), gradient.transpose(1, 2, 0, 3)))
    elements: jax.Array = lax.conv_general_dilated(
        turned[None],  # [1, H, W, C, B]
        kernel[:, :, None],  # [H', W', 1, B, O]
        (1, 1, 1),
        [*ends, (0, 0)],
        rhs_dilation=(*window.strides, 1),
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )
    # Sums of parts stay out of oneDNN's calls: it takes 32 additions at most, and more end the process.
    elements = lax.optimization_barrier(elements)
    return elements[0]


def _cut(images: jax.Array, gradient: jax.Array, window: _Window) -> tuple[jax.Array, Pads]:
    """The images without the pixels that the gradient never meets, and the padding of the others.

    At a kernel's element i the weight gradient is Σ over p of image[stride·p + i − low] · gradient[p]: a correlation
    whose kernel is the gradient, with its elements a stride apart.
    """
    ends = []
    for axis, (k, (low, _), stride) in enumerate(zip(*window, strict=True)):
        last = stride * (gradient.shape[1 + axis] - 1)
        ends.append((low, last + k - images.shape[1 + axis] - low))  # high: below the padding if a stride skips pixels
    cut = [(min(0, low), min(0, high), 0) for low, high in ends]
    images = lax.pad(images, jnp.zeros((), images.dtype), ((0, 0, 0), *cut, (0, 0, 0)))
    return images, [(max(0, low), max(0, high)) for low, high in ends]
