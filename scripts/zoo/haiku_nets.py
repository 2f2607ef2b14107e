"""Networks of Haiku: its own, and three written in its idiom."""

from __future__ import annotations

from collections.abc import Callable

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

import bncli
from zoo.subject import CLASSES, Build, Subject, images, scales, with_random_statistics

Forward = Callable[[jax.Array, bool], jax.Array]


def normed(x: jax.Array, is_training: bool) -> jax.Array:
    """BN with scale and offset."""
    return hk.BatchNorm(create_scale=True, create_offset=True, decay_rate=0.9)(x, is_training)


class Basic(hk.Module):
    """A basic block."""

    def __init__(self, features: int, stride: int) -> None:
        super().__init__()
        self.features, self.stride = features, stride

    def __call__(self, x: jax.Array, is_training: bool) -> jax.Array:
        y = hk.Conv2D(self.features, 3, self.stride, with_bias=False)(x)
        y = hk.Conv2D(self.features, 3, with_bias=False)(jax.nn.relu(normed(y, is_training)))
        y = normed(y, is_training)
        if x.shape != y.shape:
            x = normed(hk.Conv2D(self.features, 1, self.stride, with_bias=False)(x), is_training)
        return jax.nn.relu(x + y)


def resnet(x: jax.Array, is_training: bool) -> jax.Array:
    """ResNet-18 at a quarter of its width."""
    x = jax.nn.relu(normed(hk.Conv2D(16, 7, 2, with_bias=False)(x), is_training))
    x = hk.max_pool(x, (3, 3, 1), (2, 2, 1), padding="SAME")
    for stage in range(4):
        for number in range(2):
            x = Basic(16 * 2**stage, 2 if stage and not number else 1)(x, is_training)
    return hk.Linear(CLASSES)(x.mean((1, 2)))


class Inverted(hk.Module):
    """An inverted residual block."""

    def __init__(self, features: int, stride: int) -> None:
        super().__init__()
        self.features, self.stride = features, stride

    def __call__(self, x: jax.Array, is_training: bool) -> jax.Array:
        y = jax.nn.relu6(normed(hk.Conv2D(6 * x.shape[-1], 1, with_bias=False)(x), is_training))
        y = jax.nn.relu6(normed(hk.DepthwiseConv2D(1, 3, self.stride, with_bias=False)(y), is_training))
        y = normed(hk.Conv2D(self.features, 1, with_bias=False)(y), is_training)
        return x + y if x.shape == y.shape else y


def mobilenet(x: jax.Array, is_training: bool) -> jax.Array:
    """MobileNetV2 of six blocks."""
    x = jax.nn.relu6(normed(hk.Conv2D(16, 3, 2, with_bias=False)(x), is_training))
    for features, stride in ((16, 1), (24, 2), (24, 1), (32, 2), (32, 1), (64, 2)):
        x = Inverted(features, stride)(x, is_training)
    return hk.Linear(CLASSES)(x.mean((1, 2)))


def preactivation(x: jax.Array, is_training: bool) -> jax.Array:
    """ResNet-v2: BN and ReLU in front of each convolution."""
    x = hk.Conv2D(16, 3)(x)
    for _ in range(4):
        y = hk.Conv2D(16, 3)(jax.nn.relu(normed(x, is_training)))
        x = x + hk.Conv2D(16, 3)(jax.nn.relu(normed(y, is_training)))
    return hk.Linear(CLASSES)(jax.nn.relu(normed(x, is_training)).mean((1, 2)))


def published(name: str) -> Forward:
    """A network of `hk.nets`."""
    return lambda x, is_training: getattr(hk.nets, name)(num_classes=CLASSES)(x, is_training)


def randomized(name: str, array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A parameter such as training leaves behind: `hk.nets` starts the kernel of its logits at zero."""
    if name in ("scale", "offset"):
        return scales(name, array.shape, rng)
    is_zero_kernel = name == "w" and not array.any()
    return rng.normal(scale=len(array) ** -0.5, size=array.shape).astype(np.float32) if is_zero_kernel else array


def made(forward: Forward, norms: int, kept: tuple[str, ...] = (), size: int = 32) -> Subject:
    """The transformed function, and random params and state."""
    x, rng = images(size), np.random.default_rng(1)
    transformed = hk.transform_with_state(forward)
    params, state = jax.jit(lambda: transformed.init(jax.random.key(0), x, True))()
    params = {
        module: {name: jnp.asarray(randomized(name, np.asarray(array), rng)) for name, array in arrays.items()}
        for module, arrays in params.items()
    }
    state = bncli.recalibrate(transformed, params, state, [x])
    state = with_random_statistics(transformed, {"params": params, "state": state})
    return Subject(
        transformed,
        x,
        lambda x: transformed.apply(params, state, None, x, False)[0],
        norms=norms,
        kept=kept,
        arrays=(params, state),
    )


PRE = ("batch_norm", *(f"batch_norm_{number}" for number in (2, 4, 6, 8)))
NETWORKS: dict[str, Build] = {
    "Haiku ResNet-18, narrow": lambda: made(resnet, 20),
    "Haiku MobileNetV2, 6 blocks": lambda: made(mobilenet, 19),
    "Haiku pre-activation, 4 blocks": lambda: made(preactivation, 9, PRE),
    "hk.nets.ResNet50": lambda: made(published("ResNet50"), 53, size=64),
    "hk.nets.MobileNetV1": lambda: made(published("MobileNetV1"), 27, size=64),
}
