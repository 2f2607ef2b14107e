"""From committed edits to the folded network: names and dtypes for the new arrays, and the recipe that uses them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from bncli.errors import FoldError
from bncli.folding.affine import Affine, Array
from bncli.folding.rewrite.edits import Draft, Slot
from bncli.folding.rewrite.program import MultiplyAdd, Recipe, Term, Weight
from bncli.folding.search.search import Plan
from bncli.folding.trace.graph import DType, Node, Path, Tensor

# primitive -> how to undo it, for the operations that lead from a variable to a kernel without changing a number.
UNDO: dict[str, Callable[[Array, Node, tuple[int, ...]], Array]] = {
    "convert_element_type": lambda array, node, shape: array,
    "copy": lambda array, node, shape: array,
    "copy_p": lambda array, node, shape: array,
    "reshape": lambda array, node, shape: array.reshape(shape),
    "rev": lambda array, node, shape: np.flip(array, tuple(node.params["dimensions"])),
    "squeeze": lambda array, node, shape: array.reshape(shape),
    "transpose": lambda array, node, shape: np.transpose(array, np.argsort(node.params["permutation"])),
}


def finish(plan: Plan, arrays: Mapping[Path, Any]) -> tuple[Recipe, dict[Path, Any]]:
    """The recipe of the folded network and every array it reads, original arrays untouched.

    Raises:
        FoldError: a new number does not fit into its dtype; the message names the layer.
    """
    draft = plan.draft
    chains = {index: draft.affine(index) for index in {*draft.edits.chains, *plan.keepers}}
    steps, read = _needed(draft, chains)
    kept = {path: arrays[path] for value, path in draft.graph.leaves.items() if value in read}
    writer = _Writer(draft, plan.keepers, kept)
    weights = {slot: writer.weight(slot, array) for slot, array in draft.edits.weights.items()}
    recipe = Recipe(
        steps=steps,
        weights=weights,
        chains={index: (draft.chains[index].source, writer.chain(index, affine)) for index, affine in chains.items()},
        behind=_drop_empty({value: writer.behind(value) for value in {**draft.edits.biases, **draft.edits.behind}}),
        ahead={slot: writer.left(slot, a) for slot, a in draft.edits.ahead.items() if not a.is_identity},
        spent=_spent(draft, read),
    )
    return recipe, writer.arrays


def _needed(draft: Draft, chains: Mapping[int, Affine]) -> tuple[tuple[int, ...], set[int]]:
    """The operations that the folded network still carries out, and the values it still reads."""
    needed = set(draft.graph.outputs)
    steps = []
    for node in reversed(draft.graph.nodes):
        if not node.effectful and needed.isdisjoint(node.outputs):
            continue
        steps.append(node.index)
        if node.index in chains:
            needed.add(draft.chains[node.index].source)
        else:
            needed.update(v for i, v in enumerate(node.inputs) if (node.index, i) not in draft.edits.weights)
    return tuple(reversed(steps)), needed


def _spent(draft: Draft, read: set[int]) -> frozenset[int]:
    """The constants that the folded network does not read, though the original one does; PRNG keys have no numbers."""
    values = {value for node in draft.live for value in node.inputs}
    return frozenset(v for v in values - read if isinstance(draft.graph.constants.get(v), np.ndarray))


def _drop_empty(behind: dict[int, tuple[MultiplyAdd, ...]]) -> dict[int, tuple[MultiplyAdd, ...]]:
    return {value: adds for value, adds in behind.items() if adds}


class _Writer:
    """Gives each new array a name, beside its relatives, and rounds it once."""

    def __init__(self, draft: Draft, keepers: Mapping[int, str], kept: Mapping[Path, Any]) -> None:
        self.draft = draft
        self.keepers = keepers
        self.arrays: dict[Path, Any] = dict(kept)
        self.homes: dict[int, Path] = {}

    def weight(self, slot: Slot, array: Array) -> Weight:
        """A kernel goes back to where it came from, through the casts and transposes that lead from there."""
        value = self.draft.sites[slot[0]].inputs[slot[1]]
        leaf, layout = self.origin(value)
        for node in reversed(layout):
            array = UNDO[node.name](array, node, self.draft.graph.avals[node.inputs[0]].shape)
        dtypes = [self.draft.graph.avals[v].dtype for v in (leaf, *(node.outputs[0] for node in layout))]
        path = self.store(self.path_of(slot, leaf), array, dtypes)
        self.homes[slot[0]] = path
        return Weight(path, tuple(node.index for node in layout))

    def origin(self, value: int) -> tuple[int, list[Node]]:
        """The variable behind a known operand and the way from it, or the operand itself and no way."""
        layout: list[Node] = []
        start = value
        while start not in self.draft.graph.leaves:
            node = self.draft.known.producer(start)
            if node is None or node.name not in UNDO:
                return value, []
            layout.insert(0, node)
            start = node.inputs[0]
        return start, layout

    def path_of(self, slot: Slot, leaf: int) -> Path:
        if leaf in self.draft.graph.leaves:
            return self.draft.graph.leaves[leaf]
        sources = sorted(self.draft.known.provenance.get(leaf, frozenset()))
        return sources[0] if sources else ("params", f"{self.draft.sites[slot[0]].name}_{slot[0]}", "kernel")

    def chain(self, index: int, affine: Affine) -> MultiplyAdd:
        """What is left of a chain, as one multiply-add in its own arithmetic: a BN, a mask, or nothing."""
        name = self.keepers.get(index)
        if name is None and affine.is_identity:
            return MultiplyAdd()
        nodes = self.draft.chains[index].nodes
        dtypes = [self.draft.graph.avals[self.draft.graph.nodes[i].outputs[0]].dtype for i in nodes]
        name = name or self.draft.layer(index) or f"{self.draft.sites[index].name}_{index}"
        return self.multiply_add(name, affine, jnp.result_type(*dtypes))

    def behind(self, value: int) -> tuple[MultiplyAdd, ...]:
        """The bias of an absorbing operation, then whatever a fold left behind it."""
        edits = self.draft.edits
        adds = []
        if value in edits.biases and not edits.biases[value].is_identity:
            adds.append(self.bias(value, edits.biases[value]))
        if value in edits.behind and not edits.behind[value].is_identity:
            adds.append(self.left(value, edits.behind[value]))
        return tuple(adds)

    def bias(self, value: int, bias: Affine) -> MultiplyAdd:
        """A bias beside its kernel, in the kernel's dtype."""
        kernel = self.homes[self.draft.producers[value]]
        return MultiplyAdd(shift=self.term((*kernel[:-1], "bias"), bias.shift, self.arrays[kernel].dtype))

    def left(self, key: int | Slot, affine: Affine) -> MultiplyAdd:
        """A multiply or add that a fold left in the network, under the name of the BN it came from."""
        value = key if isinstance(key, int) else self.draft.sites[key[0]].inputs[key[1]]
        dtype = jnp.promote_types(self.draft.graph.avals[value].dtype, jnp.float32)
        return self.multiply_add(self.draft.owners[key], affine, dtype)

    def multiply_add(self, norm: str, affine: Affine, dtype: DType) -> MultiplyAdd:
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
        """Round the array, file it under the path or the next free name like it, and return where it lies."""
        name, number = path, 0
        while name in self.arrays:
            number += 1
            name = (*path[:-1], f"{path[-1]}_{number}")
        self.arrays[name] = _rounded(name, array, dtypes)
        return name


def _rounded(path: Path, array: Array, dtypes: list[DType]) -> Tensor:
    """The array in the first dtype, after checking that it fits into every one it will be cast to."""
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
