"""Chains: maximal runs of operations that multiply and add constants, each run one affine.

Flax's inference BN is a run of its own, `sub, mul, add` (in a bfloat16 model between two casts), and so is a
convolution's bias in front of it. Together they are one chain, whose numbers come from `batch_stats`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bncli.folding.affine import Affine, Array, compact, varying
from bncli.folding.primitives import primitive_of
from bncli.folding.search.norms import norm_names
from bncli.folding.trace.constants import Constants, is_coarse, is_float
from bncli.folding.trace.graph import Aval, Graph, Node, Path


@dataclass(frozen=True)
class Chain:
    """A run of operations that together are one affine.

    Args:
        nodes: the operations' indices, in order.
        source: the input of the run; `output`: its output.
        affine: the function of the run.
        norms: the BN layers in it, in order.
        paths: the variables its numbers come from.
    """

    nodes: tuple[int, ...]
    source: int
    output: int
    affine: Affine
    norms: tuple[str, ...]
    paths: frozenset[Path]


def find_links(
    graph: Graph, live: Sequence[Node], constants: Constants, batch: Sequence[frozenset[int]]
) -> list[Chain]:
    """The live nodes that are affines of one value, each as a chain of its own without names.

    Args:
        batch: the batch axes of each value.
    """
    links = (_link(graph, node, constants, batch) for node in live)
    return [link for link in links if link is not None]


def find_chains(graph: Graph, live: Sequence[Node], links: Sequence[Chain], names: Mapping[Path, str]) -> list[Chain]:
    """The maximal chains among the live nodes, in order.

    Args:
        names: statistic -> its BN layer.
    """
    reads = Counter(value for node in live for value in node.inputs) + Counter(graph.outputs)
    open_chains: dict[int, Chain] = {}
    for nameless in links:
        link = replace(nameless, norms=norm_names(nameless.paths, names))
        before = open_chains.get(link.source)
        joined = _join(before, link) if before is not None and reads[link.source] == 1 else None
        if joined is not None:
            del open_chains[link.source]
        open_chains[link.output] = joined or link
    return list(open_chains.values())


def _join(chain: Chain, link: Chain) -> Chain | None:
    """Both as one, unless that would merge a BN's scale with one along other axes, such as a mask's."""
    affine = link.affine.after(chain.affine)
    before, after = varying(chain.affine.scale), varying(affine.scale)
    if len(after) > 1 and before not in (frozenset(), after):
        return None
    if before and not set(link.norms) <= set(chain.norms) and not link.affine.varies() <= before:
        return None
    return replace(
        chain,
        nodes=chain.nodes + link.nodes,
        output=link.output,
        affine=affine,
        norms=tuple(dict.fromkeys(chain.norms + link.norms)),
        paths=chain.paths | link.paths,
    )


def _link(graph: Graph, node: Node, constants: Constants, batch: Sequence[frozenset[int]]) -> Chain | None:
    """The node as a chain of one, if it is an affine of its one dynamic operand."""
    record = primitive_of(node.name)
    dynamic = [operand for operand, value in enumerate(node.inputs) if value not in constants]
    if record.affine is None or len(dynamic) != 1 or record.unknown_parameter(node.params) is not None:
        return None
    source, output = node.inputs[dynamic[0]], node.outputs[0]
    avals = graph.avals[source], graph.avals[output]
    if avals[0].shape != avals[1].shape or not all(map(_carries_affines, avals)):
        return None
    others = [value for operand, value in enumerate(node.inputs) if operand != dynamic[0]]
    arrays = [_fitted(constants.array(value), len(avals[0].shape)) for value in others]
    if any(varying(array) & batch[output] for array in arrays):
        return None
    affine = record.affine(arrays, dynamic[0])
    if affine is None:
        return None
    paths = frozenset[Path]().union(*(constants.provenance.get(value, frozenset()) for value in others))
    rank = Affine.identity(len(avals[0].shape))
    return Chain((node.index,), source, output, affine.after(rank), (), paths)


def _carries_affines(aval: Aval) -> bool:
    return is_float(aval.dtype) and not is_coarse(aval.dtype)


def _fitted(array: Array, rank: int) -> Array:
    """A constant operand with one axis for each axis of the value."""
    array = np.asarray(array, np.float64)
    return compact(array.reshape((1,) * (rank - array.ndim) + array.shape))


def statistics_readers(
    live: Sequence[Node], constants: Constants, chains: Sequence[Chain], names: Mapping[Path, str]
) -> Iterator[tuple[Node, str]]:
    """The live operations outside every chain that read BN statistics, each with the name of the layer."""
    inside = {index for chain in chains for index in chain.nodes}
    for node in live:
        if node.index in inside or all(value in constants for value in node.inputs):
            continue
        for value in node.inputs:
            for name in norm_names(constants.provenance.get(value, frozenset()), names):
                yield node, name
