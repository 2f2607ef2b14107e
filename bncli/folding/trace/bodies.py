"""The bodies of the scans in a network, each as a network of its own.

An operand of the scan that the network's input has no part in is a variable of the body. If it has a row for each
iteration, as the stacked parameters of `nn.scan`, the body has other numbers in each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import jax.export

from bncli.folding.trace.constants import Constants
from bncli.folding.trace.graph import MAX_ITERATIONS, Constant, Graph, Node, Path, body_of, scan_operands

SCAN = "scan"


@dataclass(frozen=True)
class Body:
    """The body of a scan.

    Args:
        node: the scan.
        leaves: operand of the scan -> the variable that it is in the body.
        outputs: the outputs of the scan that are read, by position.
        graph: the trace of the body; `other`: that for another batch size, None if there is none.
        constants: its constant values: for each iteration, if one has others than the next; else once.
        is_stacked: True if each iteration has constant values of its own.
    """

    node: Node
    leaves: Mapping[int, Path]
    outputs: tuple[int, ...]
    graph: Graph
    other: Graph | None
    constants: tuple[Constants, ...]
    is_stacked: bool

    @property
    def batch(self) -> list[frozenset[int]]:
        """For each value, the axes whose length changes with the batch size."""
        return differing_axes(self.graph, self.other)

    @cached_property
    def bodies(self) -> dict[int, Body]:
        """The scans in it, with the constant values of the first iteration."""
        return find_bodies(self.graph, self.other, self.constants[0])


def differing_axes(graph: Graph, other: Graph | None) -> list[frozenset[int]]:
    """For each value, the axes that are longer or shorter in the other trace; none without another trace."""
    if other is None:
        return [frozenset()] * len(graph.avals)
    return [
        frozenset(axis for axis, sizes in enumerate(zip(mine.shape, theirs.shape, strict=True)) if sizes[0] != sizes[1])
        for mine, theirs in zip(graph.avals, other.avals, strict=True)
    ]


def find_bodies(graph: Graph, other: Graph | None, constants: Constants) -> dict[int, Body]:
    """scan -> its body, for each scan that can be folded inside.

    Args:
        other: the trace of the same operations for another batch size, None if there is none.
    """
    live = graph.live()
    read = {value for node in live for value in node.inputs} | set(graph.outputs)
    scans = [node for node in live if node.name == SCAN and not node.effectful]
    found = (
        (node.index, _body(node, None if other is None else other.nodes[node.index], constants, read)) for node in scans
    )
    return {index: body for index, body in found if body is not None}


def _body(node: Node, other: Node | None, constants: Constants, read: set[int]) -> Body | None:
    """The body; None if it is another one at another batch size, or if too many iterations differ."""
    shared, carry, rows = scan_operands(node)
    rows = [p for p in rows if constants.provenance.get(node.inputs[p])] if _has_one_length(node, other) else []
    known = [position for position in (*shared, *rows) if node.inputs[position] in constants]
    stacked = [position for position in known if position in rows]
    iterations = node.params["length"] if stacked else 1
    if not known or not 0 < iterations <= MAX_ITERATIONS:
        return None
    sources = {position: constants.provenance.get(node.inputs[position], frozenset()) for position in known}
    leaves = dict(_named(sources))
    outputs = tuple(p for p, value in enumerate(node.outputs) if p < len(carry) or value in read)
    traces = [body_of(scan, leaves, outputs) for scan in (node, other) if scan is not None]
    if traces[0].structure != traces[-1].structure:
        return None
    operands = [_Operands(node, leaves, constants, number, frozenset(stacked)) for number in range(iterations)]
    return Body(
        node=node,
        leaves=leaves,
        outputs=outputs,
        graph=traces[0],
        other=None if other is None else traces[1],
        constants=tuple(Constants(traces[0], arrays, sources=sources) for arrays in operands),
        is_stacked=bool(stacked),
    )


def _has_one_length(node: Node, other: Node | None) -> bool:
    """True if the number of iterations does not depend on the batch size."""
    length = node.params["length"]
    return not jax.export.is_symbolic_dim(length) and (other is None or other.params["length"] == length)


def _named(sources: Mapping[int, frozenset[Path]]) -> Iterator[tuple[int, Path]]:
    """Each operand with a path of its own: that of its variable, if it has only one and no other operand has it."""
    taken: set[Path] = set()
    for position, paths in sources.items():
        first = min(paths, default=("constants", "operand"))
        path = first if len(paths) == 1 and first not in taken else (*first, str(position))
        taken.add(path)
        yield position, path


@dataclass(frozen=True)
class _Operands(Mapping[Path, Constant]):
    """The variables of the body in one iteration, each computed when it is read."""

    node: Node
    leaves: Mapping[int, Path]
    constants: Constants
    number: int
    stacked: frozenset[int]

    def __getitem__(self, path: Path) -> Constant:
        position = next(position for position, own in self.leaves.items() if own == path)
        whole = self.constants.raw(self.node.inputs[position])
        return whole[self.number] if position in self.stacked else whole

    def __iter__(self) -> Iterator[Path]:
        return iter(self.leaves.values())

    def __len__(self) -> int:
        return len(self.leaves)


def bodies_within(bodies: Mapping[int, Body]) -> Iterator[Body]:
    """The bodies and the bodies of the scans in them."""
    for body in bodies.values():
        yield body
        yield from bodies_within(body.bodies)
