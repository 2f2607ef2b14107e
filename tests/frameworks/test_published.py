"""Networks as their frameworks publish them fold with one call, with statistics that come from their own inputs."""

from __future__ import annotations

import os

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import bncli
from frameworks.oracle import check_exports, same

os.environ.setdefault("KERAS_BACKEND", "jax")
pytestmark = pytest.mark.slow
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(8, 32, 32, 3)).astype(np.float32)
# More than those: the last layers see one position of each image, and a variance of few values gives huge gains.
SEEN = RNG.normal(size=(64, 32, 32, 3)).astype(np.float32)


def proved(folded, call, rows: int, kept: int = 0) -> None:
    """Each BN is one row, all but some are folded, and the outputs are the same in JAX, ONNX and StableHLO."""
    assert len(folded.report.norms) == rows
    assert sum(row.status == "kept" for row in folded.report.norms) == kept
    assert folded.report.verification.status == "proved"
    same(call(IMAGES), folded(IMAGES))
    check_exports(folded, call, IMAGES)


HAIKU = {"ResNet18": 20, "ResNet50": 53, "MobileNetV1": 27}


@pytest.mark.parametrize("name", HAIKU)
def test_networks_of_haiku(name):
    transformed = hk.transform_with_state(lambda x, is_training: getattr(hk.nets, name)(num_classes=10)(x, is_training))
    params, state = transformed.init(jax.random.key(0), IMAGES, True)
    params = jax.tree.map(jnp.asarray, params)
    state = bncli.recalibrate(transformed, params, state, [SEEN])
    folded = bncli.fold(transformed, params, state, IMAGES)
    proved(folded, jax.jit(lambda x: transformed.apply(params, state, None, x, False)[0]), HAIKU[name])


KERAS = {"MobileNetV2": (52, 0), "EfficientNetB0": (49, 0), "ResNet50V2": (49, 17)}


@pytest.mark.parametrize("name", KERAS)
def test_applications_of_keras(name):
    keras = pytest.importorskip("keras")
    model = getattr(keras.applications, name)(weights=None, input_shape=(32, 32, 3), classes=10)
    bncli.recalibrate(model, [SEEN])
    rows, kept = KERAS[name]
    proved(bncli.fold(model, IMAGES), lambda x: jnp.asarray(model(np.asarray(x), training=False)), rows, kept)


class Bottleneck(nnx.Module):
    """The block of bonsai's ResNet-50: 1×1, 3×3, 1×1, and a projection where the shape changes."""

    def __init__(self, inputs, width, stride, rngs):
        def layer(a, b, size, step=1):
            conv = nnx.Conv(a, b, (size, size), strides=step, use_bias=False, rngs=rngs)
            return nnx.Sequential(conv, nnx.BatchNorm(b, rngs=rngs))

        self.layers = nnx.List([layer(inputs, width, 1), layer(width, width, 3, stride), layer(width, 4 * width, 1)])
        self.shortcut = layer(inputs, 4 * width, 1, stride) if stride > 1 or inputs != 4 * width else None

    def __call__(self, x):
        y = x
        for layer in self.layers[:-1]:
            y = nnx.relu(layer(y))
        return nnx.relu(self.layers[-1](y) + (x if self.shortcut is None else self.shortcut(x)))


class ResNet50(nnx.Module):
    def __init__(self, rngs):
        self.stem = nnx.Conv(3, 64, (7, 7), strides=2, use_bias=False, rngs=rngs)
        self.bn = nnx.BatchNorm(64, rngs=rngs)
        blocks, inputs = [], 64
        for stage, count in enumerate((3, 4, 6, 3)):
            for number in range(count):
                blocks.append(Bottleneck(inputs, 64 * 2**stage, 2 if number == 0 and stage else 1, rngs))
                inputs = 256 * 2**stage
        self.blocks = nnx.List(blocks)
        self.fc = nnx.Linear(2048, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.max_pool(nnx.relu(self.bn(self.stem(x))), (3, 3), (2, 2), "SAME")
        for block in self.blocks:
            x = block(x)
        return self.fc(x.mean((1, 2)))


def test_a_resnet50_of_nnx_in_the_style_of_bonsai():
    module = ResNet50(nnx.Rngs(0))
    module = bncli.recalibrate(module, [SEEN])
    module.eval()
    proved(bncli.fold(module, IMAGES), jax.jit(lambda x: module(x)), 53)
