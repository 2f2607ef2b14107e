"""Convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bncli.folding.export.onnx.builder import Builder
from bncli.folding.trace.graph import Node


def convolution(builder: Builder, node: Node) -> None:
    """Conv, or ConvTranspose if the input is dilated, as in a transposed convolution.

    ONNX needs NCHW inputs and OIHW kernels: the kernel is stored so, and the input is requested in that layout.
    """
    params = node.params
    if params["batch_group_count"] != 1 or not builder.is_constant(node.inputs[1]):
        grouped = params["batch_group_count"] != 1
        builder.refuse(node, "it has groups along the batch" if grouped else "its kernel depends on the input")
    numbers = params["dimension_numbers"]
    image = builder.whole(node.inputs[0], tuple(numbers.lhs_spec))
    kernel = np.broadcast_to(builder.array(node.inputs[1]), builder.shape(node.inputs[1])).transpose(numbers.rhs_spec)
    spell = _conv_transpose if any(dilation != 1 for dilation in params["lhs_dilation"]) else _conv
    name, takes_bias = spell(builder, node, image, kernel)
    builder.put(node.outputs[0], name, tuple(numbers.out_spec))
    if takes_bias:
        builder.await_bias(name, numbers.out_spec[1])


def _conv(builder: Builder, node: Node, image: str, kernel: np.ndarray) -> tuple[str, bool]:
    padding = node.params["padding"]
    # ONNX has no negative padding.
    image = _padded(builder, image, [(min(low, 0), min(high, 0)) for low, high in padding])
    name = builder.emit(
        "Conv",
        image,
        builder.constant(kernel, node.inputs[1]),
        strides=node.params["window_strides"],
        pads=[max(low, 0) for low, _ in padding] + [max(high, 0) for _, high in padding],
        dilations=node.params["rhs_dilation"],
        group=node.params["feature_group_count"],
    )
    return name, True


def _conv_transpose(builder: Builder, node: Node, image: str, kernel: np.ndarray) -> tuple[str, bool]:
    """A convolution of an input dilated by d is the transpose of a convolution with stride d.

    Its kernel is flipped in space, with inputs and outputs swapped within each group. Its padding is the reach of the
    kernel minus the original padding.
    """
    params = node.params
    groups, dilations = params["feature_group_count"], params["rhs_dilation"]
    features, inputs, *window = kernel.shape  # inputs of one group
    kernel = np.flip(kernel, tuple(range(2, kernel.ndim))).reshape(groups, features // groups, inputs, *window)
    kernel = kernel.swapaxes(1, 2).reshape(groups * inputs, features // groups, *window)
    reach = [dilation * (size - 1) for dilation, size in zip(dilations, window, strict=True)]
    beyond = [(r - low, r - high) for r, (low, high) in zip(reach, params["padding"], strict=True)]
    name = builder.emit(
        "ConvTranspose",
        image,
        builder.constant(kernel, node.inputs[1]),
        strides=params["lhs_dilation"],
        pads=[max(low, 0) for low, _ in beyond] + [max(high, 0) for _, high in beyond],
        dilations=dilations,
        group=groups,
    )
    wider = [(max(-low, 0), max(-high, 0)) for low, high in beyond]  # the values beyond are zeros
    finished = _strided(builder, _padded(builder, name, wider), params["window_strides"])
    return finished, finished == name  # the added zeros must not get a bias


def _padded(builder: Builder, name: str, padding: Sequence[tuple[int, int]]) -> str:
    """The value with zeros around its spatial axes; negative padding cuts."""
    if not any(low or high for low, high in padding):
        return name
    pads = builder.integers(0, 0, *(low for low, _ in padding), 0, 0, *(high for _, high in padding))
    return builder.emit("Pad", name, pads)


def _strided(builder: Builder, name: str, strides: Sequence[int]) -> str:
    if all(stride == 1 for stride in strides):
        return name
    axes = range(2, 2 + len(strides))
    parts = [0] * len(strides), [np.iinfo(np.int64).max] * len(strides), axes, strides
    return builder.emit("Slice", name, *(builder.integers(*part) for part in parts))
