"""The network while it is being folded: the trace, with every chain as one node, and the edits made so far."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field, replace

from bncli.folding.affine import Affine, Array
from bncli.folding.primitives import Op, Stuck
from bncli.folding.report import reasons
from bncli.folding.search.chains import Chain, find_chains
from bncli.folding.trace.constants import Known, is_float
from bncli.folding.trace.graph import Graph, Node

Slot = tuple[int, int]  # (node, operand)


@dataclass
class Edits:
    """What a fold changes; collected first, committed only if the fold succeeds as a whole.

    Args:
        chains: chain -> the affine it is now.
        weights: (node, operand) -> the known array it has now.
        biases: value -> what an absorbing operation adds to it.
        behind: value -> the multiply or add left behind it.
        ahead: (node, operand) -> the multiply or add left in front of it.
        merged: the BN chains that took the folded one in.
    """

    chains: dict[int, Affine] = field(default_factory=dict)
    weights: dict[Slot, Array] = field(default_factory=dict)
    biases: dict[int, Affine] = field(default_factory=dict)
    behind: dict[int, Affine] = field(default_factory=dict)
    ahead: dict[Slot, Affine] = field(default_factory=dict)
    merged: list[int] = field(default_factory=list)

    @property
    def leftovers(self) -> int:
        """How many multiplies or adds it leaves in the network besides biases."""
        return sum(not affine.is_identity for affine in (*self.behind.values(), *self.ahead.values()))


class Draft:
    """A traced network and the edits committed to it.

    Args:
        graph: the trace.
        known: its known values.
        batch: value -> the axes whose length is the batch size.

    Attributes:
        chains: operation -> the chain that ends there.
        norms: chain -> the BN layers in it, in order; only those not folded yet.
        sites: operation -> the node as a fold sees it, each chain being one node.
        readers: value -> where it is read.
        owners: edited chain, value, slot -> the BN whose fold edited it last.
    """

    def __init__(self, graph: Graph, known: Known, batch: Sequence[frozenset[int]]) -> None:
        self.graph = graph
        self.known = known
        self.batch = batch
        self.live = graph.live()
        found = find_chains(graph, self.live, known, batch)
        self.chains = {chain.nodes[-1]: chain for chain in found}
        self.norms = {index: chain.norms for index, chain in self.chains.items() if chain.norms}
        self.sites = dict(_sites(self.live, self.chains))
        self.producers = {value: index for index, node in self.sites.items() for value in node.outputs}
        self.readers: dict[int, list[Slot]] = {}
        for index, node in self.sites.items():
            for operand, value in enumerate(node.inputs):
                self.readers.setdefault(value, []).append((index, operand))
        self.edits = Edits()
        self.owners: dict[int | Slot, str] = {}

    def unedited(self) -> Draft:
        """The same network, before any fold."""
        draft = copy(self)
        draft.norms = {index: chain.norms for index, chain in self.chains.items() if chain.norms}
        draft.edits, draft.owners = Edits(), {}
        return draft

    def affine(self, index: int) -> Affine:
        """What a chain computes by now."""
        return self.edits.chains.get(index, self.chains[index].affine)

    def behind(self, value: int) -> Affine:
        """What has been put between an operation's output and its readers."""
        rank = len(self.graph.avals[value].shape)
        left = self.edits.behind.get(value, Affine.identity(rank))
        return left.after(self.edits.biases[value]) if value in self.edits.biases else left

    def ahead(self, slot: Slot) -> Affine:
        """What has been put between a value and one of its readers."""
        rank = len(self.graph.avals[self.sites[slot[0]].inputs[slot[1]]].shape)
        return self.edits.ahead.get(slot, Affine.identity(rank))

    def weight(self, index: int, operand: int) -> Array:
        """A node's known operand as it is by now."""
        edited = self.edits.weights.get((index, operand))
        return self.known.array(self.sites[index].inputs[operand]) if edited is None else edited

    def op(self, index: int) -> Op:
        """The node as its rules see it."""
        node = self.sites[index]
        return Op(
            name=node.name,
            params=node.params,
            shapes=tuple(self.graph.avals[value].shape for value in node.inputs),
            out_shapes=tuple(self.graph.avals[value].shape for value in node.outputs),
            batch=tuple(self.batch[value] for value in node.inputs),
            out_batch=self.batch[node.outputs[0]],
            dynamic=tuple(i for i, value in enumerate(node.inputs) if value not in self.known),
            known=lambda operand: self.weight(index, operand),
            named=lambda operand: reasons.operand(self, (index, operand)),
        )

    def refusal(self, value: int, affine: Affine) -> Stuck | None:
        """Why this value cannot carry this affine, whatever its operation."""
        if not is_float(self.graph.avals[value].dtype):
            return Stuck("it is converted to integers")
        if affine.varies() & self.batch[value]:
            return Stuck("its numbers would differ by example")
        return None if affine.is_finite else Stuck("its numbers are not finite there")

    def layer(self, index: int) -> str:
        """The layer whose numbers a node uses, '' if it uses none."""
        if index in self.norms:
            return ", ".join(self.norms[index])
        provenance = self.known.provenance
        paths = [provenance.get(value, frozenset()) for value in self.sites[index].inputs]
        if index in self.chains:
            paths.append(self.chains[index].paths)
        return next(("/".join(path[1:-1]) for some in paths for path in sorted(some) if len(path) > 2), "")

    def is_shared(self, value: int) -> bool:
        """Whether more than one operation reads the value."""
        return len({index for index, _ in self.readers.get(value, [])}) > 1

    def place(self, index: int) -> str:
        """The module a node stands in, without the outermost one: '' at the top."""
        return self.sites[index].scope.partition("/")[2]

    def commit(self, index: int, edits: Edits) -> None:
        """Make the edits that fold a chain; nothing of it stays in its place."""
        edits.chains[index] = Affine.identity(self.affine(index).rank)
        owner = self.norms.pop(index)[0]
        for name in ("chains", "weights", "biases", "behind", "ahead"):
            getattr(self.edits, name).update(getattr(edits, name))
            self.owners.update(dict.fromkeys(getattr(edits, name), owner))
        for value in edits.biases:
            self._take_in_bias(value)

    def _take_in_bias(self, value: int) -> None:
        """Let a bias that follows the operation become part of the new one, when nothing else reads the value."""
        readers = self.readers.get(value, [])
        if len(readers) != 1 or value in self.graph.outputs:
            return
        index = readers[0][0]
        if index in self.chains and index not in self.norms and self.affine(index).is_shift:
            self.edits.biases[value] = self.affine(index).after(self.edits.biases[value])
            self.edits.chains[index] = Affine.identity(self.affine(index).rank)


def _sites(live: Sequence[Node], chains: dict[int, Chain]) -> list[tuple[int, Node]]:
    """The nodes a fold walks over: each chain stands where its last operation stood."""
    inside = {index for chain in chains.values() for index in chain.nodes}
    sites: list[tuple[int, Node]] = []
    for node in live:
        if node.index in chains:
            chain = chains[node.index]
            sites.append((node.index, replace(node, inputs=(chain.source,), outputs=(chain.output,))))
        elif node.index not in inside:
            sites.append((node.index, node))
    return sites
