"""The classic small convolutional network: 32-32-64-64-128-128 filters of 3×3, with pooling after each pair."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from bncli.models.layers import Dtype, Initializer, NormFactory, conv_for, norm_and_activation, norm_for
from bncli.ops import Dropout, max_pool_2x2


class CNN(nn.Module):
    """Six 3×3 convolutions in three stages, each followed by 2×2 max-pooling and dropout; one dense layer on top.

    With ``bn_placement="post"`` the order is that of the classic Keras code, conv → ReLU → BN, with the pooling and the
    dropout after each second BN.

    Attributes:
        num_classes: size of the output.
        features: filters per stage.
        norm: makes one BN layer; None builds the network without BN (its convolutions then have a bias).
        bn_placement: "pre" or "post" the activation.
        dropout: rate after each pooling.
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
        # BN's mean would remove a bias before it; a ReLU needs one.
        use_bias = self.norm is None or self.bn_placement == "post"
        conv, norm = conv_for(train=train), norm_for(self.norm, train=train)
        for features in self.features:
            for _ in range(2):
                x = conv(features, (3, 3), use_bias=use_bias, kernel_init=self.kernel_init, dtype=self.dtype)(x)
                x = norm_and_activation(x, norm=norm, activation=nn.relu, placement=self.bn_placement)
            x = max_pool_2x2(x)
            x = Dropout(self.dropout, deterministic=not train)(x)
        x = x.reshape(x.shape[0], -1)
        return nn.Dense(self.num_classes, kernel_init=self.kernel_init, dtype=self.dtype)(x)
