"""Pools and reductions."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np

from bncli.folding.export.onnx.builder import Builder, Layout, tensor_type
from bncli.folding.export.onnx.layout import axis_groups, without
from bncli.folding.trace.graph import Node

Window = tuple[list[int], list[int], list[tuple[int, int]], list[int]]  # sizes, strides, padding, dilations by axis


def reduction(op_type: str, *, pool: str | None = None) -> Callable[[Builder, Node], None]:
    """The rule of a reduction; with `pool`, a reshape into windows and their reduction become one pool."""

    def rule(builder: Builder, node: Node) -> None:
        axes = tuple(node.params["axes"])
        if pool is not None and _pool_of_reshape(builder, node, axes, pool):
            return
        layout = builder.values[node.inputs[0]].layout
        name = builder.whole(node.inputs[0], layout)
        positions = builder.integers(*sorted(layout.index(axis) for axis in axes))
        name = builder.emit(op_type, name, positions, keepdims=0) if axes else name
        builder.put(node.outputs[0], name, without(layout, axes))

    return rule


def arg_reduction(op_type: str) -> Callable[[Builder, Node], None]:
    """The rule of argmax and argmin."""

    def rule(builder: Builder, node: Node) -> None:
        (axis,) = node.params["axes"]
        layout = builder.values[node.inputs[0]].layout
        name = builder.whole(node.inputs[0], layout)
        name = builder.emit(op_type, name, axis=layout.index(axis), keepdims=0)
        name = builder.emit("Cast", name, to=tensor_type(builder.graph.avals[node.outputs[0]].dtype))
        builder.put(node.outputs[0], name, without(layout, (axis,)))

    return rule


def cumulative_sum(builder: Builder, node: Node) -> None:
    """Cumulative sum along an axis."""
    layout = builder.values[node.inputs[0]].layout
    axis = builder.tensor(np.asarray(layout.index(node.params["axis"]), np.int64))
    name = builder.emit("CumSum", builder.whole(node.inputs[0], layout), axis, reverse=int(node.params["reverse"]))
    builder.put(node.outputs[0], name, layout)


def window_max(builder: Builder, node: Node) -> None:
    """Max-pooling, padded with −∞ as in JAX."""
    layout, name = _window(builder, node, "MaxPool")
    builder.put(node.outputs[0], name, layout)


def window_min(builder: Builder, node: Node) -> None:
    """min(x) = −max(−x)."""
    layout = _pool_layout(builder, node, node.params["window_dimensions"])
    name = builder.emit("Neg", builder.whole(node.inputs[0], layout))
    builder.put(node.outputs[0], builder.emit("Neg", _pool(builder, node, "MaxPool", name, layout)), layout)


def window_sum(builder: Builder, node: Node) -> None:
    """Sum of a window = its mean, padding included, times its size."""
    layout, name = _window(builder, node, "AveragePool")
    size = builder.constant(np.asarray(float(prod(node.params["window_dimensions"]))), node.inputs[0])
    builder.put(node.outputs[0], builder.emit("Mul", name, size), layout)


def _window(builder: Builder, node: Node, op_type: str) -> tuple[Layout, str]:
    layout = _pool_layout(builder, node, node.params["window_dimensions"])
    return layout, _pool(builder, node, op_type, builder.whole(node.inputs[0], layout), layout)


def _pool(builder: Builder, node: Node, op_type: str, name: str, layout: Layout) -> str:
    params, spatial = node.params, layout[2:]
    if any(dilation != 1 for dilation in params["base_dilation"]):
        builder.refuse(node, "its input is dilated")
    dilations = [params["window_dilation"][axis] for axis in spatial]
    if op_type == "AveragePool" and any(dilation != 1 for dilation in dilations):
        builder.refuse(node, "its window is dilated")
    padding = [params["padding"][axis] for axis in spatial]
    extra = {"dilations": dilations} if op_type == "MaxPool" else {"count_include_pad": 1}
    return builder.emit(
        op_type,
        name,
        kernel_shape=[params["window_dimensions"][axis] for axis in spatial],
        strides=[params["window_strides"][axis] for axis in spatial],
        pads=[low for low, _ in padding] + [high for _, high in padding],
        **extra,
    )


def _pool_layout(builder: Builder, node: Node, window: tuple[int, ...]) -> Layout:
    """A layout with two axes outside the window first; the value's own layout if it is one."""
    params = node.params
    idle = [
        axis
        for axis, size in enumerate(window)
        if size == 1 and params["window_strides"][axis] == 1 and tuple(params["padding"][axis]) == (0, 0)
    ]
    layout = builder.layout(node.inputs[:1])
    if len(layout) < 3 or len(idle) < 2:
        builder.refuse(node, "its window covers the batch or the channels")
    if set(layout[:2]) <= set(idle):
        return layout
    first = (idle[0], idle[-1])
    return (*first, *(axis for axis in range(len(layout)) if axis not in first))


def _pool_of_reshape(builder: Builder, node: Node, axes: tuple[int, ...], op_type: str) -> bool:
    """[B, H, W, C] -> [B, H/h, h, W/w, w, C] -> maximum or sum over h and w: one pool with stride (h, w)."""
    reshaped = node.inputs[0]
    split = builder.known.producer(reshaped)
    if split is None or split.name != "reshape" or split.params["dimensions"] or builder.readers[reshaped] > 1:
        return False
    before, after = builder.shape(split.inputs[0]), builder.shape(reshaped)
    groups = axis_groups(before, after)
    if groups is None or any(len(first) != 1 or len(last) not in (1, 2) for first, last in groups):
        return False
    if {last[1] for _, last in groups if len(last) == 2} != set(axes):
        return False
    window = [after[last[1]] if len(last) == 2 else 1 for _, last in groups]
    idle = [axis for axis, size in enumerate(window) if size == 1]
    layout = builder.values[split.inputs[0]].layout
    if len(idle) < 2 or len(window) < 3:
        return False
    if not set(layout[:2]) <= set(idle):
        layout = (idle[0], idle[-1], *(axis for axis in range(len(window)) if axis not in (idle[0], idle[-1])))
    sizes = [window[axis] for axis in layout[2:]]
    name = builder.emit(op_type, builder.whole(split.inputs[0], layout), kernel_shape=sizes, strides=sizes)
    if op_type == "AveragePool":
        size = builder.constant(np.asarray(float(prod(window))), node.inputs[0])
        name = builder.emit("Mul", name, size)
    builder.put(node.outputs[0], name, layout)
    return True


def top_k(builder: Builder, node: Node) -> None:
    """The k largest values along an axis, in descending order, and their positions; of equal ones, the first."""
    axis = node.params.get("axis", len(builder.shape(node.inputs[0])) - 1)
    layout = builder.layout(node.inputs)
    name, k = builder.whole(node.inputs[0], layout), builder.integers(node.params["k"])
    values, positions = builder.emit_all("TopK", name, k, count=2, axis=layout.index(axis), largest=1, sorted=1)
    builder.put(node.outputs[0], values, layout)
    dtype = tensor_type(builder.graph.avals[node.outputs[1]].dtype)
    builder.put(node.outputs[1], builder.emit("Cast", positions, to=dtype), layout)
