"""Well-known architectures, small, as plain linen modules; every BN in inference mode.

`NETS` has one of each, with what folding should make of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bncli.models.cnn import CNN
from bncli.models.resnet import ResNet18, ResNet50

X = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype(np.float32)

BatchNorm = partial(nn.BatchNorm, use_running_average=True)
Conv = partial(nn.Conv, use_bias=False)


class BasicBlock(nn.Module):
    """ResNet v1: conv BN ReLU conv BN, plus the shortcut, ReLU."""

    features: int
    strides: int = 1

    @nn.compact
    def __call__(self, x):
        y = nn.relu(BatchNorm()(Conv(self.features, (3, 3), self.strides)(x)))
        y = BatchNorm()(Conv(self.features, (3, 3))(y))
        if x.shape != y.shape:
            x = BatchNorm()(Conv(self.features, (1, 1), self.strides)(x))
        return nn.relu(x + y)


class BottleneckBlock(nn.Module):
    """ResNet-50's: 1×1, 3×3, 1×1 to four times the width."""

    features: int
    strides: int = 1

    @nn.compact
    def __call__(self, x):
        y = nn.relu(BatchNorm()(Conv(self.features, (1, 1))(x)))
        y = nn.relu(BatchNorm()(Conv(self.features, (3, 3), self.strides)(y)))
        y = BatchNorm()(Conv(4 * self.features, (1, 1))(y))
        if x.shape != y.shape:
            x = BatchNorm()(Conv(4 * self.features, (1, 1), self.strides)(x))
        return nn.relu(x + y)


class PreActivationBlock(nn.Module):
    """ResNet v2: BN ReLU conv BN ReLU conv, plus the shortcut."""

    features: int
    strides: int = 1

    @nn.compact
    def __call__(self, x):
        y = nn.relu(BatchNorm()(x))
        shortcut = x if x.shape[-1] == self.features else Conv(self.features, (1, 1), self.strides)(y)
        y = nn.relu(BatchNorm()(Conv(self.features, (3, 3), self.strides)(y)))
        return shortcut + Conv(self.features, (3, 3))(y)


class ResNet(nn.Module):
    """A stem and stages of blocks; the width doubles and the image halves at each stage."""

    stages: Sequence[int]
    block: type[nn.Module] = BasicBlock
    width: int = 8
    classes: int = 10
    stem: bool = False

    @nn.compact
    def __call__(self, x):
        if self.stem:
            x = nn.relu(BatchNorm()(Conv(self.width, (7, 7), 2, padding=[(3, 3), (3, 3)])(x)))
            x = nn.max_pool(x, (3, 3), (2, 2), padding="SAME")
        else:
            x = Conv(self.width, (3, 3))(x)
            if self.block is not PreActivationBlock:
                x = nn.relu(BatchNorm()(x))
        for stage, blocks in enumerate(self.stages):
            for number in range(blocks):
                x = self.block(self.width * 2**stage, strides=2 if stage and not number else 1)(x)
        if self.block is PreActivationBlock:
            x = nn.relu(BatchNorm()(x))
        return nn.Dense(self.classes)(x.mean(axis=(1, 2)))


class DenseNet(nn.Module):
    """BN ReLU conv on everything so far, alongside everything so far."""

    growth: int = 4

    @nn.compact
    def __call__(self, x):
        x = Conv(8, (3, 3))(x)
        for _ in range(2):
            for _ in range(2):
                y = Conv(4 * self.growth, (1, 1))(nn.relu(BatchNorm()(x)))
                y = Conv(self.growth, (3, 3))(nn.relu(BatchNorm()(y)))
                x = jnp.concatenate([x, y], axis=-1)
            x = Conv(x.shape[-1] // 2, (1, 1))(nn.relu(BatchNorm()(x)))
            x = nn.avg_pool(x, (2, 2), (2, 2))
        return nn.Dense(10)(nn.relu(BatchNorm()(x)).mean(axis=(1, 2)))


class InvertedResidual(nn.Module):
    """MobileNetV2's: expand, depthwise, project; linear at the end."""

    features: int
    strides: int = 1

    @nn.compact
    def __call__(self, x):
        hidden = 3 * x.shape[-1]
        y = nn.relu6(BatchNorm()(Conv(hidden, (1, 1))(x)))
        y = nn.relu6(BatchNorm()(Conv(hidden, (3, 3), self.strides, feature_group_count=hidden)(y)))
        y = BatchNorm()(Conv(self.features, (1, 1))(y))
        return x + y if x.shape == y.shape else y


class MobileNet(nn.Module):
    """MobileNetV2, narrow."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu6(BatchNorm()(Conv(8, (3, 3))(x)))
        for features, strides in ((8, 1), (12, 2), (12, 1)):
            x = InvertedResidual(features, strides)(x)
        x = nn.relu6(BatchNorm()(Conv(16, (1, 1))(x)))
        return nn.Dense(10)(x.mean(axis=(1, 2)))


class Inception(nn.Module):
    """Four branches side by side; in `post` order each BN goes down, through the concatenation."""

    post: bool = False

    @nn.compact
    def __call__(self, x):
        def unit(y, features, window):
            y = nn.Conv(features, window)(y)
            return BatchNorm()(nn.relu(y)) if self.post else nn.relu(BatchNorm()(y))

        for _ in range(2):
            branches = [
                unit(x, 4, (1, 1)),
                unit(unit(x, 3, (1, 1)), 4, (3, 3)),
                unit(unit(unit(x, 3, (1, 1)), 4, (3, 3)), 4, (3, 3)),
                unit(nn.avg_pool(x, (3, 3), (1, 1), padding="SAME"), 4, (1, 1)),
            ]
            x = jnp.concatenate(branches, axis=-1)
            x = nn.max_pool(x, (2, 2), (2, 2))
        return nn.Dense(10)(x.reshape((x.shape[0], -1)))


class UNet(nn.Module):
    """Down, up with a transposed convolution, and across; one logit map for each class."""

    transpose_kernel: bool = False

    @nn.compact
    def __call__(self, x):
        def unit(y, features):
            return nn.relu(BatchNorm()(Conv(features, (3, 3))(y)))

        high = unit(unit(x, 4), 4)
        middle = unit(nn.max_pool(high, (2, 2), (2, 2)), 8)
        low = unit(nn.max_pool(middle, (2, 2), (2, 2)), 12)
        up = partial(nn.ConvTranspose, transpose_kernel=self.transpose_kernel)
        middle = jnp.concatenate([middle, nn.relu(BatchNorm()(up(8, (2, 2), (2, 2))(low)))], axis=-1)
        middle = unit(middle, 8)
        high = jnp.concatenate([high, nn.relu(BatchNorm()(up(4, (3, 3), (2, 2))(middle)))], axis=-1)
        return nn.Conv(3, (1, 1))(unit(high, 4))


class Classic(nn.Module):
    """The 32-32-64-64-128-128 net of the Keras tutorials, narrow, in either order."""

    post: bool = False
    widths: Sequence[int] = (4, 4, 6, 6, 8, 8)

    @nn.compact
    def __call__(self, x):
        for number, width in enumerate(self.widths):
            x = nn.Conv(width, (3, 3))(x)
            x = BatchNorm()(nn.relu(x)) if self.post else nn.relu(BatchNorm()(x))
            if number % 2:
                x = nn.max_pool(x, (2, 2), (2, 2))
                x = nn.Dropout(0.2, deterministic=True)(x)
        x = nn.relu(nn.Dense(8)(x.reshape((x.shape[0], -1))))
        return nn.Dense(10)(nn.Dropout(0.5, deterministic=True)(x))


class Own(nn.Module):
    """One of bncli's own networks, in inference mode."""

    network: nn.Module

    @nn.compact
    def __call__(self, x):
        return self.network(x, train=False)


OWN = {"num_classes": 10, "norm": nn.BatchNorm, "dropout": 0.25, "kernel_init": nn.initializers.he_normal()}

# name -> (network, how many BN fold, how many are kept), each argued.
NETS = {
    # Every BN stands behind a convolution of its own, which nothing else reads.
    "classic": (Classic(), 6, 0),
    "cnn": (Own(CNN(bn_placement="pre", features=(4, 6, 8), **OWN)), 6, 0),
    "inception": (Inception(), 14, 0),
    "mobilenet": (MobileNet(), 11, 0),
    "resnet": (ResNet((2, 2, 2), BasicBlock), 15, 0),
    "unet": (UNet(), 8, 0),
    "unet, transposed kernels": (UNet(transpose_kernel=True), 8, 0),
    # Likewise, in full depth: the stem, two or three in each of 8 or 16 blocks, and one on each projected shortcut,
    # of which a bottleneck network has one more, because its first stage widens too.
    "resnet18": (Own(ResNet18(features=4, small_images=False, **OWN)), 1 + 2 * 8 + 3, 0),
    "resnet50": (Own(ResNet50(features=4, small_images=False, **OWN)), 1 + 3 * 16 + 4, 0),
    # Every BN stands behind a ReLU and goes down: through max-pools, dropout, concatenations and padded average pools.
    "classic, post": (Classic(post=True), 6, 0),
    "cnn, post": (Own(CNN(bn_placement="post", features=(4, 6, 8), **OWN)), 6, 0),
    "inception, post": (Inception(post=True), 14, 0),
    # The second BN of a block stands behind a convolution; the first reads the sum that the shortcut reads too.
    "resnet, preactivation": (ResNet((2, 2), PreActivationBlock), 4, 5),
    # The second BN of a layer stands behind a 1×1 convolution, the last one behind an average pool of one; the first
    # BN of a layer, and that of a transition, read what others read too.
    "densenet": (DenseNet(), 5, 6),
}


def trained(model: nn.Module, x, seed: int = 0):
    """Variables as if trained: no statistic or scale is where it started, some are negative, zero or tiny."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    draws = {
        "bias": lambda shape: rng.normal(scale=0.5, size=shape),
        "kernel": lambda shape: rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[:-1])),
        "mean": lambda shape: rng.normal(scale=0.5, size=shape),
        "scale": lambda shape: rng.permuted([0.0, 1e-6, *rng.normal(1.0, 0.7, size=shape[0])][-shape[0] :]),
        "var": lambda shape: rng.uniform(0.2, 2.0, size=shape),
    }
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.asarray(draws[path[-1].key](leaf.shape), leaf.dtype), shapes
    )
