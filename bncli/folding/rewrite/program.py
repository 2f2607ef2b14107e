"""A fold, written down so that it can be carried out at any batch size.

Tracing a network again at another batch size gives the same operations with other shapes; the recipe says, by the
number of an operation or value, what to do differently. Numbers are in the variables, none in the recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from bncli.folding.rewrite.edits import Slot
from bncli.folding.trace.graph import DType, Graph, Node, Path, Pytree, Tensor


@dataclass(frozen=True)
class Term:
    """A variable in the shape in which it is multiplied or added: `[C]` as `[1, 1, 1, C]`."""

    path: Path
    shape: tuple[int, ...]


@dataclass(frozen=True)
class MultiplyAdd:
    """y = x·scale + shift; either may be absent."""

    scale: Term | None = None
    shift: Term | None = None

    @property
    def terms(self) -> tuple[Term, ...]:
        return tuple(term for term in (self.scale, self.shift) if term is not None)

    def __call__(self, x: Tensor, arrays: Mapping[Path, Tensor], dtype: DType) -> Tensor:
        """Computed in the widest of the types involved, delivered as `dtype`."""
        widest = jnp.result_type(x, *(arrays[term.path] for term in self.terms))
        y = x.astype(widest)
        if self.scale is not None:
            y = y * arrays[self.scale.path].astype(widest).reshape(self.scale.shape)
        if self.shift is not None:
            y = y + arrays[self.shift.path].astype(widest).reshape(self.shift.shape)
        return y.astype(dtype)


@dataclass(frozen=True)
class Weight:
    """A known operand, newly computed: the variable, and the operations that lead from it to the operand."""

    path: Path
    layout: tuple[int, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """The steps of a folded network, in the numbers of its trace.

    Args:
        steps: the operations to carry out, in order.
        chains: operation -> the value it stands for and what is left of the chain that ended there.
        weights: (operation, operand) -> the variable that replaces it.
        behind: value -> what to do to it before anything reads it.
        ahead: (operation, operand) -> what to do to the operand.
        spent: the trace's constants that no step reads any more, because folded numbers were computed from them.
    """

    steps: tuple[int, ...]
    chains: Mapping[int, tuple[int, MultiplyAdd]] = field(default_factory=dict)
    weights: Mapping[Slot, Weight] = field(default_factory=dict)
    behind: Mapping[int, tuple[MultiplyAdd, ...]] = field(default_factory=dict)
    ahead: Mapping[Slot, MultiplyAdd] = field(default_factory=dict)
    spent: frozenset[int] = frozenset()


def carry_out(recipe: Recipe, graph: Graph, arrays: Mapping[Path, Tensor], x: Tensor) -> Pytree:
    """The folded network's output for arrays or tracers: every step bound as JAX would bind it."""
    return _Run(recipe, graph, arrays, x).outputs()


class _Run:
    """One evaluation: the values computed so far."""

    def __init__(self, recipe: Recipe, graph: Graph, arrays: Mapping[Path, Tensor], x: Tensor) -> None:
        self.recipe = recipe
        self.graph = graph
        self.arrays = arrays
        self.values: dict[int, Tensor] = {value: arrays[path] for value, path in graph.leaves.items() if path in arrays}
        self.values.update(graph.constants)
        self.values[graph.input] = x

    def outputs(self) -> Pytree:
        for index in self.recipe.steps:
            node = self.graph.nodes[index]
            step: Callable[[Node], list[Tensor]] = self.chain if index in self.recipe.chains else self.operation
            for value, array in zip(node.outputs, step(node), strict=True):
                self.values[value] = self.finished(value, array)
        leaves = [self.values[value] for value in self.graph.outputs]
        return jax.tree_util.tree_unflatten(self.graph.out_tree, leaves)

    def chain(self, node: Node) -> list[Tensor]:
        source, add = self.recipe.chains[node.index]
        return [add(self.values[source], self.arrays, self.graph.avals[node.outputs[0]].dtype)]

    def operation(self, node: Node) -> list[Tensor]:
        return node.bind([self.operand(node, position) for position in range(len(node.inputs))])

    def operand(self, node: Node, position: int) -> Tensor:
        slot = (node.index, position)
        weight = self.recipe.weights.get(slot)
        array = self.values[node.inputs[position]] if weight is None else self.weight(weight)
        if slot not in self.recipe.ahead:
            return array
        return self.recipe.ahead[slot](array, self.arrays, array.dtype)

    def weight(self, weight: Weight) -> Tensor:
        array = self.arrays[weight.path]
        for index in weight.layout:
            (array,) = self.graph.nodes[index].bind([array])
        return array

    def finished(self, value: int, array: Tensor) -> Tensor:
        for add in self.recipe.behind.get(value, ()):
            array = add(array, self.arrays, array.dtype)
        return array
