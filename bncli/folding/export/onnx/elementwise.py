"""Elementwise operations and casts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bncli.folding.export.onnx.builder import Attribute, Builder, Layout, Shape, tensor_type
from bncli.folding.trace.graph import Node

Spelling = Callable[[Builder, Node, list[str]], str]  # operand names -> name of the result


def elementwise(spelling: Spelling) -> Callable[[Builder, Node], None]:
    """A rule that brings the operands into one layout, writes the operation and keeps the layout."""

    def rule(builder: Builder, node: Node) -> None:
        layout, shape = common(builder, node)
        names = [builder.operand(value, layout) for value in node.inputs]
        builder.put(node.outputs[0], spelling(builder, node, names), layout, shape)

    return rule


def common(builder: Builder, node: Node) -> tuple[Layout, Shape]:
    """The layout of an elementwise result, and its shape before the final broadcast."""
    values = node.inputs
    layout = builder.layout(values)
    shapes = [builder.values[v].shape if v in builder.values else builder.array(v).shape for v in values]
    full = builder.shape(node.outputs[0])
    same = [all(not shape or str(shape[axis]) == "1" for shape in shapes) for axis in range(len(full))]
    return layout, tuple(1 if one else dim for one, dim in zip(same, full, strict=True))


def named(op_type: str, **attributes: Attribute) -> Callable[[Builder, Node], None]:
    """The rule of an operation that ONNX has under this name."""
    return elementwise(lambda builder, node, names: builder.emit(op_type, *names, **attributes))


def composed(*op_types: str) -> Callable[[Builder, Node], None]:
    """The rule of an operation that is a chain of ONNX operations, the innermost first."""

    def spell(builder: Builder, node: Node, names: list[str]) -> str:
        result = builder.emit(op_types[0], *names)
        for op_type in op_types[1:]:
            result = builder.emit(op_type, result)
        return result

    return elementwise(spell)


def alias(builder: Builder, node: Node) -> None:
    """Operations that change no value: each output is its operand."""
    for source, output in zip(node.inputs, node.outputs, strict=True):
        if source in builder.values:
            builder.values[output] = builder.values[source]
        else:
            layout = tuple(range(len(builder.shape(source))))
            builder.put(output, builder.operand(source, layout), layout, builder.array(source).shape)


def add(builder: Builder, node: Node) -> None:
    """x + k becomes the bias of the convolution or dense layer that makes x, if there is one."""
    for position, value in enumerate(node.inputs):
        other = node.inputs[1 - position]
        if not builder.is_constant(other) or builder.is_constant(value):
            continue
        if builder.absorb_bias(value, builder.array(other), other):
            builder.values[node.outputs[0]] = builder.values[value]
            return
    named("Add")(builder, node)


def maximum(builder: Builder, node: Node) -> None:
    """max(x, 0) is Relu, which runtimes fuse into a convolution."""
    _clipped(builder, node, "Max", lambda x, bound, number: ("Relu", x) if number == 0 else ("Clip", x, bound))


def minimum(builder: Builder, node: Node) -> None:
    """min(x, c) is Clip, which runtimes fuse into a convolution."""
    _clipped(builder, node, "Min", lambda x, bound, number: ("Clip", x, "", bound))


def _clipped(builder: Builder, node: Node, op_type: str, spell: Callable[[str, str, float], tuple[str, ...]]) -> None:
    layout, shape = common(builder, node)
    names = [builder.operand(value, layout) for value in node.inputs]
    for position, value in enumerate(node.inputs):
        number = builder.scalar(value)
        if number is not None:
            bound = builder.constant(np.asarray(number), value)
            op, *inputs = spell(names[1 - position], bound, number)
            builder.put(node.outputs[0], builder.emit(op, *inputs), layout, shape)
            return
    builder.put(node.outputs[0], builder.emit(op_type, *names), layout, shape)


def clamp(builder: Builder, node: Node) -> None:
    """clamp(low, x, high) = min(max(x, low), high)."""
    low, x, high = node.inputs
    layout = builder.layout([x] if x in builder.values else node.inputs)
    names = [builder.operand(value, layout) for value in (low, x, high)]
    result = builder.emit("Min", builder.emit("Max", names[1], names[0]), names[2])
    builder.put(node.outputs[0], result, layout)


def select(builder: Builder, node: Node) -> None:
    """select_n(which, a, b): a if `which` is false, b if it is true."""
    if len(node.inputs) != 3 or builder.graph.avals[node.inputs[0]].dtype != np.bool_:
        builder.refuse(node, "it selects by an integer, not by a boolean")
    which = elementwise(lambda builder, node, names: builder.emit("Where", names[0], names[2], names[1]))
    which(builder, node)


def cast(builder: Builder, node: Node) -> None:
    """A cast; nothing if ONNX has the same type for both."""
    source, target = (tensor_type(builder.graph.avals[v].dtype) for v in (node.inputs[0], node.outputs[0]))
    if source == target:
        alias(builder, node)
    else:
        named("Cast", to=target)(builder, node)


def integer_power(builder: Builder, node: Node) -> None:
    """x**y."""
    if node.params["y"] == 2:
        square(builder, node)
        return
    exponent = builder.constant(np.asarray(node.params["y"]), node.inputs[0])
    elementwise(lambda builder, node, names: builder.emit("Pow", names[0], exponent))(builder, node)


def round_(builder: Builder, node: Node) -> None:
    """Rounding to the nearest integer; ONNX rounds halves to even only."""
    if str(node.params["rounding_method"]).rpartition(".")[2] not in ("TO_NEAREST_EVEN", "1"):
        builder.refuse(node, "it rounds halves away from zero")
    named("Round")(builder, node)


def is_finite(builder: Builder, node: Node) -> None:
    """not (NaN or infinite)."""

    def spell(builder: Builder, node: Node, names: list[str]) -> str:
        either = builder.emit("Or", builder.emit("IsNaN", names[0]), builder.emit("IsInf", names[0]))
        return builder.emit("Not", either)

    elementwise(spell)(builder, node)


def _one(builder: Builder, node: Node) -> str:
    return builder.constant(np.asarray(1.0), node.inputs[0])


square = elementwise(lambda builder, node, names: builder.emit("Mul", names[0], names[0]))
erfc = elementwise(lambda builder, node, names: builder.emit("Sub", _one(builder, node), builder.emit("Erf", *names)))
expm1 = elementwise(lambda builder, node, names: builder.emit("Sub", builder.emit("Exp", *names), _one(builder, node)))
log1p = elementwise(lambda builder, node, names: builder.emit("Log", builder.emit("Add", *names, _one(builder, node))))
not_equal = composed("Equal", "Not")
rsqrt = composed("Sqrt", "Reciprocal")
