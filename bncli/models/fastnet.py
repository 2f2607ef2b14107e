"""A network that reaches its accuracy in few epochs: whitened patches, three wide stages, a scaled head.

The ideas are those of Page's "How to train your ResNet" (2018-2019, myrtle.ai) and of Jordan's airbench (2024, arXiv
2404.00498). The first layer is not trained: it whitens patches of the images (``whitening.py``), so that the gradients
of the next layer are well conditioned from the first step on. Each stage is conv, 2×2 max-pool, BN, GELU, conv, BN,
GELU: pooling comes before BN, because a maximum commutes with BN's positive gain and leaves a quarter of the values to
normalize.

The recipe ``fast`` goes with it: it freezes the whitening layer and the scales of BN, whose work the kernels can do.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from bncli.models.layers import Dtype, Initializer, Layer, NormFactory, conv_for, norm_and_activation, norm_for
from bncli.models.whitening import WHITEN, patch_size
from bncli.ops import Dropout, max_pool_2x2

# Divides the logits, so that the softmax is soft at the start and the classes are told apart late (Page).
HEAD_DIVISOR = 9


class FastNet(nn.Module):
    """Whitened patches, stages of two 3×3 convolutions with a 2×2 max-pool, a maximum over all positions, one dense.

    Attributes:
        num_classes: size of the output.
        features: filters of each stage.
        norm: makes one BN layer; None builds the network without BN (its convolutions then have a bias).
        dropout: rate before the dense layer.
        kernel_init: initializer of all kernels.
        dtype: dtype of the computation; parameters are float32.
    """

    num_classes: int
    norm: NormFactory | None
    dropout: float
    kernel_init: Initializer
    features: tuple[int, ...] = (64, 256, 256)
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Logits [B, num_classes] of normalized images x [B, H, W, C]."""
        conv = partial(conv_for(train=train), kernel_init=self.kernel_init, dtype=self.dtype)
        norm = norm_for(self.norm, train=train)

        def normalized(x: jax.Array) -> jax.Array:
            return norm_and_activation(x, norm=norm, activation=nn.gelu, placement="pre")

        def convolved(features: int) -> Layer:
            return conv(features, (3, 3), use_bias=self.norm is None)

        size = patch_size(*x.shape[1:])
        patches = 2 * size * size * x.shape[-1]  # each direction and its negative
        x = nn.gelu(conv(patches, (size, size), padding="VALID", use_bias=False, name=WHITEN)(x))
        for features in self.features:
            x = convolved(features)(x)
            if min(x.shape[1:3]) > 1:
                x = max_pool_2x2(x)
            x = normalized(x)
            x = normalized(convolved(features)(x))
        x = Dropout(self.dropout, deterministic=not train)(jnp.max(x, axis=(1, 2)))
        return (
            nn.Dense(self.num_classes, use_bias=False, kernel_init=self.kernel_init, dtype=self.dtype)(x) / HEAD_DIVISOR
        )
