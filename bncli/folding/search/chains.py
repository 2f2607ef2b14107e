"""Where a trace multiplies and adds known numbers: maximal runs of such operations, each one affine.

Flax's inference BN is a run of its own, `sub, mul, add` (in a bfloat16 model between two casts), and so is a
convolution's bias in front of it: together they are one chain, whose numbers come from `batch_stats`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bncli.folding.affine import Affine, Array, compact, varying
from bncli.folding.trace.constants import Known, is_float
from bncli.folding.trace.graph import Graph, Node, Path, Tensor

STATISTICS = "batch_stats"


@dataclass(frozen=True)
class Chain:
    """A run of operations that together are one affine.

    Args:
        nodes: their indices, in order.
        source: the value that goes in; `output`: the value that comes out.
        affine: what the run computes.
        norms: the BN layers in it, in order.
        paths: the variables its numbers come from.
    """

    nodes: tuple[int, ...]
    source: int
    output: int
    affine: Affine
    norms: tuple[str, ...]
    paths: frozenset[Path]


def norm_names(paths: frozenset[Path]) -> tuple[str, ...]:
    """The BN layers whose statistics are among the variables: `('Block_0/BatchNorm_0',)`."""
    return tuple(sorted({norm_name(path) for path in paths if STATISTICS in path}))


def norm_name(path: Path) -> str:
    """The layer that a statistic belongs to."""
    return "/".join(path[path.index(STATISTICS) + 1 : -1]) or "BatchNorm"


def find_chains(graph: Graph, live: Sequence[Node], known: Known, batch: Sequence[frozenset[int]]) -> list[Chain]:
    """The maximal chains among the live nodes, in order; `batch` has every value's batch axes."""
    reads = Counter(value for node in live for value in node.inputs) + Counter(graph.outputs)
    open_chains: dict[int, Chain] = {}
    for node in live:
        link = _link(graph, node, known, batch)
        if link is None:
            continue
        before = open_chains.get(link.source)
        joined = _join(before, link) if before is not None and reads[link.source] == 1 else None
        if joined is not None:
            del open_chains[link.source]
        open_chains[link.output] = joined or link
    return [chain for chain in open_chains.values() if not chain.affine.is_identity or chain.norms]


def _join(chain: Chain, link: Chain) -> Chain | None:
    """Both as one, unless a scale along other axes, such as a mask's, would come to that of a BN or be torn from it."""
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


def _link(graph: Graph, node: Node, known: Known, batch: Sequence[frozenset[int]]) -> Chain | None:
    """The node as a chain of one, if it is an affine of its one dynamic operand."""
    dynamic = [operand for operand, value in enumerate(node.inputs) if value not in known]
    if node.name not in AFFINES or len(dynamic) != 1:
        return None
    source, output = node.inputs[dynamic[0]], node.outputs[0]
    avals = graph.avals[source], graph.avals[output]
    if avals[0].shape != avals[1].shape or not all(is_float(aval.dtype) for aval in avals):
        return None
    others = [value for operand, value in enumerate(node.inputs) if operand != dynamic[0]]
    arrays = [_fitted(known.array(value), len(avals[0].shape)) for value in others]
    if any(varying(array) & batch[output] for array in arrays):
        return None
    affine = AFFINES[node.name](arrays, dynamic[0])
    if affine is None:
        return None
    paths = frozenset[Path]().union(*(known.provenance.get(value, frozenset()) for value in others))
    rank = Affine.identity(len(avals[0].shape))
    return Chain((node.index,), source, output, affine.after(rank), norm_names(paths), paths)


def _fitted(array: Tensor, rank: int) -> Array:
    """A known operand with one axis for each axis of the value."""
    array = np.asarray(array, np.float64)
    return compact(array.reshape((1,) * (rank - array.ndim) + array.shape))


def _identity(arrays: list[Array], position: int) -> Affine:
    return Affine(np.ones(()), np.zeros(()))


def _add(arrays: list[Array], position: int) -> Affine:
    return Affine.of_shift(arrays[0])


def _sub(arrays: list[Array], position: int) -> Affine:
    """x − k, or k − x."""
    return Affine.of_shift(-arrays[0]) if position == 0 else Affine(-np.ones((1,) * arrays[0].ndim), arrays[0])


def _mul(arrays: list[Array], position: int) -> Affine:
    return Affine.of_scale(arrays[0])


def _div(arrays: list[Array], position: int) -> Affine | None:
    """x / k; k / x is no affine."""
    return Affine.of_scale(1.0 / arrays[0]) if position == 0 and arrays[0].all() else None


def _neg(arrays: list[Array], position: int) -> Affine:
    return Affine(-np.ones(()), np.zeros(()))


# primitive -> its affine, from its known operands and the position of the dynamic one.
AFFINES: dict[str, Callable[[list[Array], int], Affine | None]] = {
    "add": _add,
    "convert_element_type": _identity,
    "copy": _identity,
    "copy_p": _identity,
    "div": _div,
    "mul": _mul,
    "neg": _neg,
    "stop_gradient": _identity,
    "sub": _sub,
}


def statistics_readers(live: Sequence[Node], known: Known, chains: Sequence[Chain]) -> Iterator[tuple[Node, str]]:
    """The live operations outside every chain that read BN statistics, each with the layer's name."""
    inside = {index for chain in chains for index in chain.nodes}
    for node in live:
        if node.index in inside or all(value in known for value in node.inputs):
            continue
        for value in node.inputs:
            for name in norm_names(known.provenance.get(value, frozenset())):
                yield node, name
