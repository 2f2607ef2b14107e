"""The folded network from the committed edits: names and dtypes for the new arrays, and the program that reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from bncli.errors import FoldError
from bncli.folding.affine import Affine, Array
from bncli.folding.primitives import primitive_of
from bncli.folding.primitives.layout import CAST
from bncli.folding.primitives.stuck import Slot
from bncli.folding.rewrite.edits import EditedGraph
from bncli.folding.rewrite.program import Loop, MultiplyAdd, Program, Term, Weight
from bncli.folding.rewrite.versions import Versions, union
from bncli.folding.search.norms import unboxed
from bncli.folding.search.search import Plan
from bncli.folding.trace.bodies import Body
from bncli.folding.trace.constants import is_float, narrows
from bncli.folding.trace.graph import Constant, DType, Node, Path


@dataclass(frozen=True)
class _Written:
    """A folded network.

    Args:
        versions: the plans that it was made from.
        program: its program.
        arrays: the arrays of the program: all of them, but for the body of a loop only new ones.
        reads: the values that it reads of the trace.
    """

    versions: Versions
    program: Program
    arrays: dict[Path, Constant]
    reads: set[int]


def materialize(plan: Plan, arrays: Mapping[Path, Constant]) -> tuple[Program, dict[Path, Constant]]:
    """The program of the folded network and every array it reads; arrays that no fold changes are the same objects.

    Raises:
        FoldError: a new number does not fit into its dtype; the message names the layer.
    """
    written = _written(Versions((plan,)), arrays)
    return written.program, written.arrays


def _written(versions: Versions, arrays: Mapping[Path, Constant] | None = None) -> _Written:
    """The folded network of all versions. Without the arrays of its variables it is the body of a loop."""
    network, edits = versions.network, versions.edits
    loops = {index: _written(inner) for index, inner in versions.inside().items()}
    steps, read = _needed(versions, loops)
    unchanged = [path for value, path in network.graph.leaves.items() if value in read]
    writer = _Writer(versions, unchanged, {} if arrays is None else {path: arrays[path] for path in unchanged})
    weights = {slot: writer.weight(slot) for slot in union(each.weights for each in edits)}
    edited = union(some for each in edits for some in (each.biases, each.behind))
    ahead = union(each.ahead for each in edits)
    program = Program(
        steps=steps,
        weights=weights,
        chains={index: (network.chains[index].source, writer.chain(index)) for index in versions.chains},
        behind=_drop_empty({value: writer.behind(value) for value in edited}),
        ahead={slot: writer.left(slot, left) for slot in ahead if not _change_nothing(left := versions.ahead(slot))},
        loops={index: writer.loop(index, body) for index, body in loops.items()},
        spent=_spent(network, read),
        rewritten=_rewritten(network),
        moved=versions.moved | _unread_outputs(network),
    )
    return _Written(versions, program, writer.arrays, read)


def _needed(versions: Versions, loops: Mapping[int, _Written]) -> tuple[tuple[int, ...], set[int]]:
    """The operations that the folded network still runs, and the values it still reads."""
    network = versions.network
    edited = set(union(edits.weights for edits in versions.edits))
    needed = set(network.graph.outputs)
    steps = []
    for node in reversed(network.graph.nodes):
        if not node.effectful and needed.isdisjoint(node.outputs):
            continue
        steps.append(node.index)
        if node.index in versions.chains:
            needed.add(network.chains[node.index].source)
        elif node.index in loops:
            needed.update(node.inputs[operand] for operand in _operands_read(loops[node.index]))
        else:
            needed.update(v for i, v in enumerate(node.inputs) if (node.index, i) not in edited)
    return tuple(reversed(steps)), needed


def _operands_read(body: _Written) -> frozenset[int]:
    """The operands of a scan that its folded body reads: its first values, those that depend on the input always."""
    graph = body.versions.network.graph
    return frozenset((*graph.inputs, *(value for value in graph.leaves if value in body.reads)))


def _rewritten(network: EditedGraph) -> dict[int, tuple[str, ...]]:
    """Output of each run of operations with BN in it, and of each loop with BN in it -> the BN layers."""
    rewritten = {chain.output: chain.norms for chain in network.chains.values() if chain.norms}
    for index, bodies in network.inside.items():
        read = (value for value in network.graph.nodes[index].outputs if _is_read(network, value))
        rewritten |= dict.fromkeys(read, tuple(sorted(bodies[0].layers)))
    return rewritten


def _is_read(network: EditedGraph, value: int) -> bool:
    return value in network.readers or value in network.graph.outputs


def _unread_outputs(network: EditedGraph) -> frozenset[int]:
    """The outputs of folded loops that are not computed any more."""
    return frozenset(
        value
        for index in network.inside
        for position, value in enumerate(network.graph.nodes[index].outputs)
        if position not in network.bodies[index].outputs
    )


def _spent(network: EditedGraph, read: set[int]) -> frozenset[int]:
    """The constants that the original network reads and the folded one does not, without PRNG keys."""
    values = {value for node in network.live for value in node.inputs}
    return frozenset(v for v in values - read if isinstance(network.graph.constants.get(v), np.ndarray))


def _drop_empty(behind: dict[int, tuple[MultiplyAdd, ...]]) -> dict[int, tuple[MultiplyAdd, ...]]:
    return {value: adds for value, adds in behind.items() if adds}


class _Writer:
    """The arrays of the folded network so far. Each new one is filed beside its relatives and rounded once.

    Args:
        unchanged: the paths of the variables that are read as they are; arrays: those of them to keep here.
    """

    def __init__(self, versions: Versions, unchanged: Iterable[Path], arrays: dict[Path, Constant]) -> None:
        self.versions = versions
        self.network = versions.network
        self.keepers = versions.keepers
        self.unchanged = frozenset(unchanged)
        self.arrays = arrays
        self.homes: dict[int, Path] = {}

    def weight(self, slot: Slot) -> Weight:
        """File a kernel under the variable it came from, moved back through the casts and transposes in between.

        It is stored in the dtype in which the operation reads it, or in the variable's own if that is wider.
        """
        avals = self.network.graph.avals
        value = self.network.sites[slot[0]].inputs[slot[1]]
        leaf, layout = self.origin(value)
        arrays = [self.undone(layout, array) for array in self.versions.weights(slot)]
        stored, read = avals[leaf].dtype, avals[value].dtype
        path = self.store(self.path_of(slot, leaf), arrays, [read if narrows(read, stored) else stored, read])
        self.homes[slot[0]] = path
        return Weight(path, _moves(layout), read)

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

    def undone(self, layout: Sequence[Node], array: np.ndarray) -> np.ndarray:
        """The variable from which the operations, which only move numbers, make the array."""
        for node in reversed(layout):
            array = _undone(node, array, self.network.graph.avals[node.inputs[0]].shape)
        return array

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

    def chain(self, index: int) -> MultiplyAdd:
        """The rest of a chain as one multiply-add in the chain's own precision: a BN, a mask, or nothing."""
        name, affines = self.keepers.get(index), self.versions.affines(index)
        if name is None and _change_nothing(affines):
            return MultiplyAdd()
        nodes = self.network.chains[index].nodes
        dtypes = [self.network.graph.avals[self.network.graph.nodes[i].outputs[0]].dtype for i in nodes]
        name = name or self.network.layer(index) or f"{self.network.sites[index].name}_{index}"
        return self.multiply_add(name, affines, jnp.result_type(*dtypes))

    def behind(self, value: int) -> tuple[MultiplyAdd, ...]:
        """The bias of an absorbing operation, then the leftovers of folds behind it."""
        biases, left = self.versions.biases(value), self.versions.behind(value)
        adds = [] if _change_nothing(biases) else [self.bias(value, biases)]
        return tuple(adds if _change_nothing(left) else [*adds, self.left(value, left)])

    def bias(self, value: int, biases: Sequence[Affine]) -> MultiplyAdd:
        """A bias beside its kernel, in the kernel's dtype."""
        kernel = self.homes[self.network.producers[value]]
        box = kernel[len(unboxed(kernel)) :]
        path = (*unboxed(kernel)[:-1], "bias", *box)
        return MultiplyAdd(shift=self.term(path, [bias.shift for bias in biases], self.arrays[kernel].dtype))

    def left(self, key: int | Slot, affines: Sequence[Affine]) -> MultiplyAdd:
        """A multiply or add that a fold left in the network, under the name of the BN it came from."""
        value = key if isinstance(key, int) else self.network.sites[key[0]].inputs[key[1]]
        dtype = jnp.promote_types(self.network.graph.avals[value].dtype, jnp.float32)
        return self.multiply_add(self.versions.owner(key), affines, dtype)

    def multiply_add(self, norm: str, affines: Sequence[Affine], dtype: DType) -> MultiplyAdd:
        """The affine as variables of the layer; a part that does nothing in any version has none."""
        module = ("params", *norm.split("/"))
        only_scale = all(affine.is_scale for affine in affines)
        only_shift = all(affine.is_shift for affine in affines) and not only_scale
        scales, shifts = [affine.scale for affine in affines], [affine.shift for affine in affines]
        scale = None if only_shift else self.term((*module, "scale"), scales, dtype)
        shift = None if only_scale else self.term((*module, "shift"), shifts, dtype)
        return MultiplyAdd(scale, shift)

    def term(self, path: Path, arrays: Sequence[Array], dtype: DType) -> Term:
        """The arrays, each stored as a vector if it varies along one axis, as a map otherwise."""
        arrays = np.broadcast_arrays(*arrays)
        shape, size = arrays[0].shape, arrays[0].size
        vectors = [array.reshape(-1) if size == max(shape, default=1) else array for array in arrays]
        return Term(self.store(path, vectors, [dtype]), shape)

    def loop(self, index: int, body: _Written) -> Loop:
        """The folded body of a scan; its new arrays are filed here, stacked if each iteration has its own."""
        of = self.network.bodies[index]
        weights = {path: self.outside(of, path, array) for path, array in body.arrays.items()}
        has_rows = body.versions.shape != self.versions.shape
        return Loop(
            leaves=of.leaves,
            reads=_operands_read(body),
            outputs=of.outputs,
            rows=weights if has_rows else {},
            shared={} if has_rows else weights,
            body=body.program,
            structure=of.graph.structure,
            numbers=of.graph.numbers(body.program.spent),
        )

    def outside(self, body: Body, path: Path, array: Constant) -> Weight:
        """File an array of the body, under the variable that it replaces if it still has that one's shape."""
        dtype = array.dtype
        for operand, own in body.leaves.items():
            value = body.node.inputs[operand]
            if own == path and array.shape == self.network.graph.avals[value].shape and not self.versions.shape:
                leaf, layout = self.origin(value)
                path = self.network.graph.leaves.get(leaf, path)
                name = self.free(path)
                self.arrays[name] = jnp.asarray(self.undone(layout, np.asarray(array)))
                return Weight(name, _moves(layout), dtype)
        name = self.free(path)
        self.arrays[name] = array
        return Weight(name, (), dtype)

    def store(self, path: Path, arrays: Sequence[Array], dtypes: list[DType]) -> Path:
        """File the rounded array under the path, or under the next free name like it; return the path."""
        name = self.free(path)
        self.arrays[name] = _rounded(name, self.versions.stacked(arrays), dtypes)
        return name

    def free(self, path: Path) -> Path:
        """The path, or the next free name like it."""
        name, number = path, 0
        while self.is_taken(name):
            number += 1
            name = (*path[:-1], f"{path[-1]}_{number}")
        return name

    def is_taken(self, name: Path) -> bool:
        """True if an array has the name, or lies inside or around it: a tree has no `w/b` beside an array `w`."""
        taken = self.unchanged.union(self.arrays)
        return any(path[: len(name)] == name or name[: len(path)] == path for path in taken)


def _change_nothing(affines: Iterable[Affine]) -> bool:
    return all(affine.is_identity for affine in affines)


def _moves(layout: Sequence[Node]) -> tuple[int, ...]:
    """The operations without casts, which are the reader's business."""
    return tuple(node.index for node in layout if primitive_of(node.name) is not CAST)


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
