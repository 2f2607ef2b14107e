"""What can be computed before any example is seen: known values, in float64, on the host.

BN's arithmetic is done here at twice the precision of the weights and rounded once at the end. A cast between float
types is skipped on purpose: float64 stands for the exact number. What the table lacks is computed by JAX itself in
the network's own precision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from bncli.folding.affine import Array
from bncli.folding.trace.graph import DType, Graph, Node, Path, Tensor

Evaluate = Callable[[Node, list[Any]], Any]


def is_float(dtype: DType) -> bool:
    """Whether the dtype is a real floating-point type, bfloat16 included."""
    return bool(jnp.issubdtype(dtype, jnp.floating))


class Known:
    """Known values by number, evaluated when asked for.

    Args:
        graph: the traced network.
        arrays: variable path -> its array.
    """

    def __init__(self, graph: Graph, arrays: Mapping[Path, Any]) -> None:
        self._graph = graph
        self._producers = graph.producers
        self._values: dict[int, Any] = {}
        self._sources = {value: arrays[path] for value, path in graph.leaves.items()} | dict(graph.constants)
        self.provenance = _provenance(graph)

    def __contains__(self, value: int) -> bool:
        return value in self._graph.known

    def array(self, value: int) -> Array:
        """The value in float64 (integers, booleans and keys: as they are)."""
        for node in self._missing(value):
            self._values.update(zip(node.outputs, self._evaluate(node), strict=True))
        return self._read(value)

    def producer(self, value: int) -> Node | None:
        """The operation that makes the value, if one does."""
        return self._producers.get(value)

    def _read(self, value: int) -> Tensor:
        if value not in self._values:
            source = self._sources[value]
            self._values[value] = np.asarray(source, np.float64) if is_float(source.dtype) else source
        return self._values[value]

    def _missing(self, value: int) -> list[Node]:
        """The nodes still to be evaluated for this value, in order."""
        found: dict[int, Node] = {}
        stack = [value]
        while stack:
            node = self._producers.get(stack.pop())
            if node is not None and node.index not in found and node.outputs[0] not in self._values:
                found[node.index] = node
                stack.extend(node.inputs)
        return [found[index] for index in sorted(found)]

    def _evaluate(self, node: Node) -> list[Any]:
        operands = [self._read(value) for value in node.inputs]
        if node.name in FLOAT64 and self._in_floats(node):
            return [FLOAT64[node.name](node, operands)]
        dtypes = [self._graph.avals[value].dtype for value in node.inputs]
        native = [_as(operand, dtype) for operand, dtype in zip(operands, dtypes, strict=True)]
        return [np.asarray(out, np.float64) if is_float(out.dtype) else out for out in node.bind(native)]

    def _in_floats(self, node: Node) -> bool:
        """Whether the operation's arithmetic is in floats throughout: integers divide and overflow otherwise."""
        values = node.outputs if node.name == "convert_element_type" else node.inputs
        return all(is_float(self._graph.avals[value].dtype) for value in values)


def _provenance(graph: Graph) -> dict[int, frozenset[Path]]:
    """Known value -> the variables it was computed from."""
    paths: dict[int, frozenset[Path]] = {value: frozenset((path,)) for value, path in graph.leaves.items()}
    for node in graph.nodes:
        if graph.known.issuperset(node.outputs):
            union = frozenset[Path]().union(*(paths.get(value, frozenset()) for value in node.inputs))
            paths.update(dict.fromkeys(node.outputs, union))
    return paths


def _as(operand: Tensor, dtype: DType) -> Tensor:
    return jnp.asarray(operand, dtype) if is_float(dtype) else operand


def _convert(node: Node, operands: list[Tensor]) -> Tensor:
    return np.asarray(operands[0], np.float64)


def _broadcast(node: Node, operands: list[Tensor]) -> Tensor:
    operand = np.asarray(operands[0])
    shape = [1] * len(node.params["shape"])
    for axis, size in zip(node.params["broadcast_dimensions"], operand.shape, strict=True):
        shape[axis] = size
    return np.broadcast_to(operand.reshape(shape), node.params["shape"])


def _slice(node: Node, operands: list[Tensor]) -> Tensor:
    starts, limits = node.params["start_indices"], node.params["limit_indices"]
    strides = node.params["strides"] or (1,) * len(starts)
    return operands[0][tuple(map(slice, starts, limits, strides))]


def _integer_pow(node: Node, operands: list[Tensor]) -> Tensor:
    return operands[0] ** float(node.params["y"]) if is_float(operands[0].dtype) else operands[0] ** node.params["y"]


def _elementwise(function: Callable[..., Any]) -> Evaluate:
    def evaluate(_: Node, operands: list[Tensor]) -> Tensor:
        with np.errstate(all="ignore"):  # a negative variance gives NaN here and is refused by name later
            return np.asarray(function(*operands))

    return evaluate


def _reduction(function: Callable[..., Any]) -> Evaluate:
    return lambda node, operands: np.asarray(function(operands[0], axis=tuple(node.params["axes"])))


def _rsqrt(operand: Array) -> Array:
    return 1.0 / np.sqrt(operand)


# primitive -> its value in NumPy; only what leaves float64 in float64.
FLOAT64: dict[str, Evaluate] = {
    "abs": _elementwise(np.abs),
    "add": _elementwise(np.add),
    "broadcast_in_dim": _broadcast,
    "concatenate": lambda node, operands: np.concatenate(operands, axis=node.params["dimension"]),
    "convert_element_type": _convert,
    "copy": lambda node, operands: operands[0],
    "copy_p": lambda node, operands: operands[0],
    "div": _elementwise(np.divide),
    "exp": _elementwise(np.exp),
    "integer_pow": _integer_pow,
    "log": _elementwise(np.log),
    "max": _elementwise(np.maximum),
    "min": _elementwise(np.minimum),
    "mul": _elementwise(np.multiply),
    "neg": _elementwise(np.negative),
    "pow": _elementwise(np.power),
    "reduce_max": _reduction(np.max),
    "reduce_min": _reduction(np.min),
    "reduce_sum": _reduction(np.sum),
    "reshape": lambda node, operands: np.reshape(operands[0], node.params["new_sizes"]),
    "rev": lambda node, operands: np.flip(operands[0], tuple(node.params["dimensions"])),
    "rsqrt": _elementwise(_rsqrt),
    "slice": _slice,
    "sqrt": _elementwise(np.sqrt),
    "square": _elementwise(np.square),
    "squeeze": lambda node, operands: np.squeeze(operands[0], tuple(node.params["dimensions"])),
    "stop_gradient": lambda node, operands: operands[0],
    "sub": _elementwise(np.subtract),
    "tanh": _elementwise(np.tanh),
    "transpose": lambda node, operands: np.transpose(operands[0], node.params["permutation"]),
}
