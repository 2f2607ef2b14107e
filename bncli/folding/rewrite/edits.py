"""The network while it is being folded: the trace, each chain as one node, and the edits made so far."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace

from bncli.folding.affine import Affine, Array
from bncli.folding.primitives import primitive_of
from bncli.folding.primitives.primitive import Op, Primitive
from bncli.folding.primitives.stuck import Cause, Slot, Stuck
from bncli.folding.search.chains import Chain, find_chains, find_links
from bncli.folding.search.norms import module_name, name_norms
from bncli.folding.search.statistics import Statistics
from bncli.folding.trace.bodies import Body, bodies_within, find_bodies
from bncli.folding.trace.constants import Constants, is_coarse, is_float
from bncli.folding.trace.graph import Graph, Node, Path


@dataclass
class Edits:
    """The changes of a fold: collected first, committed only if the fold succeeds as a whole.

    Args:
        chains: chain -> its affine now.
        weights: (node, operand) -> its constant array now.
        biases: value -> the bias that an absorbing operation adds to it.
        behind: value -> the multiply or add left behind it.
        ahead: (node, operand) -> the multiply or add left in front of it.
        merged: the BN chains that absorbed the folded one.
        moved: the values that carry an affine now, so that their numbers are others than in the original network.
    """

    chains: dict[int, Affine] = field(default_factory=dict)
    weights: dict[Slot, Array] = field(default_factory=dict)
    biases: dict[int, Affine] = field(default_factory=dict)
    behind: dict[int, Affine] = field(default_factory=dict)
    ahead: dict[Slot, Affine] = field(default_factory=dict)
    merged: list[int] = field(default_factory=list)
    moved: set[int] = field(default_factory=set)

    @property
    def leftovers(self) -> int:
        """The number of multiplies or adds left in the network besides biases."""
        return sum(not affine.is_identity for affine in (*self.behind.values(), *self.ahead.values()))


class EditedGraph:
    """A traced network and the edits committed to it.

    Args:
        graph: the trace.
        constants: its constant values.
        batch: value -> the axes whose length is the batch size.
        statistics: the running statistics among the variables.
        bodies: scan -> its body, for those that may be folded inside.
        names: as below, for the body of a scan; by default they are made from the statistics.

    Attributes:
        names: statistic -> the BN layer that it belongs to.
        inside: scan -> its body for each set of constant values that it has, for those that read statistics.
        chains: operation -> the chain that ends there.
        norms: chain -> the BN layers in it, in order; only those not folded yet.
        sites: operation -> the node as a fold sees it, each chain being one node.
        readers: value -> the slots that read it.
        owners: edited chain, value, slot -> the BN whose fold edited it last.
    """

    def __init__(
        self,
        graph: Graph,
        constants: Constants,
        batch: Sequence[frozenset[int]],
        statistics: Statistics,
        *,
        bodies: Mapping[int, Body] | None = None,
        names: Mapping[Path, str] | None = None,
    ) -> None:
        self.graph = graph
        self.constants = constants
        self.batch = batch
        self.live = graph.live()
        links = find_links(graph, self.live, constants, batch)
        self.is_body = names is not None
        self.bodies = bodies or {}
        self.names = name_norms(statistics, [*links, *_links_inside(self.bodies)]) if names is None else names
        found = find_chains(graph, self.live, links, self.names)
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
        every = ((index, _networks(body, statistics, self.names)) for index, body in self.bodies.items())
        self.inside = {index: networks for index, networks in every if networks}

    @property
    def whole(self) -> str:
        """The word for it as a whole."""
        return "loop" if self.is_body else "network"

    @property
    def layers(self) -> frozenset[str]:
        """The BN layers that are multiply-adds, in the loops too."""
        inside = (networks[0].layers for networks in self.inside.values())
        return frozenset(name for names in self.norms.values() for name in names).union(*inside)

    @property
    def structure(self) -> tuple[object, ...]:
        """Its chains and loops, in which the iterations of a loop must be alike to be folded together."""
        chains = (chain.nodes for chain in self.chains.values())
        return (*chains, *((index, networks[0].structure) for index, networks in self.inside.items()))

    def unedited(self) -> EditedGraph:
        """The same network, before any fold."""
        other = copy(self)
        other.norms = {index: chain.norms for index, chain in self.chains.items() if chain.norms}
        other.edits = Edits()
        other.owners = {}
        return other

    def affine(self, index: int) -> Affine:
        """The function of a chain now."""
        return self.edits.chains.get(index, self.chains[index].affine)

    def behind(self, value: int) -> Affine:
        """The edits between an operation's output and its readers."""
        rank = len(self.graph.avals[value].shape)
        left = self.edits.behind.get(value, Affine.identity(rank))
        return left.after(self.edits.biases[value]) if value in self.edits.biases else left

    def ahead(self, slot: Slot) -> Affine:
        """The edits between a value and one of its readers."""
        rank = len(self.graph.avals[self.sites[slot[0]].inputs[slot[1]]].shape)
        return self.edits.ahead.get(slot, Affine.identity(rank))

    def weight(self, index: int, operand: int) -> Array:
        """A node's constant operand now."""
        edited = self.edits.weights.get((index, operand))
        return self.constants.array(self.sites[index].inputs[operand]) if edited is None else edited

    def record(self, index: int) -> Primitive:
        """The record of a node's primitive."""
        return primitive_of(self.sites[index].name)

    def op(self, index: int) -> Op:
        """The node as its rules see it."""
        node = self.sites[index]
        return Op(
            params=self.record(index).seen(node.params),
            shapes=tuple(self.graph.avals[value].shape for value in node.inputs),
            out_shapes=tuple(self.graph.avals[value].shape for value in node.outputs),
            batch=tuple(self.batch[value] for value in node.inputs),
            out_batch=self.batch[node.outputs[0]],
            dynamic=tuple(i for i, value in enumerate(node.inputs) if value not in self.constants),
            known=lambda operand: self.weight(index, operand),
            sized=tuple(i for i, v in enumerate(node.inputs) if v in self.graph.known and v not in self.constants),
        )

    def refusal(self, value: int, affine: Affine) -> Stuck | None:
        """The reason why this value cannot carry this affine, whatever its operation; None if it can."""
        if not is_float(self.graph.avals[value].dtype):
            return Stuck(Cause.INTEGERS, value=value)
        if is_coarse(self.graph.avals[value].dtype):
            return Stuck(Cause.COARSE_ROUNDING, value=value)
        if affine.varies() & self.batch[value]:
            return Stuck(Cause.DIFFERS_BY_EXAMPLE, value=value)
        return None if affine.is_finite else Stuck(Cause.NOT_FINITE, value=value)

    def weight_refusal(self, slot: Slot) -> Stuck | None:
        """The reason why this constant operand cannot take another number; None if it can."""
        value = self.sites[slot[0]].inputs[slot[1]]
        if self.batch[value]:
            return Stuck(Cause.CONSTANT_BY_EXAMPLE, operation=slot[0], operand=slot[1], value=value)
        if not is_float(self.graph.avals[value].dtype):
            return Stuck(Cause.INTEGER_WEIGHT, operation=slot[0], operand=slot[1], value=value)
        if is_coarse(self.graph.avals[value].dtype):
            return Stuck(Cause.COARSE_ROUNDING, operation=slot[0], operand=slot[1], value=value)
        return None

    def layer(self, index: int) -> str:
        """The layer whose numbers a node reads, '' if it reads none."""
        if index in self.norms:
            return ", ".join(self.norms[index])
        provenance = self.constants.provenance
        paths = [provenance.get(value, frozenset()) for value in self.sites[index].inputs]
        if index in self.chains:
            paths.append(self.chains[index].paths)
        modules = (module_name(path) for some in paths for path in sorted(some))
        return next((module for module in modules if module), "")

    def is_shared(self, value: int) -> bool:
        """True if more than one operation reads the value."""
        return len({index for index, _ in self.readers.get(value, [])}) > 1

    def place(self, index: int) -> str:
        """The module around a node, without the outermost one: '' at the top."""
        return self.sites[index].scope.partition("/")[2]

    def commit(self, index: int, edits: Edits) -> None:
        """Make the edits that fold a chain, and remove the chain."""
        edits.chains[index] = Affine.identity(self.affine(index).rank)
        owner = self.norms.pop(index)[0]
        self.edits.chains.update(edits.chains)
        self.edits.weights.update(edits.weights)
        self.edits.biases.update(edits.biases)
        self.edits.behind.update(edits.behind)
        self.edits.ahead.update(edits.ahead)
        self.edits.moved.update(edits.moved)
        for edited in (edits.chains, edits.weights, edits.biases, edits.behind, edits.ahead):
            self.owners.update(dict.fromkeys(edited, owner))
        for value in edits.biases:
            self._absorb_bias(value)

    def _absorb_bias(self, value: int) -> None:
        """Merge a bias that follows the operation into the new one, if nothing else reads the value."""
        readers = self.readers.get(value, [])
        if len(readers) != 1 or value in self.graph.outputs:
            return
        index = readers[0][0]
        if index in self.chains and index not in self.norms and self.affine(index).is_shift:
            self.edits.biases[value] = self.affine(index).after(self.edits.biases[value])
            self.edits.chains[index] = Affine.identity(self.affine(index).rank)
            self.edits.moved.add(value)


def _networks(body: Body, statistics: Statistics, names: Mapping[Path, str]) -> tuple[EditedGraph, ...]:
    """The body of a scan for each of its sets of constant values; none if it reads no statistics, or if they differ."""
    sources = frozenset[Path]().union(*(body.constants[0].provenance[operand] for operand in body.leaves))
    if sources.isdisjoint(statistics.paths):
        return ()
    networks = tuple(
        EditedGraph(
            body.graph,
            constants,
            body.batch,
            statistics,
            bodies=find_bodies(body.graph, body.other, constants),
            names=names,
        )
        for constants in body.constants
    )
    alike = all(network.structure == networks[0].structure for network in networks)
    return networks if alike else ()


def _links_inside(bodies: Mapping[int, Body]) -> Iterator[Chain]:
    """The multiplies and adds in the bodies of scans. Their values have numbers of their own, below zero."""
    start = 0
    for body in bodies_within(bodies):
        start -= len(body.graph.avals)
        for link in find_links(body.graph, body.graph.live(), body.constants[0], body.batch):
            yield replace(link, source=start + link.source, output=start + link.output)


def _sites(live: Sequence[Node], chains: dict[int, Chain]) -> list[tuple[int, Node]]:
    """The nodes a fold walks over, each chain in the place of its last operation."""
    inside = {index for chain in chains.values() for index in chain.nodes}
    sites: list[tuple[int, Node]] = []
    for node in live:
        if node.index in chains:
            chain = chains[node.index]
            sites.append((node.index, replace(node, inputs=(chain.source,), outputs=(chain.output,))))
        elif node.index not in inside:
            sites.append((node.index, node))
    return sites
