"""The folded network as a program that runs at any batch size.

Tracing a network again at another batch size gives the same operations with other shapes. The program names, by the
number of an operation or value, the changes to make. All arrays are variables, none is in the program.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from bncli.folding.primitives.stuck import Slot
from bncli.folding.trace.graph import Constant, DType, Graph, Node, Path, Pytree


@dataclass(frozen=True)
class Term:
    """A variable and the shape in which it is multiplied or added: `[C]` as `[1, 1, 1, C]`."""

    path: Path
    shape: tuple[int, ...]


@dataclass(frozen=True)
class MultiplyAdd:
    """y = x·scale + shift; either may be absent."""

    scale: Term | None = None
    shift: Term | None = None

    @property
    def terms(self) -> tuple[Term, ...]:
        """Scale and shift, where present."""
        return tuple(term for term in (self.scale, self.shift) if term is not None)

    def __call__(self, x: Constant, arrays: Mapping[Path, Constant], dtype: DType) -> Constant:
        """y in `dtype`, computed in the widest of the dtypes involved."""
        widest = jnp.result_type(x, *(arrays[term.path] for term in self.terms))
        y: Constant = x.astype(widest)
        if self.scale is not None:
            y = y * arrays[self.scale.path].astype(widest).reshape(self.scale.shape)
        if self.shift is not None:
            y = y + arrays[self.shift.path].astype(widest).reshape(self.shift.shape)
        return y.astype(dtype)


@dataclass(frozen=True)
class Weight:
    """A new constant operand: the variable, the operations that lead from it to the operand, the operand's dtype."""

    path: Path
    layout: tuple[int, ...]
    dtype: DType


@dataclass(frozen=True)
class Program:
    """The steps of a folded network, in the numbers of its trace.

    Args:
        steps: the operations to run, in order.
        chains: operation -> the source of the chain that ended there, and the rest of that chain.
        weights: (operation, operand) -> the variable that replaces it.
        behind: value -> the multiply-adds to apply before anything reads it.
        ahead: (operation, operand) -> the multiply-add to apply to the operand.
        spent: the trace's constants that went into folded numbers and that no step reads any more.
        rewritten: output of each run of operations with BN in it -> the BN layers.
        moved: the values whose numbers are others than in the original network.
    """

    steps: tuple[int, ...]
    chains: Mapping[int, tuple[int, MultiplyAdd]] = field(default_factory=dict)
    weights: Mapping[Slot, Weight] = field(default_factory=dict)
    behind: Mapping[int, tuple[MultiplyAdd, ...]] = field(default_factory=dict)
    ahead: Mapping[Slot, MultiplyAdd] = field(default_factory=dict)
    spent: frozenset[int] = frozenset()
    rewritten: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    moved: frozenset[int] = frozenset()


def run(program: Program, graph: Graph, arrays: Mapping[Path, Constant], x: Pytree) -> Pytree:
    """The folded network's outputs for arrays or tracers."""
    return _Run(program, graph, arrays, x).outputs()


def values_of(program: Program, graph: Graph, arrays: Mapping[Path, Constant], x: Pytree) -> dict[int, Constant]:
    """Every value that the program computes on its way, by the number of the trace."""
    running = _Run(program, graph, arrays, x)
    running.outputs()
    return running.values


class _Run:
    """One run: the values computed so far."""

    def __init__(self, program: Program, graph: Graph, arrays: Mapping[Path, Constant], x: Pytree) -> None:
        self.program = program
        self.graph = graph
        self.arrays = arrays
        self.values: dict[int, Constant] = dict(graph.constants)
        self.values.update({value: arrays[path] for value, path in graph.leaves.items() if path in arrays})
        for value, leaf in zip(graph.inputs, jax.tree_util.tree_leaves(x), strict=True):
            self.values[value] = leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf)

    def outputs(self) -> Pytree:
        """Run all steps, bound as JAX would bind them."""
        for index in self.program.steps:
            node = self.graph.nodes[index]
            step: Callable[[Node], Sequence[Constant]] = self.chain if index in self.program.chains else self.operation
            for value, array in zip(node.outputs, step(node), strict=True):
                self.values[value] = self.finished(value, array)
        leaves = [self.values[value] for value in self.graph.outputs]
        return jax.tree_util.tree_unflatten(self.graph.out_tree, leaves)

    def chain(self, node: Node) -> Sequence[Constant]:
        """The output of a chain, from its source and its rest."""
        source, add = self.program.chains[node.index]
        return [add(self.values[source], self.arrays, self.graph.avals[node.outputs[0]].dtype)]

    def operation(self, node: Node) -> Sequence[Constant]:
        """The outputs of an operation, with its new operands."""
        return node.bind([self.operand(node, position) for position in range(len(node.inputs))])

    def operand(self, node: Node, position: int) -> Constant:
        """An operand: its new variable if it has one, and the multiply-add in front of it."""
        slot = (node.index, position)
        weight = self.program.weights.get(slot)
        array = self.values[node.inputs[position]] if weight is None else self.weight(weight)
        if slot not in self.program.ahead:
            return array
        return self.program.ahead[slot](array, self.arrays, array.dtype)

    def weight(self, weight: Weight) -> Constant:
        """The variable in the layout and the dtype in which the operation reads it."""
        array = self.arrays[weight.path]
        for index in weight.layout:
            (array,) = self.graph.nodes[index].bind([array])
        return array if array.dtype == weight.dtype else array.astype(weight.dtype)

    def finished(self, value: int, array: Constant) -> Constant:
        """The value with the multiply-adds behind it."""
        for add in self.program.behind.get(value, ()):
            array = add(array, self.arrays, array.dtype)
        return array
