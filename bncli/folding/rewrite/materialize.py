"""The folded network from the committed edits: names and dtypes for the new arrays, and the program that reads them."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from bncli.errors import FoldError
from bncli.folding.affine import Affine, Array
from bncli.folding.primitives import primitive_of
from bncli.folding.primitives.layout import CAST
from bncli.folding.primitives.stuck import Slot
from bncli.folding.rewrite.edits import EditedGraph
from bncli.folding.rewrite.program import MultiplyAdd, Program, Term, Weight
from bncli.folding.search.norms import unboxed
from bncli.folding.search.search import Plan
from bncli.folding.trace.constants import is_float, narrows
from bncli.folding.trace.graph import Constant, DType, Node, Path


def materialize(plan: Plan, arrays: Mapping[Path, Constant]) -> tuple[Program, dict[Path, Constant]]:
    """The program of the folded network and every array it reads; arrays that no fold changes are the same objects.

    Raises:
        FoldError: a new number does not fit into its dtype; the message names the layer.
    """
    network = plan.network
    chains = {index: network.affine(index) for index in {*network.edits.chains, *plan.keepers}}
    steps, read = _needed(network, chains)
    kept = {path: arrays[path] for value, path in network.graph.leaves.items() if value in read}
    writer = _Writer(network, plan.keepers, kept)
    weights = {slot: writer.weight(slot, array) for slot, array in network.edits.weights.items()}
    program = Program(
        steps=steps,
        weights=weights,
        chains={index: (network.chains[index].source, writer.chain(index, affine)) for index, affine in chains.items()},
        behind=_drop_empty({value: writer.behind(value) for value in {**network.edits.biases, **network.edits.behind}}),
        ahead={slot: writer.left(slot, a) for slot, a in network.edits.ahead.items() if not a.is_identity},
        spent=_spent(network, read),
        rewritten={chain.output: chain.norms for chain in network.chains.values() if chain.norms},
        moved=frozenset(network.edits.moved),
    )
    return program, writer.arrays


def _needed(network: EditedGraph, chains: Mapping[int, Affine]) -> tuple[tuple[int, ...], set[int]]:
    """The operations that the folded network still runs, and the values it still reads."""
    needed = set(network.graph.outputs)
    steps = []
    for node in reversed(network.graph.nodes):
        if not node.effectful and needed.isdisjoint(node.outputs):
            continue
        steps.append(node.index)
        if node.index in chains:
            needed.add(network.chains[node.index].source)
        else:
            needed.update(v for i, v in enumerate(node.inputs) if (node.index, i) not in network.edits.weights)
    return tuple(reversed(steps)), needed


def _spent(network: EditedGraph, read: set[int]) -> frozenset[int]:
    """The constants that the original network reads and the folded one does not, without PRNG keys."""
    values = {value for node in network.live for value in node.inputs}
    return frozenset(v for v in values - read if isinstance(network.graph.constants.get(v), np.ndarray))


def _drop_empty(behind: dict[int, tuple[MultiplyAdd, ...]]) -> dict[int, tuple[MultiplyAdd, ...]]:
    return {value: adds for value, adds in behind.items() if adds}


class _Writer:
    """The arrays of the folded network so far. Each new one is filed beside its relatives and rounded once."""

    def __init__(self, network: EditedGraph, keepers: Mapping[int, str], kept: Mapping[Path, Constant]) -> None:
        self.network = network
        self.keepers = keepers
        self.arrays: dict[Path, Constant] = dict(kept)
        self.homes: dict[int, Path] = {}

    def weight(self, slot: Slot, array: Array) -> Weight:
        """File a kernel under the variable it came from, moved back through the casts and transposes in between.

        It is stored in the dtype in which the operation reads it, or in the variable's own if that is wider.
        """
        avals = self.network.graph.avals
        value = self.network.sites[slot[0]].inputs[slot[1]]
        leaf, layout = self.origin(value)
        for node in reversed(layout):
            array = _undone(node, array, avals[node.inputs[0]].shape)
        stored, read = avals[leaf].dtype, avals[value].dtype
        path = self.store(self.path_of(slot, leaf), array, [read if narrows(read, stored) else stored, read])
        self.homes[slot[0]] = path
        moves = (node.index for node in layout if primitive_of(node.name) is not CAST)
        return Weight(path, tuple(moves), read)

    def origin(self, value: int) -> tuple[int, list[Node]]:
        """The variable behind a constant operand and the way from it, or the operand itself and no way.

        The way moves numbers only, and all of it is in floats: an integer variable cannot hold the new numbers.
        """
        layout: list[Node] = []
        start = value
        while start not in self.network.graph.leaves:
            node = self.network.constants.producer(start)
            if node is None or not self.can_undo(node):
                return value, []
            layout.insert(0, node)
            start = node.inputs[0]
        return start, layout

    def can_undo(self, node: Node) -> bool:
        """True if the record of the operation has an inverse that accounts for all its parameters."""
        record = primitive_of(node.name)
        is_known = record.inverse is not None and record.unknown_parameter(node.params) is None
        return is_known and is_float(self.network.graph.avals[node.inputs[0]].dtype)

    def path_of(self, slot: Slot, leaf: int) -> Path:
        """The variable's own path; for a computed array, the path of the first variable in it."""
        if leaf in self.network.graph.leaves:
            return self.network.graph.leaves[leaf]
        sources = sorted(self.network.constants.provenance.get(leaf, frozenset()))
        return sources[0] if sources else ("params", f"{self.network.sites[slot[0]].name}_{slot[0]}", "kernel")

    def chain(self, index: int, affine: Affine) -> MultiplyAdd:
        """The rest of a chain as one multiply-add in the chain's own precision: a BN, a mask, or nothing."""
        name = self.keepers.get(index)
        if name is None and affine.is_identity:
            return MultiplyAdd()
        nodes = self.network.chains[index].nodes
        dtypes = [self.network.graph.avals[self.network.graph.nodes[i].outputs[0]].dtype for i in nodes]
        name = name or self.network.layer(index) or f"{self.network.sites[index].name}_{index}"
        return self.multiply_add(name, affine, jnp.result_type(*dtypes))

    def behind(self, value: int) -> tuple[MultiplyAdd, ...]:
        """The bias of an absorbing operation, then the leftovers of folds behind it."""
        edits = self.network.edits
        adds = []
        if value in edits.biases and not edits.biases[value].is_identity:
            adds.append(self.bias(value, edits.biases[value]))
        if value in edits.behind and not edits.behind[value].is_identity:
            adds.append(self.left(value, edits.behind[value]))
        return tuple(adds)

    def bias(self, value: int, bias: Affine) -> MultiplyAdd:
        """A bias beside its kernel, in the kernel's dtype."""
        kernel = self.homes[self.network.producers[value]]
        box = kernel[len(unboxed(kernel)) :]
        path = (*unboxed(kernel)[:-1], "bias", *box)
        return MultiplyAdd(shift=self.term(path, bias.shift, self.arrays[kernel].dtype))

    def left(self, key: int | Slot, affine: Affine) -> MultiplyAdd:
        """A multiply or add that a fold left in the network, under the name of the BN it came from."""
        value = key if isinstance(key, int) else self.network.sites[key[0]].inputs[key[1]]
        dtype = jnp.promote_types(self.network.graph.avals[value].dtype, jnp.float32)
        return self.multiply_add(self.network.owners[key], affine, dtype)

    def multiply_add(self, norm: str, affine: Affine, dtype: DType) -> MultiplyAdd:
        """The affine as variables of the layer; a part that does nothing has none."""
        module = ("params", *norm.split("/"))
        only_shift = affine.is_shift and not affine.is_scale
        scale = None if only_shift else self.term((*module, "scale"), affine.scale, dtype)
        shift = None if affine.is_scale else self.term((*module, "shift"), affine.shift, dtype)
        return MultiplyAdd(scale, shift)

    def term(self, path: Path, array: Array, dtype: DType) -> Term:
        """The array stored as a vector if it varies along one axis, as a map otherwise."""
        vector = array.reshape(-1) if array.size == max(array.shape, default=1) else array
        return Term(self.store(path, vector, [dtype]), array.shape)

    def store(self, path: Path, array: Array, dtypes: list[DType]) -> Path:
        """File the rounded array under the path, or under the next free name like it; return the path."""
        name, number = path, 0
        while self.is_taken(name):
            number += 1
            name = (*path[:-1], f"{path[-1]}_{number}")
        self.arrays[name] = _rounded(name, array, dtypes)
        return name

    def is_taken(self, name: Path) -> bool:
        """True if an array has the name, or lies inside or around it: a tree has no `w/b` beside an array `w`."""
        return any(path[: len(name)] == name or name[: len(path)] == path for path in self.arrays)


def _undone(node: Node, array: Array, shape: tuple[int, ...]) -> Array:
    """The operand of an operation that only moves numbers."""
    record = primitive_of(node.name)
    assert record.inverse is not None, node.name  # `can_undo` has asked
    return record.inverse(record.seen(node.params), array, shape)


def _rounded(path: Path, array: Array, dtypes: list[DType]) -> jax.Array:
    """The array in the first dtype, if it fits into all of them.

    Raises:
        FoldError: it overflows in one of the dtypes to which the network casts it.
    """
    layer = "/".join(path[1:-1]) or path[-1]
    for dtype in dtypes:
        with np.errstate(over="ignore"):
            fits = np.isfinite(array.astype(dtype).astype(np.float64)).all()
        if not fits:
            raise FoldError(
                f"{layer}: its folded {path[-1]} does not fit into {np.dtype(dtype).name}"
                f" (largest magnitude {np.abs(array).max():.3g})",
                remedy="keep this BN with --exclude, or fold the model in float32",
            )
    return jnp.asarray(array.astype(dtypes[0]))
