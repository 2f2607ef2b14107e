"""The names that each library gives to the layers of a network: one table a library and architecture.

A layer has a role, such as ``block.conv1``, and a place. A table gives the name of its module by its role. Fields in
braces are filled from the place: ``{stage}`` and ``{index}`` count from 0, ``{stage1}`` from 1, ``{number}`` counts the
blocks of the whole network from 0, ``{number1}`` from 1. ``{convs}`` is the number of convolutions in a block, and
``{behind}`` the number after the last block, from 1.

To read the weights of another library: write its table, and add a row to ``LIBRARIES``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

Names: TypeAlias = Mapping[str, str]  # role -> name of the module

RESNET, MOBILE = "resnet", "mobile"

# Of bncli's own modules, with slashes between the parts.
OURS: Mapping[str, Names] = {
    RESNET: {
        "stem.conv": "conv_init",
        "stem.norm": "BatchNorm_0",
        "block.conv1": "{block}_{number}/Conv_0",
        "block.norm1": "{block}_{number}/BatchNorm_0",
        "block.conv2": "{block}_{number}/Conv_1",
        "block.norm2": "{block}_{number}/BatchNorm_1",
        "block.conv3": "{block}_{number}/Conv_2",
        "block.norm3": "{block}_{number}/BatchNorm_2",
        "block.shortcut.conv": "{block}_{number}/conv_proj",
        "block.shortcut.norm": "{block}_{number}/BatchNorm_{convs}",
        "classifier": "Dense_0",
    },
    MOBILE: {
        "stem.conv": "conv_stem",
        "stem.norm": "BatchNorm_0",
        "plain.depthwise.conv": "{block}_{number}/Conv_0",
        "plain.depthwise.norm": "{block}_{number}/BatchNorm_0",
        "plain.narrow.conv": "{block}_{number}/Conv_1",
        "plain.narrow.norm": "{block}_{number}/BatchNorm_1",
        "block.widen.conv": "{block}_{number}/Conv_0",
        "block.widen.norm": "{block}_{number}/BatchNorm_0",
        "block.depthwise.conv": "{block}_{number}/Conv_1",
        "block.depthwise.norm": "{block}_{number}/BatchNorm_1",
        "block.narrow.conv": "{block}_{number}/Conv_2",
        "block.narrow.norm": "{block}_{number}/BatchNorm_2",
        "head.conv": "conv_head",
        "head.norm": "BatchNorm_1",
        "classifier": "Dense_0",
    },
}

_RESNET: Names = {
    "stem.conv": "conv1",
    "stem.norm": "bn1",
    **{f"block.conv{n}": f"layer{{stage1}}.{{index}}.conv{n}" for n in (1, 2, 3)},
    **{f"block.norm{n}": f"layer{{stage1}}.{{index}}.bn{n}" for n in (1, 2, 3)},
    "block.shortcut.conv": "layer{stage1}.{index}.downsample.0",
    "block.shortcut.norm": "layer{stage1}.{index}.downsample.1",
    "classifier": "fc",
}
_TORCHVISION_MOBILENET: Names = {
    "stem.conv": "features.0.0",
    "stem.norm": "features.0.1",
    "plain.depthwise.conv": "features.{number1}.conv.0.0",
    "plain.depthwise.norm": "features.{number1}.conv.0.1",
    "plain.narrow.conv": "features.{number1}.conv.1",
    "plain.narrow.norm": "features.{number1}.conv.2",
    "block.widen.conv": "features.{number1}.conv.0.0",
    "block.widen.norm": "features.{number1}.conv.0.1",
    "block.depthwise.conv": "features.{number1}.conv.1.0",
    "block.depthwise.norm": "features.{number1}.conv.1.1",
    "block.narrow.conv": "features.{number1}.conv.2",
    "block.narrow.norm": "features.{number1}.conv.3",
    "head.conv": "features.{behind}.0",
    "head.norm": "features.{behind}.1",
    "classifier": "classifier.1",
}
_TIMM_MOBILE: Names = {
    "stem.conv": "conv_stem",
    "stem.norm": "bn1",
    "plain.depthwise.conv": "blocks.{stage}.{index}.conv_dw",
    "plain.depthwise.norm": "blocks.{stage}.{index}.bn1",
    "plain.narrow.conv": "blocks.{stage}.{index}.conv_pw",
    "plain.narrow.norm": "blocks.{stage}.{index}.bn2",
    "block.widen.conv": "blocks.{stage}.{index}.conv_pw",
    "block.widen.norm": "blocks.{stage}.{index}.bn1",
    "block.depthwise.conv": "blocks.{stage}.{index}.conv_dw",
    "block.depthwise.norm": "blocks.{stage}.{index}.bn2",
    "block.narrow.conv": "blocks.{stage}.{index}.conv_pwl",
    "block.narrow.norm": "blocks.{stage}.{index}.bn3",
    "head.conv": "conv_head",
    "head.norm": "bn2",
    "classifier": "classifier",
}
_EFFICIENTNET_PYTORCH: Names = {
    "stem.conv": "_conv_stem",
    "stem.norm": "_bn0",
    "plain.depthwise.conv": "_blocks.{number}._depthwise_conv",
    "plain.depthwise.norm": "_blocks.{number}._bn1",
    "plain.narrow.conv": "_blocks.{number}._project_conv",
    "plain.narrow.norm": "_blocks.{number}._bn2",
    "block.widen.conv": "_blocks.{number}._expand_conv",
    "block.widen.norm": "_blocks.{number}._bn0",
    "block.depthwise.conv": "_blocks.{number}._depthwise_conv",
    "block.depthwise.norm": "_blocks.{number}._bn1",
    "block.narrow.conv": "_blocks.{number}._project_conv",
    "block.narrow.norm": "_blocks.{number}._bn2",
    "head.conv": "_conv_head",
    "head.norm": "_bn1",
    "classifier": "_fc",
}


@dataclass(frozen=True)
class Library:
    """The names of one library, or of several that agree.

    Attributes:
        architecture: the networks that they are for.
        names: of the modules, with dots between the parts.
    """

    architecture: str
    names: Names


# The first whose names fit a file counts.
LIBRARIES: Mapping[str, Library] = {
    "torchvision or timm": Library(RESNET, _RESNET),
    "torchvision": Library(MOBILE, _TORCHVISION_MOBILENET),
    "timm": Library(MOBILE, _TIMM_MOBILE),
    "efficientnet-pytorch": Library(MOBILE, _EFFICIENTNET_PYTORCH),
}
