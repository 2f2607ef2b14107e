"""The layers of the built-in networks whose weights other libraries publish, by role and place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial

from bncli.models import MODELS
from bncli.models.mobile import InvertedResidual, MobileNet, Stage
from bncli.models.resnet import BottleneckBlock, ResNet, ResNetBlock
from bncli.weights.names import MOBILE, RESNET

# Kinds of layers, which decide what arrays they have.
CONV, NORM, DENSE = "conv", "norm", "dense"


@dataclass(frozen=True)
class Layer:
    """A layer of a network.

    Attributes:
        role: see ``names``.
        kind: CONV, NORM or DENSE.
        place: the fields of its names.
    """

    role: str
    kind: str
    place: Mapping[str, int | str]


@dataclass(frozen=True)
class Known:
    """A network that other libraries have too.

    Attributes:
        architecture: RESNET or MOBILE.
        layers: in the order of the forward pass.
    """

    architecture: str
    layers: tuple[Layer, ...]


@cache
def known_networks() -> Mapping[str, Known]:
    """The networks by the name of their model."""
    return {name: known for name in MODELS if (known := _known(name)) is not None}


def _known(name: str) -> Known | None:
    build = MODELS[name].build
    settings = build.keywords if isinstance(build, partial) else {}
    if not isinstance(build, partial) or "small_images" in settings:
        return None
    if build.func is ResNet:
        return Known(RESNET, tuple(_resnet(settings["stage_sizes"], settings["block"])))
    if build.func is MobileNet:
        return Known(MOBILE, tuple(_mobile(settings["stages"])))
    return None


def _resnet(stage_sizes: tuple[int, ...], block: type[ResNetBlock] | type[BottleneckBlock]) -> Iterator[Layer]:
    convs = 3 if block is BottleneckBlock else 2
    yield from _pair("stem", {})
    number = 0
    for stage, depth in enumerate(stage_sizes):
        for index in range(depth):
            place = _place(block.__name__, stage, index, number) | {"convs": convs}
            for n in range(1, convs + 1):
                yield Layer(f"block.conv{n}", CONV, place)
                yield Layer(f"block.norm{n}", NORM, place)
            if index == 0 and (stage > 0 or block.expansion > 1):
                yield from _pair("block.shortcut", place)
            number += 1
    yield Layer("classifier", DENSE, {})


def _mobile(stages: tuple[Stage, ...]) -> Iterator[Layer]:
    yield from _pair("stem", {})
    number = 0
    for stage, settings in enumerate(stages):
        for index in range(settings.depth):
            place = _place(InvertedResidual.__name__, stage, index, number)
            block = "block" if settings.expansion > 1 else "plain"
            for part in ("widen", "depthwise", "narrow") if block == "block" else ("depthwise", "narrow"):
                yield from _pair(f"{block}.{part}", place)
            number += 1
    yield from _pair("head", {"behind": number + 1})
    yield Layer("classifier", DENSE, {})


def _pair(role: str, place: Mapping[str, int | str]) -> Iterator[Layer]:
    """A convolution and the BN behind it."""
    yield Layer(f"{role}.conv", CONV, place)
    yield Layer(f"{role}.norm", NORM, place)


def _place(block: str, stage: int, index: int, number: int) -> dict[str, int | str]:
    return {
        "block": block,
        "index": index,
        "number": number,
        "number1": number + 1,
        "stage": stage,
        "stage1": stage + 1,
    }
