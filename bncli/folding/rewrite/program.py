"""The folded network as a program that runs at any batch size.

Tracing a network again at another batch size gives the same operations with other shapes. The program names, by the
number of an operation or value, the changes to make. All arrays are variables, none is in the program.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jax import lax

from bncli.folding.primitives.stuck import Slot
from bncli.folding.trace.graph import (
    Constant,
    DType,
    Graph,
    Node,
    Path,
    Pytree,
    Structure,
    body_of,
    scan_operands,
)


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
class Loop:
    """A scan with a folded body.

    Args:
        leaves: operand of the scan -> the variable that it is in the body.
        reads: the operands that the folded body reads.
        outputs: the outputs of the scan that are read, by position.
        rows: variable of the body -> the array with a row for each iteration; `shared`: the array that all share.
        body: the program of an iteration.
        structure: the operations of its trace, and `numbers`: the constants that went into folded numbers. Another
            batch size must not change either.
    """

    leaves: Mapping[int, Path]
    reads: frozenset[int]
    outputs: tuple[int, ...]
    rows: Mapping[Path, Weight]
    shared: Mapping[Path, Weight]
    body: Program
    structure: Structure
    numbers: Mapping[int, bytes]

    def trace(self, node: Node) -> Graph:
        """The body of the scan."""
        return body_of(node, self.leaves, self.outputs)

    def fits(self, node: Node) -> bool:
        """True if the scan runs the operations that were folded, with the numbers that were folded."""
        graph = self.trace(node)
        same = graph.structure == self.structure and graph.numbers(self.numbers) == self.numbers
        return same and fits(self.body, graph)


@dataclass(frozen=True)
class Program:
    """The steps of a folded network, in the numbers of its trace.

    Args:
        steps: the operations to run, in order.
        chains: operation -> the source of the chain that ended there, and the rest of that chain.
        weights: (operation, operand) -> the variable that replaces it.
        behind: value -> the multiply-adds to apply before anything reads it.
        ahead: (operation, operand) -> the multiply-add to apply to the operand.
        loops: scan -> its folded body.
        spent: the trace's constants that went into folded numbers and that no step reads any more.
        rewritten: output of each run of operations with BN in it -> the BN layers.
        moved: the values whose numbers are others than in the original network.
    """

    steps: tuple[int, ...]
    chains: Mapping[int, tuple[int, MultiplyAdd]] = field(default_factory=dict)
    weights: Mapping[Slot, Weight] = field(default_factory=dict)
    behind: Mapping[int, tuple[MultiplyAdd, ...]] = field(default_factory=dict)
    ahead: Mapping[Slot, MultiplyAdd] = field(default_factory=dict)
    loops: Mapping[int, Loop] = field(default_factory=dict)
    spent: frozenset[int] = frozenset()
    rewritten: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    moved: frozenset[int] = frozenset()


def fits(program: Program, graph: Graph) -> bool:
    """True if the loops of the trace, whose operations are the program's, also run the operations that were folded."""
    return all(loop.fits(graph.nodes[index]) for index, loop in program.loops.items())


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
            for value, array in zip(self.made(node), self.step(node)(node), strict=True):
                self.values[value] = self.finished(value, array)
        leaves = [self.values[value] for value in self.graph.outputs]
        return jax.tree_util.tree_unflatten(self.graph.out_tree, leaves)

    def step(self, node: Node) -> Callable[[Node], Sequence[Constant]]:
        """The way to run an operation."""
        if node.index in self.program.chains:
            return self.chain
        return self.loop if node.index in self.program.loops else self.operation

    def made(self, node: Node) -> Sequence[int]:
        """The outputs that running the operation gives: all, but for a loop those that are read."""
        loop = self.program.loops.get(node.index)
        return node.outputs if loop is None else [node.outputs[position] for position in loop.outputs]

    def loop(self, node: Node) -> Sequence[Constant]:
        """The outputs of a scan, from its folded body."""
        loop = self.program.loops[node.index]
        graph, (shared, carry, rows) = loop.trace(node), scan_operands(node)
        given = {position: self.operand(node, position) for position in loop.reads}
        same = {path: self.weight(weight) for path, weight in loop.shared.items()}

        def iteration(
            carried: list[Constant], row: tuple[dict[int, Constant], dict[Path, Constant]]
        ) -> tuple[list[Constant], list[Constant]]:
            here = {**{p: given[p] for p in shared if p in given}, **dict(zip(carry, carried, strict=True)), **row[0]}
            arrays = {path: here[p] for p, path in loop.leaves.items() if p in here} | same | row[1]
            made: list[Constant] = run(loop.body, graph, arrays, [here[value] for value in graph.inputs])
            return made[: len(carry)], made[len(carry) :]

        by_row = {path: self.weight(weight) for path, weight in loop.rows.items()}
        last, stacked = lax.scan(
            iteration,
            [given[position] for position in carry],
            ({position: given[position] for position in rows if position in given}, by_row),
            length=node.params["length"],
            reverse=node.params["reverse"],
            unroll=node.params["unroll"],
        )
        return [*last, *stacked]

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
