"""Keras models on JAX: one call folds them, measures them and gives them back without BN."""

from __future__ import annotations

import os

import numpy as np
import pytest

import bncli
from bncli.errors import FoldError
from frameworks.oracle import IMAGES as X
from frameworks.oracle import check, numbers, same

os.environ.setdefault("KERAS_BACKEND", "jax")
keras = pytest.importorskip("keras", reason="Keras is not installed")
if keras.backend.backend() != "jax":
    pytest.skip("Keras runs on another backend than JAX", allow_module_level=True)
layers = keras.layers


def norm(x, **settings):
    return layers.BatchNormalization(**settings)(x)


def resnet():
    inputs = keras.Input((8, 8, 3))
    x = layers.ReLU()(norm(layers.Conv2D(4, 3, padding="same", use_bias=False)(inputs), name="bn0"))
    for number in range(2):
        y = layers.ReLU()(norm(layers.Conv2D(4, 3, padding="same")(x), name=f"bn{number}_a"))
        y = norm(layers.Conv2D(4, 3, padding="same", use_bias=False)(y), name=f"bn{number}_b")
        x = layers.ReLU()(layers.Add()([x, y]))
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


def mobilenet():
    """A sequential model, and one inside a model."""
    stem = [layers.Conv2D(6, 1, use_bias=False), layers.BatchNormalization(name="bn0"), layers.ReLU(max_value=6)]
    depthwise = [
        layers.DepthwiseConv2D(3, strides=2, padding="same"),
        layers.BatchNormalization(scale=False, name="bn1"),
    ]
    project = [layers.ReLU(max_value=6), layers.Conv2D(3, 1), layers.BatchNormalization(center=False, name="bn2")]
    return keras.Sequential([keras.Input((8, 8, 3)), *stem, *depthwise, *project, layers.GlobalAveragePooling2D()])


def preactivation():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same")(inputs)
    y = layers.Conv2D(4, 3, padding="same")(layers.ReLU()(norm(x, name="bn0")))
    y = layers.Conv2D(4, 3, padding="same")(layers.ReLU()(norm(y, name="bn1")))
    return keras.Model(inputs, layers.Add()([x, y]))


def made(build):
    """A model with the numbers of a trained one."""
    model = build()
    rng = np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, layers_of_bn):
            for variable in layer.weights:
                variable.assign(numbers(variable.shape, variable.name, rng))
    return model


layers_of_bn = layers.BatchNormalization
RESNET = ["bn0", "bn0_a", "bn0_b", "bn1_a", "bn1_b"]


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("build", "folded", "kept"),
    [(resnet, RESNET, []), (mobilenet, ["bn0", "bn1", "bn2"], []), (preactivation, ["bn1"], ["bn0"])],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_one_call_folds_a_model_and_gives_it_back_without_bn(build, folded, kept):
    model = made(build)
    result = check(model, lambda x: model(x, training=False), X, folded=folded, kept=kept)
    without = result.module
    assert sum(isinstance(layer, layers_of_bn) for layer in without.layers) == len(kept)
    same(model(X, training=False), without(X, training=False))


def test_a_subclassed_model_is_folded_and_its_module_refused():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = layers.Conv2D(4, 3), layers.BatchNormalization(name="bn")

        def call(self, x, training=False):
            return self.bn(self.conv(x), training=training)

    model = Net()
    model(X)
    result = check(model, model, X, folded=["bn"], exports=False)
    with pytest.raises(FoldError, match="Net is a subclassed model"):
        _ = result.module


def test_a_layer_that_is_always_in_train_mode_is_named():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.bn = layers.BatchNormalization(name="bn")

        def call(self, x, training=False):
            return self.bn(x, training=True)

    model = Net()
    model(X)
    with pytest.raises(FoldError, match="bn/moving_mean changes when the model is called with training=False"):
        bncli.fold(model, X)


def test_a_model_without_variables_is_to_be_built_first():
    with pytest.raises(FoldError, match="the model has no variables yet"):
        bncli.fold(keras.Sequential([layers.Dense(3)]), X)
