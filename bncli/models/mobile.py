"""Networks of inverted residuals for small devices: MobileNetV2 and EfficientNet-Lite.

MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381) widens each block by a 1×1 convolution, filters every channel by
itself, and narrows the block again without an activation. EfficientNet-Lite is EfficientNet (Tan & Le 2019, arXiv
1905.11946) without squeeze-and-excitation and with ReLU6 in place of swish: the same blocks in another table.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from bncli.models.layers import ConvFactory, Dtype, Initializer, NormFactory, conv_for, global_mean_pool, norm_for
from bncli.ops import Dropout

# Filters of the stem, for which the tables of stages are made.
STEM = 32
HEAD = 1280
_DIVISOR = 8
_LEAST_SHARE = 0.9


class Stage(NamedTuple):
    """Blocks of one shape.

    Attributes:
        depth: blocks; the first has the stride.
        kernel_size: of the depthwise convolutions.
        strides: of the first block.
        expansion: channels inside a block, as a multiple of those at its input.
        features: channels at its output.
    """

    depth: int
    kernel_size: int
    strides: int
    expansion: int
    features: int


class InvertedResidual(nn.Module):
    """A 1×1 convolution that widens, a depthwise one, a 1×1 that narrows; a shortcut if the shape stays the same.

    Without expansion the first convolution is left out.
    """

    features: int
    kernel_size: int
    strides: int
    expansion: int
    conv: ConvFactory
    norm: NormFactory | None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B, H, W, C] through the block: [B, H/strides, W/strides, features]."""
        hidden = x.shape[-1] * self.expansion
        y = x
        if self.expansion > 1:
            y = jax.nn.relu6(_normalize(self.conv(hidden, (1, 1))(y), self.norm))
        depthwise = self.conv(hidden, (self.kernel_size,) * 2, self.strides, feature_group_count=hidden)
        y = jax.nn.relu6(_normalize(depthwise(y), self.norm))
        y = _normalize(self.conv(self.features, (1, 1))(y), self.norm)
        return x + y if x.shape == y.shape else y


def _normalize(x: jax.Array, norm: NormFactory | None) -> jax.Array:
    return x if norm is None else norm()(x)


class MobileNet(nn.Module):
    """A stem that halves the image, stages of inverted residuals, a 1×1 convolution, mean pooling, one dense layer.

    Attributes:
        num_classes: size of the output.
        stages: the table of blocks, for a stem of 32 filters.
        features: filters of the stem; those of the stages keep their proportion to it, in multiples of 8.
        norm: makes one BN layer; None builds the network without BN (its convolutions then have a bias).
        dropout: rate before the dense layer.
        kernel_init: initializer of all kernels.
        padding: "same", or "symmetric" as in PyTorch.
        dtype: dtype of the computation; parameters are float32.
    """

    num_classes: int
    stages: tuple[Stage, ...]
    norm: NormFactory | None
    dropout: float
    kernel_init: Initializer
    features: int = STEM
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
        x = jax.nn.relu6(_normalize(conv(self.features, (3, 3), 2, name="conv_stem")(x), norm))
        for stage in self.stages:
            width = rounded(stage.features * self.features / STEM)
            for index in range(stage.depth):
                strides = stage.strides if index == 0 else 1
                x = InvertedResidual(width, stage.kernel_size, strides, stage.expansion, conv=conv, norm=norm)(x)
        x = jax.nn.relu6(_normalize(conv(HEAD, (1, 1), name="conv_head")(x), norm))
        x = Dropout(self.dropout, deterministic=not train)(global_mean_pool(x))
        return nn.Dense(self.num_classes, kernel_init=self.kernel_init, dtype=self.dtype)(x)


def rounded(features: float) -> int:
    """The number of channels as a multiple of 8, and no more than a tenth below ``features``."""
    nearest = max(_DIVISOR, int(features + _DIVISOR / 2) // _DIVISOR * _DIVISOR)
    return nearest if nearest >= _LEAST_SHARE * features else nearest + _DIVISOR


def scaled(stages: tuple[Stage, ...], *, width: float, depth: float) -> tuple[Stage, ...]:
    """A larger table: more channels in all stages, and more blocks in all but the first and the last stage.

    Args:
        stages: of the smallest network.
        width: factor of the channels.
        depth: factor of the blocks, rounded up.
    """
    last = len(stages) - 1
    return tuple(
        stage._replace(
            depth=stage.depth if number in (0, last) else math.ceil(stage.depth * depth),
            features=rounded(stage.features * width),
        )
        for number, stage in enumerate(stages)
    )


_MOBILENET_V2 = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(3, 3, 2, 6, 32),
    Stage(4, 3, 2, 6, 64),
    Stage(3, 3, 1, 6, 96),
    Stage(3, 3, 2, 6, 160),
    Stage(1, 3, 1, 6, 320),
)
_LITE0 = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)

MobileNetV2 = partial(MobileNet, stages=_MOBILENET_V2)
EfficientNetLite0 = partial(MobileNet, stages=_LITE0)
EfficientNetLite1 = partial(MobileNet, stages=scaled(_LITE0, width=1.0, depth=1.1))
EfficientNetLite2 = partial(MobileNet, stages=scaled(_LITE0, width=1.1, depth=1.2))
EfficientNetLite3 = partial(MobileNet, stages=scaled(_LITE0, width=1.2, depth=1.4))
EfficientNetLite4 = partial(MobileNet, stages=scaled(_LITE0, width=1.4, depth=1.8))
