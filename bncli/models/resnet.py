"""Residual networks (He et al. 2015, arXiv 1512.03385): ResNet-20 for small images, ResNet-18 to ResNet-152.

With ``padding="symmetric"`` and the large stem these are the networks of torchvision and timm, in version 1.5: the 3×3
convolution of a bottleneck has the stride.

The BN placement is the paper's, conv → BN → ReLU, with the sum before the last ReLU of a block. The scale of each
block's last BN starts at zero, so a block starts as its shortcut (Goyal et al. 2017, arXiv 1706.02677). Without BN the
block's last kernel starts at zero, for the same reason.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from bncli.models.layers import (
    ConvFactory,
    Dtype,
    Initializer,
    NormFactory,
    conv_for,
    global_mean_pool,
    norm_for,
    symmetric_pads,
)
from bncli.ops import Dropout


class ResNetBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut."""

    features: int
    strides: int
    conv: ConvFactory
    norm: NormFactory | None
    expansion = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B, H, W, C] through the block: [B, H/strides, W/strides, features]."""
        residual = x
        y = self.conv(self.features, (3, 3), self.strides)(x)
        y = nn.relu(_normalize(y, self.norm))
        y = _last_conv(self.conv, self.norm)(self.features, (3, 3))(y)
        y = _normalize(y, self.norm, scale_init=nn.initializers.zeros)
        return nn.relu(y + _shortcut(residual, y, self.strides, self.conv, self.norm))


class BottleneckBlock(nn.Module):
    """1×1, 3×3 and 1×1 convolutions and a shortcut; the 3×3 has the stride, as in ResNet v1.5."""

    features: int
    strides: int
    conv: ConvFactory
    norm: NormFactory | None
    expansion = 4

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B, H, W, C] through the block: [B, H/strides, W/strides, 4 features]."""
        residual = x
        y = nn.relu(_normalize(self.conv(self.features, (1, 1))(x), self.norm))
        y = nn.relu(_normalize(self.conv(self.features, (3, 3), self.strides)(y), self.norm))
        y = _last_conv(self.conv, self.norm)(self.features * self.expansion, (1, 1))(y)
        y = _normalize(y, self.norm, scale_init=nn.initializers.zeros)
        return nn.relu(y + _shortcut(residual, y, self.strides, self.conv, self.norm))


def _normalize(x: jax.Array, norm: NormFactory | None, scale_init: Initializer = nn.initializers.ones) -> jax.Array:
    return x if norm is None else norm(scale_init=scale_init)(x)


def _last_conv(conv: ConvFactory, norm: NormFactory | None) -> ConvFactory:
    return conv if norm is not None else partial(conv, kernel_init=nn.initializers.zeros)


def _shortcut(
    residual: jax.Array, y: jax.Array, strides: int, conv: ConvFactory, norm: NormFactory | None
) -> jax.Array:
    """The block's input, projected by a 1×1 convolution if its shape differs from the output's."""
    if residual.shape == y.shape:
        return residual
    return _normalize(conv(y.shape[-1], (1, 1), strides, name="conv_proj")(residual), norm)


class ResNet(nn.Module):
    """Stages of blocks between a stem and one dense layer.

    Attributes:
        num_classes: size of the output.
        stage_sizes: blocks per stage; each stage except the first halves the image.
        features: filters of the first stage, doubled in each following stage.
        block: ResNetBlock or BottleneckBlock.
        small_images: True for a 3×3 stem that keeps the size; False for 7×7 and pooling, which divide it by 4.
        norm: makes one BN layer; None builds the network without BN (its convolutions then have a bias).
        dropout: rate before the dense layer.
        kernel_init: initializer of all kernels.
        padding: "same", or "symmetric" as in PyTorch.
        dtype: dtype of the computation; parameters are float32.
    """

    num_classes: int
    stage_sizes: tuple[int, ...]
    features: int
    block: type[ResNetBlock] | type[BottleneckBlock]
    small_images: bool
    norm: NormFactory | None
    dropout: float
    kernel_init: Initializer
    padding: str = "same"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Logits [B, num_classes] of normalized images x [B, H, W, C]."""
        conv = partial(
            conv_for(train=train, padding=self.padding),
            use_bias=self.norm is None,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
        )
        norm = norm_for(self.norm, train=train)
        if self.small_images:
            x = nn.relu(_normalize(conv(self.features, (3, 3), name="conv_init")(x), norm))
        else:
            x = conv(self.features, (7, 7), 2, padding=[(3, 3), (3, 3)], name="conv_init")(x)
            x = nn.relu(_normalize(x, norm))
            pads = symmetric_pads((3, 3)) if self.padding == "symmetric" else "SAME"
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=pads)
        for stage, num_blocks in enumerate(self.stage_sizes):
            for index in range(num_blocks):
                strides = 2 if stage > 0 and index == 0 else 1
                x = self.block(self.features * 2**stage, strides, conv=conv, norm=norm)(x)
        x = global_mean_pool(x)
        x = Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, kernel_init=self.kernel_init, dtype=self.dtype)(x)


ResNet18 = partial(ResNet, stage_sizes=(2, 2, 2, 2), features=64, block=ResNetBlock)
ResNet20 = partial(ResNet, stage_sizes=(3, 3, 3), features=16, block=ResNetBlock)
ResNet34 = partial(ResNet, stage_sizes=(3, 4, 6, 3), features=64, block=ResNetBlock)
ResNet50 = partial(ResNet, stage_sizes=(3, 4, 6, 3), features=64, block=BottleneckBlock)
ResNet101 = partial(ResNet, stage_sizes=(3, 4, 23, 3), features=64, block=BottleneckBlock)
ResNet152 = partial(ResNet, stage_sizes=(3, 8, 36, 3), features=64, block=BottleneckBlock)
