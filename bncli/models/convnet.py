"""A convolutional network for images of any size: its cost, head and gradient do not grow with the image's side.

The stem brings the image to at most 48 pixels; the head is the mean over all positions (Lin et al. 2013, "Network In
Network", arXiv 1312.4400), so the dense layer on top has as many inputs as the last stage has channels.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from bncli.models.layers import (
    Dtype,
    Initializer,
    NormFactory,
    conv_for,
    global_mean_pool,
    norm_and_activation,
    norm_for,
)
from bncli.ops import Dropout, max_pool_2x2

# The largest side after the stem.
LARGEST_SIDE = 48


class ConvNet(nn.Module):
    """A stem, then stages of two 3×3 convolutions with 2×2 max-pooling in between, mean pooling, one dense layer.

    Attributes:
        num_classes: size of the output.
        features: filters of the stem and of each stage but the first, which adds one convolution of as many.
        norm: makes one BN layer; None builds the network without BN (its convolutions then have a bias).
        bn_placement: "pre" or "post" the activation.
        dropout: rate before the dense layer.
        kernel_init: initializer of all kernels.
        dtype: dtype of the computation; parameters are float32.
    """

    num_classes: int
    norm: NormFactory | None
    bn_placement: str
    dropout: float
    kernel_init: Initializer
    features: tuple[int, ...] = (32, 64, 128)
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Logits [B, num_classes] of normalized images x [B, H, W, C]."""
        use_bias = self.norm is None or self.bn_placement == "post"
        conv, norm = conv_for(train=train), norm_for(self.norm, train=train)

        def convolved(x: jax.Array, features: int, size: int = 3, stride: int = 1) -> jax.Array:
            layer = conv(
                features, (size, size), stride, use_bias=use_bias, kernel_init=self.kernel_init, dtype=self.dtype
            )
            return norm_and_activation(layer(x), norm=norm, activation=nn.relu, placement=self.bn_placement)

        stride = stem_stride(max(x.shape[1:3]))
        x = convolved(x, self.features[0], size=3 if stride == 1 else 2 * stride + 1, stride=stride)
        x = convolved(x, self.features[0])
        for features in self.features[1:]:
            if min(x.shape[1:3]) > 1:
                x = max_pool_2x2(x)
            x = convolved(convolved(x, features), features)
        x = Dropout(self.dropout, deterministic=not train)(global_mean_pool(x))
        return nn.Dense(self.num_classes, kernel_init=self.kernel_init, dtype=self.dtype)(x)


def stem_stride(side: int) -> int:
    """The smallest power of two that brings ``side`` pixels to ``LARGEST_SIDE`` at most."""
    stride = 1
    while side > stride * LARGEST_SIDE:
        stride *= 2
    return stride
