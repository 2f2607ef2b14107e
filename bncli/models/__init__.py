"""Networks by name: the known ones, and the user's own.

To add a model: write ``models/NAME.py`` with a linen module called as ``model(x, train=bool)``, and add a line to
``MODELS``.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from bncli.config import ModelConfig
from bncli.errors import ModelError, UsageError
from bncli.models.cnn import CNN
from bncli.models.cnn import MIN_SIZE as CNN_MIN_SIZE
from bncli.models.custom import build_custom, hashable, is_custom, model_file_sha256, untrusted
from bncli.models.layers import INITIALIZERS, Dtype, NormFactory
from bncli.models.mlp import MLP
from bncli.models.network import BatchNormSettings, Network, Variables, as_network, observing
from bncli.models.resnet import ResNet18, ResNet20, ResNet50
from bncli.ops import BatchNorm

__all__ = [
    "MODELS",
    "BatchNormSettings",
    "Network",
    "Variables",
    "build_network",
    "build_own_network",
    "model_file_sha256",
    "observing",
    "relu_follows_every_bn",
    "untrusted",
]

# Up to this size a ResNet keeps the image's size in its stem, as the CIFAR variants do.
SMALL_IMAGE = 64


@dataclass(frozen=True)
class KnownModel:
    """One line of the registry.

    Attributes:
        build: makes the module from the keyword arguments all known models share.
        description: for ``--help`` and the README.
        default_dropout: rate where ``--dropout`` is not given.
        min_size: smallest image side in pixels.
        has_placement: whether ``--bn-placement post`` means something to it.
        has_stem: whether it is told if the images are small.
    """

    build: Callable[..., nn.Module]
    description: str
    default_dropout: float = 0.0
    min_size: int = 1
    has_placement: bool = False
    has_stem: bool = False


MODELS: dict[str, KnownModel] = {
    "cnn": KnownModel(CNN, "32-32-64-64-128-128 3×3 convolutions", 0.2, CNN_MIN_SIZE, has_placement=True),
    "mlp": KnownModel(MLP, "three dense layers of 100 sigmoid units", has_placement=True),
    "resnet18": KnownModel(ResNet18, "ResNet-18", has_stem=True),
    "resnet20": KnownModel(partial(ResNet20, small_images=True), "ResNet-20 for small images"),
    "resnet50": KnownModel(ResNet50, "ResNet-50 (v1.5)", has_stem=True),
}


def build_network(
    config: ModelConfig, *, num_classes: int, image_shape: tuple[int, int, int], precision: str = "float32"
) -> Network:
    """The network of ``config`` for images of ``image_shape`` = (H, W, C).

    Raises:
        UsageError: no such model, or an option the model does not have.
        ModelError: the images are too small for it, or the user's own module cannot be imported or built.
    """
    dtype = jnp.dtype(precision)
    if is_custom(config.name):
        return as_network(build_custom(config.name, config.args, num_classes=num_classes, dtype=dtype))
    known = _known_model(config.name)
    _check_fits(config, known, image_shape)
    return as_network(known.build(**_arguments(config, known, num_classes, image_shape, dtype)))


def build_own_network(name: str, args: Mapping[str, Any]) -> Network:
    """The user's own network as its code has it: what a run of bncli would set is left to the module's defaults.

    Raises:
        UsageError: the name is not one of the user's own models.
        ModelError: the module cannot be imported or built.
    """
    if not is_custom(name):
        raise UsageError(
            f"--model {name}: a checkpoint that bncli did not write is of a model of your own",
            remedy="Name its code as file.py:Class or package.module:Class.",
        )
    return as_network(build_custom(name, args))


def relu_follows_every_bn(config: ModelConfig) -> bool:
    """Whether each BN of the model is known to be read by a ReLU alone, so that a channel below zero is dead."""
    return config.name == "cnn" and config.bn and config.bn_placement == "pre"


def _known_model(name: str) -> KnownModel:
    if name in MODELS:
        return MODELS[name]
    close = difflib.get_close_matches(name, MODELS, n=1)
    raise UsageError(
        f"no model {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""),
        remedy=f"Choose one of {', '.join(MODELS)}, or your own as package.module:Class or file.py:Class.",
    )


def _check_fits(config: ModelConfig, known: KnownModel, image_shape: tuple[int, int, int]) -> None:
    if min(image_shape[:2]) < known.min_size:
        raise ModelError(
            f"{config.name} needs images of at least {known.min_size}×{known.min_size} pixels, "
            f"these have {image_shape[0]}×{image_shape[1]}",
            remedy=f"Add --image-size {known.min_size}, or choose another --model.",
        )
    if config.bn_placement == "post" and not known.has_placement:
        raise UsageError(
            f"--bn-placement post: {config.name} has its BN where its paper puts it, before the activation",
            remedy="Leave --bn-placement out, or use --model cnn or mlp.",
        )


def _arguments(
    config: ModelConfig, known: KnownModel, num_classes: int, image_shape: tuple[int, int, int], dtype: Dtype
) -> Mapping[str, Any]:
    arguments: dict[str, Any] = {
        "num_classes": num_classes,
        "norm": _norm_factory(config, dtype),
        "dropout": known.default_dropout if config.dropout is None else config.dropout,
        "kernel_init": INITIALIZERS[config.init],
        "dtype": dtype,
    }
    if known.has_placement:
        arguments["bn_placement"] = config.bn_placement
    if known.has_stem:
        arguments["small_images"] = max(image_shape[:2]) <= SMALL_IMAGE
    unknown = set(config.args) - {"features"}
    if unknown:
        raise UsageError(
            f"--model-arg: {config.name} has no argument {sorted(unknown)[0]!r}", remedy="It takes features=… only."
        )
    return {**arguments, **hashable(config.args)}


def _norm_factory(config: ModelConfig, dtype: Dtype) -> NormFactory | None:
    if not config.bn:
        return None
    return partial(BatchNorm, momentum=config.bn_momentum, epsilon=config.bn_epsilon, dtype=dtype)
