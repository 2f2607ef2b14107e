"""Networks of Flax linen."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import numpy as np

import bncli
from bncli.folding.folded import flatten, nested
from zoo.subject import CLASSES, Build, Subject, images, off, scales


class Block(nn.Module):
    """A basic block, with a projection where the shape changes."""

    features: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        norm = partial(nn.BatchNorm, use_running_average=not train)
        y = nn.Conv(self.features, (3, 3), strides=self.stride, use_bias=False)(x)
        y = nn.relu(norm()(y))
        y = norm()(nn.Conv(self.features, (3, 3), use_bias=False)(y))
        if x.shape != y.shape:
            x = norm()(nn.Conv(self.features, (1, 1), strides=self.stride, use_bias=False)(x))
        return nn.relu(x + y)


class ResNet(nn.Module):
    """ResNet-18 at a quarter of its width."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.Conv(16, (7, 7), strides=2, use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
        for stage in range(4):
            for number in range(2):
                x = Block(16 * 2**stage, 2 if stage and not number else 1)(x, train)
        return nn.Dense(CLASSES)(x.mean((1, 2)))


class Inverted(nn.Module):
    """An inverted residual block."""

    features: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        norm = partial(nn.BatchNorm, use_running_average=not train)
        wide = 6 * x.shape[-1]
        y = nn.relu6(norm()(nn.Conv(wide, (1, 1), use_bias=False)(x)))
        y = nn.Conv(wide, (3, 3), strides=self.stride, feature_group_count=wide, use_bias=False)(y)
        y = norm()(nn.Conv(self.features, (1, 1), use_bias=False)(nn.relu6(norm()(y))))
        return x + y if x.shape == y.shape else y


class MobileNet(nn.Module):
    """MobileNetV2 of six blocks."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.Conv(16, (3, 3), strides=2, use_bias=False)(x)
        x = nn.relu6(nn.BatchNorm(use_running_average=not train)(x))
        for features, stride in ((16, 1), (24, 2), (24, 1), (32, 2), (32, 1), (64, 2)):
            x = Inverted(features, stride)(x, train)
        return nn.Dense(CLASSES)(x.mean((1, 2)))


class PreActivation(nn.Module):
    """ResNet-v2: BN and ReLU in front of each convolution."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        norm = partial(nn.BatchNorm, use_running_average=not train)
        x = nn.Conv(16, (3, 3), use_bias=False)(x)
        for _ in range(4):
            y = nn.Conv(16, (3, 3), use_bias=False)(nn.relu(norm()(x)))
            x = x + nn.Conv(16, (3, 3), use_bias=False)(nn.relu(norm()(y)))
        return nn.Dense(CLASSES)(nn.relu(norm()(x)).mean((1, 2)))


def made(module: nn.Module, norms: int, kept: tuple[str, ...] = (), size: int = 32) -> Subject:
    """The module with random variables."""
    x, rng = images(size), np.random.default_rng(1)
    variables = module.init(jax.random.key(0), x, train=False)
    arrays = {
        path: scales(path[-1], np.shape(array), rng) if path[-1] == "scale" or "BatchNorm" in path[-2] else array
        for path, array in flatten(variables)
        if path[0] == "params"
    }
    variables = bncli.recalibrate(module, {**nested(arrays), "batch_stats": variables["batch_stats"]}, [x])
    stats = {"/".join(path[:-1]): array for path, array in flatten(variables["batch_stats"])}
    tree = dict(flatten(variables["batch_stats"]))
    both = {layer: tuple(tree[(*layer.split("/"), name)] for name in ("mean", "var")) for layer in stats}
    moved = off(both, rng)
    new = {
        (*layer.split("/"), name): moved[layer][index] for layer in moved for index, name in ((0, "mean"), (1, "var"))
    }
    variables = {**variables, "batch_stats": nested(new)}
    return Subject(
        module, x, lambda x: module.apply(variables, x, train=False), norms=norms, kept=kept, arrays=(variables,)
    )


NETWORKS: dict[str, Build] = {
    "linen ResNet-18, narrow": lambda: made(ResNet(), 20),
    "linen MobileNetV2, 6 blocks": lambda: made(MobileNet(), 19),
    "linen pre-activation, 4 blocks": lambda: made(
        PreActivation(), 9, ("BatchNorm_0", "BatchNorm_2", "BatchNorm_4", "BatchNorm_6", "BatchNorm_8")
    ),
}
