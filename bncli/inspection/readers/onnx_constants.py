"""The constants of an ONNX graph: its stored tensors, and what a few operators compute from constants alone.

Exporters write a BN layer's arrays as initializers, or behind nodes such as Constant, Cast and Squeeze. NumPy does the
arithmetic, on arrays of bounded size. Anything else counts as computed at run time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path as FilePath
from typing import TYPE_CHECKING

import numpy as np

from bncli.errors import CheckpointError
from bncli.inspection.readers.arrays import MAX_VALUES, Stored, bfloat16_bits
from bncli.process.files import open_regular

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, NodeProto, TensorProto

# ONNX's number -> (dtype, the protobuf field of the values if raw_data is empty).
_DTYPES = {
    1: ("float32", "float_data"),
    6: ("int32", "int32_data"),
    7: ("int64", "int64_data"),
    10: ("float16", "int32_data"),
    11: ("float64", "double_data"),
    16: ("bfloat16", "int32_data"),
}
_INTEGERS = ("int32", "int64")
_EXTERNAL = 1
# Nodes between a stored tensor and a BN layer; exporters write one or two.
MAX_CHAIN = 32
DEFAULT_DOMAIN = ("", "ai.onnx")

Arrays = list[np.ndarray]
Attributes = Mapping[str, "AttributeProto"]
Operator = Callable[[Arrays, Attributes], np.ndarray]


class NotConstant(Exception):  # noqa: N818 - an answer, not an error
    """A value that cannot be computed before run time; the message says why."""


class Constants:
    """The values of a graph that do not depend on its input.

    Args:
        tensors: stored tensors by name, the graph's own and those of the graphs around it.
        makers: the nodes that make other values, by the value's name.
        directory: the only place where external data may lie.
    """

    def __init__(
        self, tensors: Mapping[str, TensorProto], makers: Mapping[str, NodeProto], directory: FilePath
    ) -> None:
        self.tensors = tensors
        self.makers = makers
        self.directory = directory
        self._known: dict[str, Stored | NotConstant] = {}

    def within(self, graph: GraphProto) -> Constants:
        """The constants of a graph inside this one, which can use this one's as well."""
        return Constants(
            {**self.tensors, **{tensor.name: tensor for tensor in graph.initializer}},
            {**self.makers, **{name: node for node in graph.node for name in node.output if name}},
            self.directory,
        )

    def stored(self, name: str, *, depth: int = 0) -> Stored:
        """A constant, read or computed.

        Raises:
            NotConstant: its value depends on the input, or on an operator that is not evaluated here.
            CheckpointError: a tensor is damaged, or lies outside of the directory.
        """
        if name not in self._known:  # once each: a value may be used twice, and its operands four times
            try:
                self._known[name] = self._found(name, depth=depth)
            except NotConstant as reason:
                self._known[name] = reason
        known = self._known[name]
        if isinstance(known, NotConstant):
            raise known
        return known

    def _found(self, name: str, *, depth: int) -> Stored:
        if depth > MAX_CHAIN:
            raise NotConstant(f"computed by a chain of more than {MAX_CHAIN} nodes")
        if name in self.tensors:
            return _stored_tensor(self.tensors[name], self.directory)
        node = self.makers.get(name)
        if node is None:
            raise NotConstant("an input of the model")
        attributes = {attribute.name: attribute for attribute in node.attribute}
        if node.op_type == "Constant" and "value" in attributes:
            return _stored_tensor(attributes["value"].t, self.directory)
        if node.op_type == "Identity" and len(node.input) == 1:
            return self.stored(node.input[0], depth=depth + 1)
        operator = OPERATORS.get(node.op_type) if node.domain in DEFAULT_DOMAIN else None
        if operator is None:
            raise NotConstant(f"computed by {node.op_type[:40]}")
        operands = [self._operand(given, depth=depth + 1) for given in node.input if given]
        return _computed(_evaluated(operator, node, operands, attributes))

    def _operand(self, name: str, *, depth: int) -> np.ndarray:
        stored = self.stored(name, depth=depth)
        _check_size(stored.size)
        return np.asarray(stored.read())


def _computed(array: np.ndarray) -> Stored:
    return Stored(array.shape, array.dtype.name, lambda: array)


def _evaluated(operator: Operator, node: NodeProto, operands: Arrays, attributes: Attributes) -> np.ndarray:
    try:
        with np.errstate(all="ignore"):
            array = np.asarray(operator(operands, attributes))
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise NotConstant(f"computed by a malformed {node.op_type[:40]}: {str(error)[:80]}") from None
    _check_size(array.size)
    return array


def _check_size(size: int) -> None:
    if size > MAX_VALUES:
        raise NotConstant(f"computed from {size:,} values, which is too large for BN")


def _constant(operands: Arrays, attributes: Attributes) -> np.ndarray:
    for name, dtype in (("value_floats", np.float32), ("value_ints", np.int64)):
        if name in attributes:
            values = attributes[name]
            return np.array(values.floats if name == "value_floats" else values.ints, dtype)
    if "value_float" in attributes:
        return np.array(attributes["value_float"].f, np.float32)
    return np.array(attributes["value_int"].i, np.int64)


def _constant_of_shape(operands: Arrays, attributes: Attributes) -> np.ndarray:
    shape = tuple(int(length) for length in operands[0])
    _check_size(math.prod(shape))
    if "value" not in attributes:
        return np.zeros(shape, np.float32)
    value = attributes["value"].t
    return np.broadcast_to(np.asarray(_stored_tensor(value, FilePath()).read()).reshape(()), shape)


def _cast(operands: Arrays, attributes: Attributes) -> np.ndarray:
    dtype, _ = _DTYPES[attributes["to"].i]
    # NumPy has no bfloat16, of which float32 is a superset.
    return operands[0].astype("float32" if dtype == "bfloat16" else dtype)


def _axes(operands: Arrays, attributes: Attributes) -> tuple[int, ...] | None:
    """The axes of Squeeze and Unsqueeze: an attribute before opset 13, then an input."""
    if "axes" in attributes:
        return tuple(attributes["axes"].ints)
    return tuple(int(axis) for axis in operands[1]) if len(operands) > 1 else None


def _unsqueeze(operands: Arrays, attributes: Attributes) -> np.ndarray:
    axes = _axes(operands, attributes)
    if axes is None:
        raise ValueError("no axes")
    return np.expand_dims(operands[0], axes)


def _reshape(operands: Arrays, attributes: Attributes) -> np.ndarray:
    array, shape = operands[0], [int(length) for length in operands[1]]
    copied = [array.shape[axis] if length == 0 else length for axis, length in enumerate(shape)]
    return array.reshape(copied)


def _expand(operands: Arrays, attributes: Attributes) -> np.ndarray:
    array, shape = operands[0], tuple(int(length) for length in operands[1])
    shape = np.broadcast_shapes(array.shape, shape)
    _check_size(math.prod(shape))
    return np.broadcast_to(array, shape)


def _concat(operands: Arrays, attributes: Attributes) -> np.ndarray:
    return np.concatenate(operands, axis=attributes["axis"].i)


def _transpose(operands: Arrays, attributes: Attributes) -> np.ndarray:
    return np.transpose(operands[0], tuple(attributes["perm"].ints) if "perm" in attributes else None)


def _elementwise(function: Callable[..., np.ndarray]) -> Operator:
    def apply(operands: Arrays, attributes: Attributes) -> np.ndarray:
        _check_size(math.prod(np.broadcast_shapes(*(array.shape for array in operands))))
        return function(*operands)

    return apply


OPERATORS: Mapping[str, Operator] = {
    "Abs": _elementwise(np.abs),
    "Add": _elementwise(np.add),
    "Cast": _cast,
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Div": _elementwise(np.divide),
    "Exp": _elementwise(np.exp),
    "Expand": _expand,
    "Flatten": lambda operands, attributes: operands[0].reshape(1, -1),
    "Mul": _elementwise(np.multiply),
    "Neg": _elementwise(np.negative),
    "Reciprocal": _elementwise(np.reciprocal),
    "Reshape": _reshape,
    "Shape": lambda operands, attributes: np.array(operands[0].shape, np.int64),
    "Sqrt": _elementwise(np.sqrt),
    "Squeeze": lambda operands, attributes: np.squeeze(operands[0], _axes(operands, attributes)),
    "Sub": _elementwise(np.subtract),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}


def _stored_tensor(tensor: TensorProto, directory: FilePath) -> Stored:
    dtype, field = _DTYPES.get(tensor.data_type, (f"of ONNX's data type {tensor.data_type}", ""))
    shape = tuple(tensor.dims)
    return Stored(shape, dtype, partial(_values, tensor, dtype, field, shape, directory))


def _values(tensor: TensorProto, dtype: str, field: str, shape: tuple[int, ...], directory: FilePath) -> np.ndarray:
    """The tensor's values.

    Raises:
        CheckpointError: their number does not match the shape.
    """
    if not field:
        raise NotConstant(f"a tensor {dtype}")
    bits = np.dtype("<u2") if dtype == "bfloat16" else np.dtype(dtype).newbyteorder("<")
    if tensor.data_location == _EXTERNAL:
        values = np.frombuffer(_external(tensor, directory, math.prod(shape) * bits.itemsize), bits)
    elif tensor.raw_data:
        values = np.frombuffer(tensor.raw_data, bits)
    else:
        values = np.array(getattr(tensor, field))
        values = values.astype("<u2").view(bits) if field == "int32_data" and dtype not in _INTEGERS else values
    if values.size != math.prod(shape):
        raise CheckpointError(
            f"{tensor.name[:80]!r} has {values.size} values, but shape {list(shape)}", remedy="Restore it from a copy."
        )
    return (bfloat16_bits(values) if dtype == "bfloat16" else values).reshape(shape)


def _external(tensor: TensorProto, directory: FilePath, length: int) -> bytes:
    """The bytes of a tensor that lies in another file.

    Raises:
        CheckpointError: the file lies outside of the model's directory, or is too short.
    """
    entries: dict[str, str] = {entry.key: entry.value for entry in tensor.external_data}
    location = directory / entries.get("location", "")
    offset = int(entries.get("offset", 0))
    if not location.resolve().is_relative_to(directory.resolve()) or location.is_symlink():
        raise CheckpointError(
            f"{tensor.name[:80]!r} lies in {entries.get('location', '')[:80]!r}, outside of the model's directory, and "
            "is not read",
            remedy="Put the file beside the model, or save the model in one file.",
        )
    if not location.is_file() or not 0 <= offset <= location.stat().st_size - length:
        raise CheckpointError(f"{location} is missing or too short", remedy="Copy it along with the model.")
    with open_regular(location) as file:
        file.seek(offset)
        return file.read(length)


def graphs(graph: GraphProto, around: Constants) -> Iterable[tuple[GraphProto, Constants]]:
    """The graph and those in its If, Loop and Scan nodes, each with the constants that it can use."""
    constants = around.within(graph)
    yield graph, constants
    for node in graph.node:
        for attribute in node.attribute:
            for body in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                yield from graphs(body, constants)
