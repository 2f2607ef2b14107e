"""Networks of Flax NNX."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import bncli
from zoo.subject import CLASSES, Build, Subject, images, scales, with_random_statistics


def conv(inputs: int, outputs: int, size: int, rngs: nnx.Rngs, stride: int = 1, groups: int = 1) -> nnx.Conv:
    """A convolution without bias."""
    return nnx.Conv(
        inputs, outputs, (size, size), strides=stride, feature_group_count=groups, use_bias=False, rngs=rngs
    )


class Bottleneck(nnx.Module):
    """A bottleneck block of ResNet-50 as bonsai writes it, with its projection in `downsample`."""

    def __init__(self, inputs: int, features: int, stride: int, rngs: nnx.Rngs) -> None:
        self.conv0, self.bn0 = conv(inputs, features, 1, rngs), nnx.BatchNorm(features, rngs=rngs)
        self.conv1, self.bn1 = conv(features, features, 3, rngs, stride), nnx.BatchNorm(features, rngs=rngs)
        self.conv2, self.bn2 = conv(features, 4 * features, 1, rngs), nnx.BatchNorm(4 * features, rngs=rngs)
        self.downsample = (
            None
            if inputs == 4 * features
            else nnx.Sequential(conv(inputs, 4 * features, 1, rngs, stride), nnx.BatchNorm(4 * features, rngs=rngs))
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        y = nnx.relu(self.bn0(self.conv0(x)))
        y = nnx.relu(self.bn1(self.conv1(y)))
        y = self.bn2(self.conv2(y))
        return nnx.relu(y + (x if self.downsample is None else self.downsample(x)))


class Basic(nnx.Module):
    """A basic block."""

    def __init__(self, inputs: int, features: int, stride: int, rngs: nnx.Rngs) -> None:
        self.conv0, self.bn0 = conv(inputs, features, 3, rngs, stride), nnx.BatchNorm(features, rngs=rngs)
        self.conv1, self.bn1 = conv(features, features, 3, rngs), nnx.BatchNorm(features, rngs=rngs)
        self.downsample = (
            None
            if (inputs, stride) == (features, 1)
            else nnx.Sequential(conv(inputs, features, 1, rngs, stride), nnx.BatchNorm(features, rngs=rngs))
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.bn1(self.conv1(nnx.relu(self.bn0(self.conv0(x)))))
        return nnx.relu(y + (x if self.downsample is None else self.downsample(x)))


class Stem(nnx.Module):
    """The first convolution and its pool."""

    def __init__(self, features: int, rngs: nnx.Rngs) -> None:
        self.conv, self.bn = conv(3, features, 7, rngs, 2), nnx.BatchNorm(features, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.max_pool(nnx.relu(self.bn(self.conv(x))), (3, 3), (2, 2), padding="SAME")


class ResNet(nnx.Module):
    """A ResNet with its stages in lists."""

    def __init__(self, block: type, expansion: int, sizes: tuple[int, ...], width: int, rngs: nnx.Rngs) -> None:
        self.stem = Stem(width, rngs)
        self.layers, inputs = nnx.List([]), width
        for stage, size in enumerate(sizes):
            blocks = nnx.List([])
            for number in range(size):
                features = width * 2**stage
                blocks.append(block(inputs, features, 2 if stage and not number else 1, rngs))
                inputs = expansion * features
            self.layers.append(blocks)
        self.fc = nnx.Linear(inputs, CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.stem(x)
        for blocks in self.layers:
            for block in blocks:
                x = block(x)
        return self.fc(x.mean((1, 2)))


class Inverted(nnx.Module):
    """An inverted residual block."""

    def __init__(self, inputs: int, outputs: int, stride: int, rngs: nnx.Rngs) -> None:
        wide = 6 * inputs
        self.expand, self.bn0 = conv(inputs, wide, 1, rngs), nnx.BatchNorm(wide, rngs=rngs)
        self.depthwise, self.bn1 = conv(wide, wide, 3, rngs, stride, wide), nnx.BatchNorm(wide, rngs=rngs)
        self.project, self.bn2 = conv(wide, outputs, 1, rngs), nnx.BatchNorm(outputs, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = nnx.relu6(self.bn0(self.expand(x)))
        y = self.bn2(self.project(nnx.relu6(self.bn1(self.depthwise(y)))))
        return x + y if x.shape == y.shape else y


class MobileNet(nnx.Module):
    """MobileNetV2 of six blocks."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.stem = nnx.Sequential(conv(3, 16, 3, rngs, 2), nnx.BatchNorm(16, rngs=rngs), nnx.relu6)
        widths = (16, 16, 24, 24, 32, 32, 64)
        strides = (1, 2, 1, 2, 1, 2)
        self.blocks = nnx.List(
            [Inverted(a, b, stride, rngs) for a, b, stride in zip(widths, widths[1:], strides, strict=False)]
        )
        self.dropout, self.fc = nnx.Dropout(0.2, rngs=rngs), nnx.Linear(64, CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.fc(self.dropout(x.mean((1, 2))))


class PreBlock(nnx.Module):
    """BN and ReLU in front of each convolution."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.bn0, self.conv0 = nnx.BatchNorm(16, rngs=rngs), conv(16, 16, 3, rngs)
        self.bn1, self.conv1 = nnx.BatchNorm(16, rngs=rngs), conv(16, 16, 3, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv0(nnx.relu(self.bn0(x)))
        return x + self.conv1(nnx.relu(self.bn1(y)))


class PreActivation(nnx.Module):
    """ResNet-v2."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.stem, self.blocks = conv(3, 16, 3, rngs), nnx.List([PreBlock(rngs) for _ in range(4)])
        self.norm, self.fc = nnx.BatchNorm(16, rngs=rngs), nnx.Linear(16, CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.fc(nnx.relu(self.norm(x)).mean((1, 2)))


def made(module: nnx.Module, norms: int, kept: tuple[str, ...] = (), size: int = 32) -> Subject:
    """The module in eval mode with random numbers."""
    x, rng = images(size), np.random.default_rng(1)
    for _, norm in nnx.iter_modules(module):
        if isinstance(norm, nnx.BatchNorm):
            for name in ("scale", "bias"):
                variable = getattr(norm, name)
                variable.set_value(jnp.asarray(scales(name, variable.get_value().shape, rng)))
    module = with_random_statistics(bncli.recalibrate(module, [x]), {})
    module.eval()
    graphdef, state = nnx.split(module)
    return Subject(module, x, lambda x: nnx.merge(graphdef, state)(x), norms=norms, kept=kept)


NETWORKS: dict[str, Build] = {
    "NNX ResNet-18, narrow": lambda: made(ResNet(Basic, 1, (2, 2, 2, 2), 16, nnx.Rngs(0)), 20),
    "NNX MobileNetV2, 6 blocks": lambda: made(MobileNet(nnx.Rngs(0)), 19),
    "NNX pre-activation, 4 blocks": lambda: made(
        PreActivation(nnx.Rngs(0)), 9, (*(f"blocks/{number}/bn0" for number in range(4)), "norm")
    ),
    "NNX ResNet-50, as bonsai": lambda: made(ResNet(Bottleneck, 4, (3, 4, 6, 3), 64, nnx.Rngs(0)), 53, size=64),
}
