"""Networks of Equinox, which take one image [C, H, W]."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import bncli
from zoo.subject import CLASSES, Build, Subject, images, scales, with_random_statistics

State = eqx.nn.State
Result = tuple[jax.Array, State]


def norm(channels: int) -> eqx.nn.BatchNorm:
    """BN over the axis that `vmap` calls "batch"."""
    return eqx.nn.BatchNorm(channels, axis_name="batch", mode="batch")


class ConvNorm(eqx.Module):
    """A convolution without bias and its BN."""

    conv: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm

    def __init__(self, inputs: int, outputs: int, size: int, key: jax.Array, stride: int = 1, groups: int = 1) -> None:
        self.conv = eqx.nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, use_bias=False, key=key)
        self.norm = norm(outputs)

    def __call__(self, x: jax.Array, state: State) -> Result:
        return self.norm(self.conv(x), state)


class Basic(eqx.Module):
    """A basic block."""

    first: ConvNorm
    second: ConvNorm
    shortcut: ConvNorm | None

    def __init__(self, inputs: int, features: int, stride: int, key: jax.Array) -> None:
        one, two, three = jax.random.split(key, 3)
        self.first = ConvNorm(inputs, features, 3, one, stride)
        self.second = ConvNorm(features, features, 3, two)
        same = (inputs, stride) == (features, 1)
        self.shortcut = None if same else ConvNorm(inputs, features, 1, three, stride)

    def __call__(self, x: jax.Array, state: State) -> Result:
        y, state = self.first(x, state)
        y, state = self.second(jax.nn.relu(y), state)
        if self.shortcut is not None:
            x, state = self.shortcut(x, state)
        return jax.nn.relu(x + y), state


class ResNet(eqx.Module):
    """ResNet-18 at a quarter of its width."""

    stem: ConvNorm
    pool: eqx.nn.MaxPool2d
    blocks: list[Basic]
    fc: eqx.nn.Linear

    def __init__(self, key: jax.Array) -> None:
        keys = iter(jax.random.split(key, 10))
        self.stem, self.pool = ConvNorm(3, 16, 7, next(keys), 2), eqx.nn.MaxPool2d(3, 2, 1)
        self.blocks, inputs = [], 16
        for stage in range(4):
            for number in range(2):
                features = 16 * 2**stage
                self.blocks.append(Basic(inputs, features, 2 if stage and not number else 1, next(keys)))
                inputs = features
        self.fc = eqx.nn.Linear(inputs, CLASSES, key=next(keys))

    def __call__(self, x: jax.Array, state: State) -> Result:
        x, state = self.stem(x, state)
        x = self.pool(jax.nn.relu(x))
        for block in self.blocks:
            x, state = block(x, state)
        return self.fc(x.mean((1, 2))), state


class Inverted(eqx.Module):
    """An inverted residual block."""

    expand: ConvNorm
    depthwise: ConvNorm
    project: ConvNorm
    adds: bool = eqx.field(static=True)

    def __init__(self, inputs: int, outputs: int, stride: int, key: jax.Array) -> None:
        one, two, three = jax.random.split(key, 3)
        self.expand = ConvNorm(inputs, 6 * inputs, 1, one)
        self.depthwise = ConvNorm(6 * inputs, 6 * inputs, 3, two, stride, 6 * inputs)
        self.project = ConvNorm(6 * inputs, outputs, 1, three)
        self.adds = (inputs, stride) == (outputs, 1)

    def __call__(self, x: jax.Array, state: State) -> Result:
        y, state = self.expand(x, state)
        y, state = self.depthwise(jax.nn.relu6(y), state)
        y, state = self.project(jax.nn.relu6(y), state)
        return (x + y if self.adds else y), state


class MobileNet(eqx.Module):
    """MobileNetV2 of six blocks."""

    stem: ConvNorm
    blocks: tuple[Inverted, ...]
    fc: eqx.nn.Linear

    def __init__(self, key: jax.Array) -> None:
        keys = jax.random.split(key, 8)
        widths, strides = (16, 16, 24, 24, 32, 32, 64), (1, 2, 1, 2, 1, 2)
        self.stem = ConvNorm(3, 16, 3, keys[0], 2)
        sizes = zip(widths, widths[1:], strides, keys[1:7], strict=False)
        self.blocks = tuple(Inverted(a, b, stride, key) for a, b, stride, key in sizes)
        self.fc = eqx.nn.Linear(64, CLASSES, key=keys[7])

    def __call__(self, x: jax.Array, state: State) -> Result:
        x, state = self.stem(x, state)
        x = jax.nn.relu6(x)
        for block in self.blocks:
            x, state = block(x, state)
        return self.fc(x.mean((1, 2))), state


class PreBlock(eqx.Module):
    """BN and ReLU in front of each convolution."""

    norms: list[eqx.nn.BatchNorm]
    convs: list[eqx.nn.Conv2d]

    def __init__(self, key: jax.Array) -> None:
        self.norms = [norm(16), norm(16)]
        self.convs = [eqx.nn.Conv2d(16, 16, 3, padding=1, key=part) for part in jax.random.split(key)]

    def __call__(self, x: jax.Array, state: State) -> Result:
        y = x
        for bn, conv in zip(self.norms, self.convs, strict=True):
            y, state = bn(y, state)
            y = conv(jax.nn.relu(y))
        return x + y, state


class PreActivation(eqx.Module):
    """ResNet-v2."""

    stem: eqx.nn.Conv2d
    blocks: list[PreBlock]
    norm: eqx.nn.BatchNorm
    fc: eqx.nn.Linear

    def __init__(self, key: jax.Array) -> None:
        keys = jax.random.split(key, 6)
        self.stem = eqx.nn.Conv2d(3, 16, 3, padding=1, key=keys[0])
        self.blocks = [PreBlock(part) for part in keys[1:5]]
        self.norm, self.fc = norm(16), eqx.nn.Linear(16, CLASSES, key=keys[5])

    def __call__(self, x: jax.Array, state: State) -> Result:
        x = self.stem(x)
        for block in self.blocks:
            x, state = block(x, state)
        x, state = self.norm(x, state)
        return self.fc(jax.nn.relu(x).mean((1, 2))), state


class CNN(eqx.Module):
    """The CNN of Equinox's documentation for CIFAR-10's 32×32 images, with a BN behind its convolution."""

    layers: Sequence[Callable[..., jax.Array]]

    def __init__(self, key: jax.Array) -> None:
        one, two, three, four = jax.random.split(key, 4)
        self.layers = [
            eqx.nn.Conv2d(3, 3, kernel_size=4, key=one),
            norm(3),
            eqx.nn.MaxPool2d(kernel_size=2),
            jax.nn.relu,
            jnp.ravel,
            eqx.nn.Linear(2352, 512, key=two),
            jax.nn.sigmoid,
            eqx.nn.Linear(512, 64, key=three),
            jax.nn.relu,
            eqx.nn.Linear(64, CLASSES, key=four),
            jax.nn.log_softmax,
        ]

    def __call__(self, x: jax.Array, state: State) -> Result:
        for layer in self.layers:
            if isinstance(layer, eqx.nn.StatefulLayer):
                x, state = layer(x, state)
            else:
                x = layer(x)
        return x, state


def made(cls: type[eqx.Module], norms: int, kept: tuple[str, ...] = ()) -> Subject:
    """The model in inference mode with random numbers, and its state."""
    x, rng = images(32, channels_first=True), np.random.default_rng(1)
    model, state = eqx.nn.make_with_state(cls)(jax.random.key(0))

    def randomized(node: object) -> object:
        if not isinstance(node, eqx.nn.BatchNorm):
            return node
        new = [jnp.asarray(scales(name, getattr(node, name).shape, rng)) for name in ("weight", "bias")]
        return eqx.tree_at(lambda layer: (layer.weight, layer.bias), node, new)

    model = jax.tree.map(randomized, model, is_leaf=lambda node: isinstance(node, eqx.nn.BatchNorm))
    model = eqx.nn.inference_mode(model)
    state = bncli.recalibrate(model, [x], state=state)
    state = with_random_statistics(model, {"state": state})
    return Subject(
        model,
        x,
        lambda x: jax.vmap(lambda one: model(one, state)[0], axis_name="batch")(x),
        norms=norms,
        kept=kept,
        named={"state": state},
    )


NETWORKS: dict[str, Build] = {
    "Equinox ResNet-18, narrow": lambda: made(ResNet, 20),
    "Equinox MobileNetV2, 6 blocks": lambda: made(MobileNet, 19),
    "Equinox pre-activation, 4 blocks": lambda: made(
        PreActivation, 9, (*(f"blocks/{number}/norms/0" for number in range(4)), "norm")
    ),
    "Equinox CNN of its docs, with BN": lambda: made(CNN, 1),
}
