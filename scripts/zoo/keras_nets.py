"""Networks of Keras 3 on JAX: its applications, and three written in its idiom."""

from __future__ import annotations

import os
from collections.abc import Callable

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np
from keras import layers

import bncli
from zoo.subject import CLASSES, Build, Subject, images, scales, with_random_statistics

Symbol = keras.KerasTensor


def conv_norm(x: Symbol, features: int, size: int, name: str, stride: int = 1) -> Symbol:
    """A convolution without bias and its BN."""
    x = layers.Conv2D(features, size, stride, padding="same", use_bias=False)(x)
    return layers.BatchNormalization(name=name)(x)


def resnet() -> keras.Model:
    """ResNet-18 at a quarter of its width."""
    inputs = keras.Input((32, 32, 3))
    x = layers.ReLU()(conv_norm(inputs, 16, 7, "stem", 2))
    x = layers.MaxPooling2D(3, 2, padding="same")(x)
    for stage in range(4):
        for number in range(2):
            features, stride, name = 16 * 2**stage, 2 if stage and not number else 1, f"stage{stage}_{number}"
            y = layers.ReLU()(conv_norm(x, features, 3, f"{name}_a", stride))
            y = conv_norm(y, features, 3, f"{name}_b")
            x = conv_norm(x, features, 1, f"{name}_shortcut", stride) if stride == 2 else x
            x = layers.ReLU()(layers.Add()([x, y]))
    return keras.Model(inputs, layers.Dense(CLASSES)(layers.GlobalAveragePooling2D()(x)))


def mobilenet() -> keras.Model:
    """MobileNetV2 of six blocks."""
    inputs = keras.Input((32, 32, 3))
    x = layers.ReLU(6.0)(conv_norm(inputs, 16, 3, "stem", 2))
    for number, (features, stride) in enumerate(((16, 1), (24, 2), (24, 1), (32, 2), (32, 1), (64, 2))):
        y = layers.ReLU(6.0)(conv_norm(x, 6 * x.shape[-1], 1, f"block{number}_expand"))
        y = layers.DepthwiseConv2D(3, stride, padding="same", use_bias=False)(y)
        y = layers.ReLU(6.0)(layers.BatchNormalization(name=f"block{number}_depthwise")(y))
        y = conv_norm(y, features, 1, f"block{number}_project")
        x = layers.Add()([x, y]) if x.shape == y.shape else y
    return keras.Model(inputs, layers.Dense(CLASSES)(layers.GlobalAveragePooling2D()(x)))


def preactivation() -> keras.Model:
    """ResNet-v2: BN and ReLU in front of each convolution."""
    inputs = keras.Input((32, 32, 3))
    x = layers.Conv2D(16, 3, padding="same")(inputs)
    for number in range(4):
        y = x
        for part in "ab":
            y = layers.ReLU()(layers.BatchNormalization(name=f"block{number}_{part}")(y))
            y = layers.Conv2D(16, 3, padding="same")(y)
        x = layers.Add()([x, y])
    x = layers.ReLU()(layers.BatchNormalization(name="last")(x))
    return keras.Model(inputs, layers.Dense(CLASSES)(layers.GlobalAveragePooling2D()(x)))


def application(name: str) -> Callable[[], keras.Model]:
    """A network of `keras.applications` that returns logits."""
    return lambda: getattr(keras.applications, name)(
        weights=None, input_shape=(64, 64, 3), classes=CLASSES, classifier_activation=None
    )


def made(build: Callable[[], keras.Model], norms: int, kept: tuple[str, ...] = ()) -> Subject:
    """The model with random numbers."""
    keras.utils.set_random_seed(0)
    model, rng = build(), np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            for name in ("gamma", "beta"):
                variable = getattr(layer, name)
                if variable is not None:
                    variable.assign(scales(name, tuple(variable.shape), rng))
    x = images(model.input_shape[1])
    model = with_random_statistics(bncli.recalibrate(model, [x]), {})
    return Subject(model, x, lambda x: model(x, training=False), norms=norms, kept=kept)


def kept_of_resnet50_v2() -> tuple[str, ...]:
    """The BN in front of each block and behind the last, which read a sum; the first reads the stem's convolution."""
    blocks = {2: 3, 3: 4, 4: 6, 5: 3}
    names = [f"conv{stage}_block{number + 1}_preact_bn" for stage, count in blocks.items() for number in range(count)]
    return (*names[1:], "post_bn")


NETWORKS: dict[str, Build] = {
    "Keras ResNet-18, narrow": lambda: made(resnet, 20),
    "Keras MobileNetV2, 6 blocks": lambda: made(mobilenet, 19),
    "Keras pre-activation, 4 blocks": lambda: made(
        preactivation, 9, (*(f"block{number}_a" for number in range(4)), "last")
    ),
    "keras.applications.MobileNetV2": lambda: made(application("MobileNetV2"), 52),
    "keras.applications.EfficientNetB0": lambda: made(application("EfficientNetB0"), 49),
    "keras.applications.ResNet50V2": lambda: made(application("ResNet50V2"), 49, kept_of_resnet50_v2()),
}
