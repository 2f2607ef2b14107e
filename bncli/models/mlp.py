"""The fully connected network of the 2015 paper's MNIST figure: three layers of 100 sigmoid units."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from bncli.models.layers import Dtype, Initializer, NormFactory, norm_and_activation, norm_for
from bncli.ops import Dropout


class MLP(nn.Module):
    """Flattened pixels through dense layers of sigmoid units (Ioffe & Szegedy 2015, section 4.1).

    Attributes:
        num_classes: size of the output.
        norm: makes one BN layer; None builds the network without BN.
        bn_placement: "pre" or "post" the sigmoid.
        dropout: rate after each hidden layer.
        kernel_init: initializer of all kernels.
        features: units per hidden layer.
        dtype: dtype of the computation; parameters are float32.
    """

    num_classes: int
    norm: NormFactory | None
    bn_placement: str
    dropout: float
    kernel_init: Initializer
    features: tuple[int, ...] = (100, 100, 100)
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Logits [B, num_classes] of normalized images x [B, H, W, C]."""
        norm = norm_for(self.norm, train=train)
        x = x.reshape(x.shape[0], -1)
        for features in self.features:
            x = nn.Dense(features, kernel_init=self.kernel_init, dtype=self.dtype)(x)
            x = norm_and_activation(x, norm=norm, activation=nn.sigmoid, placement=self.bn_placement)
            x = Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, kernel_init=self.kernel_init, dtype=self.dtype)(x)
