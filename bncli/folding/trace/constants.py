"""The values that need no input, evaluated on the host in float64.

BN's arithmetic is done here at twice the precision of the weights and rounded once at the end. A cast to a wider float
type changes nothing here, because float64 stands for the exact number. A cast to a narrower one is part of the value: a
kernel rounded to bfloat16 is another kernel. JAX computes it, like any value without a NumPy counterpart, in the
network's own precision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from bncli.folding.affine import Array
from bncli.folding.primitives import primitive_of
from bncli.folding.primitives.layout import CAST
from bncli.folding.trace.graph import Constant, DType, Graph, Node, Path

SIZE = "dim_as_value"  # the operation that makes a number of a symbolic size
Provenance: TypeAlias = Mapping[int, frozenset[Path]]
_float_info: Callable[[DType], jnp.finfo] = jnp.finfo  # JAX leaves its constructor untyped


def is_float(dtype: DType) -> bool:
    """True if the dtype is a real floating-point type, bfloat16 included."""
    return bool(jnp.issubdtype(dtype, jnp.floating))


def narrows(source: DType, target: DType) -> bool:
    """True if a cast between the two float types loses digits or range."""
    wide, narrow = _float_info(source), _float_info(target)
    return bool(narrow.nmant < wide.nmant or narrow.maxexp < wide.maxexp or narrow.minexp > wide.minexp)


def is_coarse(dtype: DType) -> bool:
    """True if a float type holds fewer digits than bfloat16: float8, float4."""
    return is_float(dtype) and bool(_float_info(dtype).nmant < _float_info(np.dtype(jnp.bfloat16)).nmant)


class Constants:
    """The constant values of a graph by number, each evaluated when it is first read.

    Args:
        graph: the traced network.
        arrays: variable path -> its array.
        sources: leaf -> the variables it was computed from; by default each is a variable itself.

    Attributes:
        provenance: constant value -> the variables it was computed from.
    """

    def __init__(self, graph: Graph, arrays: Mapping[Path, Constant], *, sources: Provenance | None = None) -> None:
        self._graph = graph
        self._arrays = arrays
        self._producers = graph.producers
        self._values: dict[int, Constant] = {}
        self._computable = _computable(graph)
        itself = {value: frozenset((path,)) for value, path in graph.leaves.items()}
        self.provenance: Provenance = _provenance(graph, itself if sources is None else sources)

    def __contains__(self, value: int) -> bool:
        return value in self._computable

    def array(self, value: int) -> Array:
        """The value in float64; integers and booleans in their own type."""
        return np.asarray(self.raw(value))

    def raw(self, value: int) -> Constant:
        """The same, or a PRNG key, which no NumPy array holds."""
        for node in self._missing(value):
            self._values.update(zip(node.outputs, self._evaluate(node), strict=True))
        return self._read(value)

    def producer(self, value: int) -> Node | None:
        """The operation that makes the value, if one does."""
        return self._producers.get(value)

    def _read(self, value: int) -> Constant:
        if value not in self._values:
            constant = self._graph.constants.get(value)
            source = self._arrays[self._graph.leaves[value]] if constant is None else constant
            self._values[value] = _widened(source)
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

    def _evaluate(self, node: Node) -> list[Constant]:
        """The node's outputs, by NumPy if the record of its primitive has all it needs, else by JAX."""
        operands = [self._read(value) for value in node.inputs]
        record = primitive_of(node.name)
        if record.value is not None and self._is_exact(node) and record.unknown_parameter(node.params) is None:
            return [record.value(record.seen(node.params), [np.asarray(operand) for operand in operands])]
        dtypes = [self._graph.avals[value].dtype for value in node.inputs]
        return [_widened(output) for output in node.bind(list(map(_native, operands, dtypes)))]

    def _is_exact(self, node: Node) -> bool:
        """True if float64 stands for all numbers of the node.

        It does not for integers, which divide and overflow in their own way, nor where the node rounds on purpose.
        """
        ins, outs = ([self._graph.avals[value].dtype for value in side] for side in (node.inputs, node.outputs))
        return all(map(is_float, (*ins, *outs))) and not (primitive_of(node.name) is CAST and narrows(ins[0], outs[0]))


def _computable(graph: Graph) -> frozenset[int]:
    """The known values that no symbolic size is in, neither as a length nor as a number."""
    known = {value for value in (*graph.leaves, *graph.constants) if not _is_symbolic(graph, value)}
    for node in graph.nodes:
        is_known = graph.known.issuperset(node.outputs) and known.issuperset(node.inputs)
        if is_known and node.name != SIZE and not any(_is_symbolic(graph, value) for value in node.outputs):
            known.update(node.outputs)
    return frozenset(known)


def _is_symbolic(graph: Graph, value: int) -> bool:
    return any(jax.export.is_symbolic_dim(size) for size in graph.avals[value].shape)


def _provenance(graph: Graph, sources: Provenance) -> dict[int, frozenset[Path]]:
    paths = dict(sources)
    for node in graph.nodes:
        if graph.known.issuperset(node.outputs):
            union = frozenset[Path]().union(*(paths.get(value, frozenset()) for value in node.inputs))
            paths.update(dict.fromkeys(node.outputs, union))
    return paths


def _widened(array: Constant) -> Constant:
    return np.asarray(array, np.float64) if is_float(array.dtype) else array


def _native(operand: Constant, dtype: DType) -> jax.Array:
    """The operand as the network has it."""
    return jnp.asarray(operand, dtype) if is_float(dtype) else jnp.asarray(operand)
