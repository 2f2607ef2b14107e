"""Networks by name: the built-in ones, and the user's own.

To add a model: write ``models/NAME.py`` with a linen module called as ``model(x, train=bool)``, and add a line to
``MODELS``.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from bncli.config.json_types import JSON
from bncli.config.settings import ModelConfig
from bncli.errors import ModelError, UsageError
from bncli.frameworks.linen import LinenNetwork, as_network
from bncli.frameworks.network import Network
from bncli.models.cnn import CNN
from bncli.models.convnet import ConvNet
from bncli.models.custom import build_custom, hashable, is_custom
from bncli.models.fastnet import FastNet
from bncli.models.layers import INITIALIZERS, PADDINGS, Initializer, Layer, NormFactory
from bncli.models.mlp import MLP
from bncli.models.mobile import (
    EfficientNetLite0,
    EfficientNetLite1,
    EfficientNetLite2,
    EfficientNetLite3,
    EfficientNetLite4,
    MobileNetV2,
)
from bncli.models.resnet import ResNet18, ResNet20, ResNet34, ResNet50, ResNet101, ResNet152
from bncli.ops import BatchNorm, GhostBatchNorm, GroupNorm

# For images up to this size, a ResNet's stem keeps the size, as in the CIFAR variants.
SMALL_IMAGE = 64


@dataclass(frozen=True)
class KnownModel:
    """One line of the registry.

    Attributes:
        build: makes the module from the keyword arguments that all built-in models share.
        description: for ``--help`` and the documentation.
        features: default of ``--model-arg features=…``: one number, or one per layer or stage.
        default_dropout: default of ``--dropout``.
        halves: True if each of its stages halves the image.
        has_placement: True if it supports ``--bn-placement post``.
        has_stem: True if it takes ``small_images``.
        has_padding: True if it takes ``padding``.
        whitens: True if its first layer whitens patches of the training images (``whitening.py``).
    """

    build: Callable[..., nn.Module]
    description: str
    features: tuple[int, ...] | int
    default_dropout: float = 0.0
    halves: bool = False
    has_placement: bool = False
    has_stem: bool = False
    has_padding: bool = False
    whitens: bool = False

    @property
    def arguments(self) -> tuple[str, ...]:
        """The names that ``--model-arg`` takes."""
        others = {"padding": self.has_padding, "small_images": self.has_stem}
        return ("features", *(name for name, is_taken in others.items() if is_taken))

    def min_size(self, features: tuple[int, ...] | int) -> int:
        """The smallest image side in pixels for a network with these features."""
        return 2 ** len(features) if self.halves and not isinstance(features, int) else 1


def _resnet(build: Callable[..., nn.Module], description: str) -> KnownModel:
    return KnownModel(build, description, 64, has_stem=True, has_padding=True)


def _lite(build: Callable[..., nn.Module], number: int, dropout: float) -> KnownModel:
    return KnownModel(build, f"EfficientNet-Lite{number}", 32, dropout, has_padding=True)


MODELS: dict[str, KnownModel] = {
    "cnn": KnownModel(CNN, "32-32-64-64-128-128 3×3 convolutions", (32, 64, 128), 0.2, halves=True, has_placement=True),
    "convnet": KnownModel(
        ConvNet,
        "six 3×3 convolutions under a pooled head, for images of any size",
        (32, 64, 128),
        0.2,
        has_placement=True,
    ),
    "efficientnet_lite0": _lite(EfficientNetLite0, 0, 0.2),
    "efficientnet_lite1": _lite(EfficientNetLite1, 1, 0.2),
    "efficientnet_lite2": _lite(EfficientNetLite2, 2, 0.3),
    "efficientnet_lite3": _lite(EfficientNetLite3, 3, 0.3),
    "efficientnet_lite4": _lite(EfficientNetLite4, 4, 0.3),
    "fastnet": KnownModel(
        FastNet, "whitened patches and three wide stages, for accuracy in few epochs", (64, 256, 256), whitens=True
    ),
    "mlp": KnownModel(MLP, "three dense layers of 100 sigmoid units", (100, 100, 100), has_placement=True),
    "mobilenet_v2": KnownModel(MobileNetV2, "MobileNetV2", 32, 0.2, has_padding=True),
    "resnet101": _resnet(ResNet101, "ResNet-101 (v1.5)"),
    "resnet152": _resnet(ResNet152, "ResNet-152 (v1.5)"),
    "resnet18": _resnet(ResNet18, "ResNet-18"),
    "resnet20": KnownModel(partial(ResNet20, small_images=True), "ResNet-20 for small images", 16),
    "resnet34": _resnet(ResNet34, "ResNet-34"),
    "resnet50": _resnet(ResNet50, "ResNet-50 (v1.5)"),
}


def build_network(
    config: ModelConfig,
    *,
    num_classes: int,
    image_shape: tuple[int, int, int],
    precision: str = "float32",
    sha256: str | None = None,
) -> Network:
    """The network of ``config`` for images of ``image_shape`` = (H, W, C).

    Args:
        config: name and settings of the model.
        num_classes: of the data.
        image_shape: (H, W, C).
        precision: dtype of the computation.
        sha256: SHA-256 that the user's own code must have to run; None if the user has named it.

    Raises:
        UsageError: there is no such model, or it does not have one of the options.
        ModelError: the images are too small, or the user's own module cannot be imported or built.
    """
    dtype = jnp.dtype(precision)
    if is_custom(config.name):
        _check_custom(config)
        return build_custom(config.name, config.args, num_classes=num_classes, dtype=dtype, sha256=sha256)
    known = _known_model(config.name)
    _check_arguments(config, known)
    _check_fits(config, known, image_shape)
    return as_network(known.build(**_arguments(config, known, num_classes, image_shape, dtype)))


def with_local_statistics(network: Network, num_devices: int, *, name: str) -> Network:
    """The network whose BN normalizes over each device's share of the batch (``--bn-sync local``).

    Args:
        network: of ``build_network``.
        num_devices: that share the batch.
        name: of the model.

    Raises:
        UsageError: it has no BN, or its own code decides what BN normalizes over.
    """
    norm = getattr(network.module, "norm", None) if isinstance(network, LinenNetwork) else None
    if not isinstance(network, LinenNetwork) or not isinstance(norm, partial) or norm.func is not BatchNorm:
        raise UsageError(
            f"--bn-sync local: {name} has no BN whose statistics could be those of a device", remedy="Leave it out."
        )
    return replace(network, module=network.module.clone(norm=_local(norm, num_devices)))


@lru_cache
def _local(norm: NormFactory, num_devices: int) -> NormFactory:
    """The same factory for the same one: see ``_factory``."""
    return partial(norm, parts=num_devices)


def build_own_network(name: str, args: Mapping[str, JSON], *, sha256: str | None = None) -> Network:
    """The user's own network with the defaults of its code, where a run of bncli would set class count and dtype.

    Args:
        name: file.py:Class or package.module:Class.
        args: fields of the module.
        sha256: as in ``build_network``.

    Raises:
        UsageError: the name is not one of the user's own models.
        ModelError: the module cannot be imported or built.
    """
    if not is_custom(name):
        raise UsageError(
            f"--model {name}: a checkpoint that bncli did not write needs a model of your own",
            remedy="Name its code as file.py:Class or package.module:Class.",
        )
    return build_custom(name, args, sha256=sha256)


def relu_follows_every_bn(config: ModelConfig) -> bool:
    """True if only a ReLU reads each BN of the model, so that a channel below zero is dead."""
    return config.name in ("cnn", "convnet") and config.has_bn and config.bn_placement == "pre"


def whitens_patches(config: ModelConfig) -> bool:
    """True if the first layer of the model whitens patches of the training images."""
    return config.name in MODELS and MODELS[config.name].whitens


def _known_model(name: str) -> KnownModel:
    if name in MODELS:
        return MODELS[name]
    close = difflib.get_close_matches(name, MODELS, n=1)
    raise UsageError(
        f"no model {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""),
        remedy=f"Choose one of {', '.join(MODELS)}, or your own as package.module:Class or file.py:Class.",
    )


def _check_custom(config: ModelConfig) -> None:
    if config.norm is not None or config.ghost_batch is not None:
        raise UsageError(
            f"--norm {config.normalization}: {config.name} is your own model, whose code decides its normalization",
            remedy="Leave it out, or pass an argument of the model with --model-arg.",
        )


def _check_arguments(config: ModelConfig, known: KnownModel) -> None:
    unknown = sorted(set(config.args) - set(known.arguments))
    if unknown:
        taken = ", ".join(f"{name}=…" for name in known.arguments)
        raise UsageError(f"--model-arg: {config.name} has no argument {unknown[0]!r}", remedy=f"It takes {taken} only.")
    for name, choices in (("padding", PADDINGS), ("small_images", (True, False))):
        if name in config.args and config.args[name] not in choices:
            raise UsageError(
                f"--model-arg {name}={config.args[name]}: no such choice",
                remedy=f"Choose {' or '.join(json.dumps(choice) for choice in choices)}.",
            )
    features = config.args.get("features", known.features)
    many = not isinstance(known.features, int)
    listed = features if many else [features]
    if not isinstance(listed, list | tuple) or not listed or any(type(n) is not int or n < 1 for n in listed):
        usual = str(list(known.features)).replace(" ", "") if isinstance(known.features, tuple) else known.features
        raise UsageError(
            f"--model-arg features={features}: {config.name} takes "
            + ("a list of positive whole numbers" if many else "a positive whole number"),
            remedy=f"Write it like the usual one: --model-arg 'features={usual}'",
        )


def _check_fits(config: ModelConfig, known: KnownModel, image_shape: tuple[int, int, int]) -> None:
    min_size = known.min_size(config.args.get("features", known.features))
    if min(image_shape[:2]) < min_size:
        raise ModelError(
            f"{config.name} needs images of at least {min_size}×{min_size} pixels, "
            f"these have {image_shape[0]}×{image_shape[1]}",
            remedy=f"Add --image-size {min_size}, or choose another --model"
            + (" or fewer --model-arg features." if config.args else "."),
        )
    if config.bn_placement == "post" and not known.has_placement:
        raise UsageError(
            f"--bn-placement post: {config.name} has its BN where its paper puts it, before the activation",
            remedy="Leave --bn-placement out, or use --model cnn or mlp.",
        )


def _arguments(
    config: ModelConfig, known: KnownModel, num_classes: int, image_shape: tuple[int, int, int], dtype: np.dtype
) -> Mapping[str, object]:
    arguments: dict[str, object] = {
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
    return {**arguments, **hashable(config.args)}


def _norm_factory(config: ModelConfig, dtype: np.dtype) -> NormFactory | None:
    if config.normalization == "none":
        return None
    return _factory(config.normalization, config.bn_momentum, config.bn_epsilon, dtype)


@lru_cache
def _factory(normalization: str, momentum: float, epsilon: float, dtype: np.dtype) -> NormFactory:
    """The same factory for the same settings, so that equal networks compare equal and share compiled programs."""
    kind, _, size = normalization.partition(":")
    if kind in ("group", "layer"):
        return partial(_per_example, groups=1 if kind == "layer" else None, epsilon=epsilon, dtype=dtype)
    if kind == "ghost":
        return partial(GhostBatchNorm, ghost_size=int(size), momentum=momentum, epsilon=epsilon, dtype=dtype)
    return partial(BatchNorm, momentum=momentum, epsilon=epsilon, dtype=dtype)


def _per_example(
    *,
    groups: int | None,
    epsilon: float,
    dtype: np.dtype,
    use_running_average: bool,
    scale_init: Initializer = nn.initializers.ones,
) -> Layer:
    """A layer of group normalization, which is the same in train and in eval mode."""
    return GroupNorm(groups=groups, epsilon=epsilon, dtype=dtype, scale_init=scale_init)
