"""Parts that the networks share: initializers, layer factories, pooling.

Letters: B batch, H W spatial, C channels. Images are NHWC, kernels HWIO.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from bncli.ops import train_conv_general_dilated

Initializer: TypeAlias = Callable[..., jax.Array]
Layer: TypeAlias = Callable[[jax.Array], jax.Array]
NormFactory: TypeAlias = Callable[..., Layer]  # makes an nn.BatchNorm
ConvFactory: TypeAlias = Callable[..., Layer]  # makes an nn.Conv
Dtype: TypeAlias = DTypeLike

# Of convolutions and pooling: JAX's own, and PyTorch's (``symmetric_pads``). They differ at a stride of 2.
PADDINGS = ("same", "symmetric")


def dirac(key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """A kernel [..., I, O] whose first min(I, O) outputs are the inputs themselves; the others are random.

    A convolution so begins as the identity plus new features (Jordan 2024, arXiv 2404.00498, section 3.2). The random
    outputs are uniform with variance 1/(3 I positions), PyTorch's default. A dense kernel is random as a whole.
    """
    kernel = _pytorch_default(key, shape, dtype)
    *spatial, inputs, outputs = shape
    if not spatial:
        return kernel
    count = min(inputs, outputs)
    centre = tuple((size - 1) // 2 for size in spatial)
    identity = jnp.zeros((*spatial, inputs, count), dtype).at[centre].set(jnp.eye(inputs, count, dtype=dtype))
    return kernel.at[..., :count].set(identity)


_pytorch_default = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

# name -> initializer of kernels
INITIALIZERS: dict[str, Initializer] = {
    "dirac": dirac,
    "glorot": nn.initializers.glorot_uniform(),  # Glorot & Bengio 2010
    "he": nn.initializers.he_normal(),  # He et al. 2015, arXiv 1502.01852
    "lecun": nn.initializers.lecun_normal(),  # LeCun et al. 1998
    "normal": nn.initializers.normal(0.01),  # the small Gaussian of AlexNet (2012): BN forgives it, plain nets do not
    "orthogonal": nn.initializers.orthogonal(),  # Saxe et al. 2014
}


def norm_for(norm: NormFactory | None, *, train: bool) -> NormFactory | None:
    """The norm factory set to batch statistics (train) or running statistics; None stays None."""
    return None if norm is None else partial(norm, use_running_average=not train)


def conv_for(*, train: bool, padding: str = "same") -> ConvFactory:
    """``nn.Conv``, in train mode with a gradient that is cheap on a CPU.

    Args:
        train: the mode.
        padding: see ``symmetric_pads``.
    """
    conv = partial(nn.Conv, conv_general_dilated=train_conv_general_dilated) if train else nn.Conv
    return partial(_symmetric, conv) if padding == "symmetric" else conv


def _symmetric(conv: ConvFactory, features: int, kernel_size: Sequence[int], *args: int, **settings: object) -> Layer:
    return conv(features, kernel_size, *args, **{"padding": symmetric_pads(kernel_size), **settings})


def symmetric_pads(kernel_size: Sequence[int]) -> list[tuple[int, int]]:
    """(k − 1)/2 zeros on both sides of each axis: PyTorch's habit for kernels of odd size k.

    "SAME", JAX's and TensorFlow's, adds as many zeros in all at a stride of 1. At a stride of 2 it adds one less to an
    image of even size, and the image's end gets the larger half.
    """
    return [((size - 1) // 2, (size - 1) // 2) for size in kernel_size]


def norm_and_activation(
    x: jax.Array,  # [B, ..., C]
    *,
    norm: NormFactory | None,
    activation: Callable[[jax.Array], jax.Array],
    placement: str,
) -> jax.Array:
    """BN before the activation ("pre", Ioffe & Szegedy 2015) or after it ("post"); no BN if ``norm`` is None."""
    if norm is None:
        return activation(x)
    if placement == "post":
        return norm()(activation(x))
    return activation(norm()(x))


def global_mean_pool(x: jax.Array) -> jax.Array:
    """Mean over all positions, [B, H, W, C] -> [B, C]."""
    return jnp.mean(x, axis=(1, 2))
