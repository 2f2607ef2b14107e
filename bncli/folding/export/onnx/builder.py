"""The ONNX graph under construction.

A value keeps the layout in which its operation produced it. A Transpose is written only before an operation that needs
another layout, so there is none between two NCHW operations. An axis along which a value is constant may have length 1
until an operation needs it whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import jax.export
import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from bncli.errors import FoldError
from bncli.folding.affine import compact, varying
from bncli.folding.trace.constants import Constants, is_float
from bncli.folding.trace.graph import DType, Graph, Node

Layout = tuple[int, ...]  # axis i of the ONNX value is axis layout[i] of the traced one
Dim: TypeAlias = Any  # an int, or the symbol of the batch size, whose class JAX does not publish
Shape = tuple[Dim, ...]
Attribute = int | float | str | Sequence[int]


@dataclass(frozen=True)
class Value:
    """A value that depends on the network's input.

    Args:
        name: its name in the ONNX graph.
        layout: the traced axis at each position.
        shape: in traced order; 1 where it is still to be broadcast.
    """

    name: str
    layout: Layout
    shape: Shape


class Builder:
    """The nodes and constants written so far, and the questions and commands of the rules.

    Args:
        graph: the trace.
        known: the values that do not depend on the input.
        input_names: input -> its name in the ONNX graph.
    """

    def __init__(self, graph: Graph, known: Constants, input_names: Mapping[int, str]) -> None:
        self.graph = graph
        self.known = known
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, TensorProto] = {}
        self.values: dict[int, Value] = {}
        self.readers = Counter(value for node in graph.live() for value in node.inputs) + Counter(graph.outputs)
        self.input_names = input_names
        self._used_names = Counter(input_names.values())
        self._cache: dict[object, str] = {}
        self._awaiting_bias: dict[str, tuple[NodeProto, int]] = {}
        for value, name in input_names.items():
            shape = graph.avals[value].shape
            self.values[value] = Value(name, tuple(range(len(shape))), shape)
        self._batched = next((value for value in self.values.values() if value.shape), None)

    # --- questions of a rule -----------------------------------------------------------------------------------------

    def shape(self, value: int) -> Shape:
        """The traced shape of a value; the batch axis may be symbolic."""
        return self.graph.avals[value].shape

    def is_constant(self, value: int) -> bool:
        """True if the value does not depend on the input, so its numbers can be stored."""
        return value not in self.values

    def array(self, value: int) -> np.ndarray:
        """A constant's values, floats as float64; axes along which they are all equal have length 1."""
        node = self.known.producer(value)
        if node is None or not is_symbolic(self.shape(value)):
            return compact(np.asarray(self.known.array(value)))
        assert node.name == "broadcast_in_dim", node.name  # no other operation with a symbolic shape is a constant
        array = self.array(node.inputs[0])
        shape = [1] * len(self.shape(value))
        for axis, size in zip(node.params["broadcast_dimensions"], array.shape, strict=True):
            shape[axis] = size
        return array.reshape(shape)

    def scalar(self, value: int) -> float | None:
        """The value of a constant with a single value; else None."""
        array = self.array(value) if self.is_constant(value) else None
        return float(array.reshape(())) if array is not None and array.size == 1 else None

    def layout(self, values: Sequence[int]) -> Layout:
        """The layout in which to combine values: that of the largest value that depends on the input."""
        found = [self.values[value] for value in values if value in self.values]
        return max(found, key=lambda value: (len(value.shape), sum(dim != "1" for dim in map(str, value.shape)))).layout

    def operand(self, value: int, layout: Layout) -> str:
        """The name of a value in a layout; axes that are to be broadcast may have length 1."""
        if value in self.values:
            return self._in_layout(self.values[value], layout)
        array = self.array(value)
        return self.constant(array.transpose(layout) if array.ndim else array, value)

    def whole(self, value: int, layout: Layout) -> str:
        """The name of a value in a layout, at its full shape."""
        shape = self.shape(value)
        if value not in self.values and not is_symbolic(shape):
            return self.constant(np.broadcast_to(self.array(value), shape).transpose(layout), value)
        name = self.operand(value, layout)
        present = self.values[value].shape if value in self.values else None
        if present == shape:
            return name
        return self.emit("Expand", name, self.shape_tensor(tuple(shape[axis] for axis in layout)))

    def refuse(self, node: Node, why: str) -> NoReturn:
        """Raise FoldError for an operation that ONNX cannot express."""
        raise FoldError(
            f"cannot export {node.name} to ONNX: {why}" + (f" (in {node.scope})" if node.scope else ""),
            remedy="export to stablehlo instead, which can express any JAX program",
        )

    # --- commands of a rule ----------------------------------------------------------------------------------------

    def emit(self, op_type: str, *inputs: str, **attributes: Attribute) -> str:
        """Append a node with one output and return the output's name; equal nodes are written once."""
        key = (op_type, inputs, tuple((k, _hashable(v)) for k, v in sorted(attributes.items())))
        if key not in self._cache:
            name = self._unique(op_type)
            self.nodes.append(helper.make_node(op_type, list(inputs), [name], name=name, **attributes))  # type: ignore[arg-type]
            self._cache[key] = name
        return self._cache[key]

    def emit_all(self, op_type: str, *inputs: str, count: int, **attributes: Attribute) -> tuple[str, ...]:
        """Append a node with several outputs and return their names."""
        names = tuple(self._unique(op_type) for _ in range(count))
        self.nodes.append(helper.make_node(op_type, list(inputs), names, name=names[0], **attributes))  # type: ignore[arg-type]
        return names

    def put(self, value: int, name: str, layout: Layout, shape: Shape | None = None) -> None:
        """Record the ONNX value of a traced value; `shape` is given if axes are still to be broadcast."""
        self.values[value] = Value(name, layout, self.shape(value) if shape is None else shape)

    def constant(self, array: np.ndarray, value: int) -> str:
        """The name of a constant, in the dtype of the traced value."""
        dtype = _numpy_dtype(self.graph.avals[value].dtype)
        return self.tensor(np.asarray(array, dtype), self._title(value))

    def tensor(self, array: np.ndarray, title: str = "constant") -> str:
        """The name of a constant; equal arrays are stored once."""
        array = np.ascontiguousarray(array).reshape(array.shape)
        key = (array.dtype.name, array.shape, array.tobytes())
        if key not in self._cache:
            name = self._unique(title)
            self.constants[name] = numpy_helper.from_array(array, name)
            self._cache[key] = name
        return self._cache[key]

    def integers(self, *numbers: int) -> str:
        """The name of a constant int64 vector, the type of shapes and axes."""
        return self.tensor(np.array(numbers, np.int64))

    def shape_tensor(self, shape: Shape) -> str:
        """The name of an int64 vector with this shape; the batch size comes from the first input that has one."""
        if not is_symbolic(shape):
            return self.integers(*shape)
        if self._batched is None or any(is_symbolic((dim,)) and dim != self._batched.shape[0] for dim in shape):
            raise FoldError(f"cannot export a value of shape {shape} to ONNX", remedy="export to stablehlo instead")
        size = self.emit("Shape", self._batched.name, start=0, end=1)
        parts = [size if is_symbolic((dim,)) else self.integers(dim) for dim in shape]
        return self.emit("Concat", *parts, axis=0)

    # --- biases ----------------------------------------------------------------------------------------------------

    def await_bias(self, name: str, axis: int) -> None:
        """Let the node that makes `name` absorb a bias along this traced axis, if one is added later."""
        node = next(node for node in reversed(self.nodes) if name in node.output)
        self._awaiting_bias[name] = (node, axis)

    def absorb_bias(self, value: int, bias: np.ndarray, dtype_of: int) -> bool:
        """True if the operation that makes a value absorbed the bias; impossible if others read the value too."""
        name = self.values[value].name
        node, axis = self._awaiting_bias.get(name, (None, -1))
        if node is None or self.readers[value] > 1 or not varying(bias) <= {axis}:
            return False
        del self._awaiting_bias[name]
        width = self.shape(value)[axis]
        node.input.append(self.constant(np.broadcast_to(bias.reshape(-1), (width,)), dtype_of))
        self._cache = {key: made for key, made in self._cache.items() if made != name}  # the node has changed
        return True

    # --- private ---------------------------------------------------------------------------------------------------

    def _in_layout(self, value: Value, layout: Layout) -> str:
        if value.layout == layout:
            return value.name
        return self.emit("Transpose", value.name, perm=[value.layout.index(axis) for axis in layout])

    def _title(self, value: int) -> str:
        """The variable that a constant comes from, if there is exactly one."""
        paths = sorted(self.known.provenance.get(value, frozenset()))
        return "/".join(paths[0]) if len(paths) == 1 else "constant"

    def _unique(self, title: str) -> str:
        number = self._used_names[title]
        self._used_names[title] += 1
        return f"{title}_{number}" if number or title[0].isupper() or title == "constant" else title


def is_symbolic(shape: Shape) -> bool:
    """True if a dimension is symbolic."""
    return any(jax.export.is_symbolic_dim(dim) for dim in shape)


def tensor_type(dtype: DType) -> int:
    """ONNX's number for a dtype; bfloat16 becomes float32, because few runtimes compute in it.

    Raises:
        FoldError: ONNX has no such dtype.
    """
    return helper.np_dtype_to_tensor_dtype(_numpy_dtype(dtype))


def _numpy_dtype(dtype: DType) -> np.dtype:
    if jax.numpy.issubdtype(dtype, jax.dtypes.extended):
        raise FoldError(f"cannot export values of type {dtype} to ONNX", remedy="export to stablehlo instead")
    return np.dtype(np.float32) if is_float(dtype) and np.dtype(dtype).name == "bfloat16" else np.dtype(dtype)


def _hashable(attribute: Attribute) -> int | float | str | tuple[int, ...]:
    return tuple(attribute) if isinstance(attribute, Sequence) and not isinstance(attribute, str) else attribute
