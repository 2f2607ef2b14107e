"""Checks around a fold: networks that must not be folded, and a report that misses nothing."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence, Set

import numpy as np

from bncli.errors import BncliWarning, FoldError
from bncli.folding.report.rows import FoldReport
from bncli.folding.rewrite.edits import EditedGraph
from bncli.folding.rewrite.program import Program
from bncli.folding.search.norms import (
    is_variance,
    looks_like_statistic,
    module_name,
    norm_name,
    norm_names,
    statistic,
)
from bncli.folding.search.statistics import STATISTICS, Statistics
from bncli.folding.trace.constants import is_float
from bncli.folding.trace.graph import Constant, Node, Path


def check_statistics(arrays: Mapping[Path, Constant], statistics: Statistics) -> None:
    """Refuse statistics that no sound training run leaves behind.

    Raises:
        FoldError: some are not finite, or a variance is negative; the message names the layer.
    """
    for path, array in arrays.items():
        if path not in statistics.paths or not is_float(array.dtype):
            continue
        values = np.asarray(array, np.float64)
        if not np.isfinite(values).all():
            raise FoldError(
                f"{norm_name(path, statistics)}: {np.sum(~np.isfinite(values))} of {values.size} numbers in its"
                f" {statistic(path)!r} statistics are not finite",
                remedy="run `bncli inspect-stats` on the checkpoint; an earlier step may be sound",
            )
        if is_variance(path, statistics) and (values < 0).any():
            raise FoldError(
                f"{norm_name(path, statistics)}: its running variance is negative ({values.min():.3g})",
                remedy="the checkpoint is damaged; `bncli recalibrate` computes the statistics anew",
            )


class NothingToFoldWarning(BncliWarning):
    """The network uses no running statistics, so that nothing is folded."""


def check_recognised(arrays: Mapping[Path, Constant], statistics: Statistics) -> None:
    """Say that a network without a single BN layer has none, so that nobody takes it for a folded one.

    Raises:
        FoldError: a variable looks like running statistics, but the network does not use it as such.
    """
    if statistics.paths:
        place = f"under {STATISTICS!r}" if statistics.way == "by name" else "that statistics= names"
        text = f"the network uses none of the running statistics {place}: nothing is folded"
        warnings.warn(text, NothingToFoldWarning, stacklevel=3)
        return
    misfiled = next((path for path in arrays if looks_like_statistic(path)), None)
    if misfiled is not None:
        raise FoldError(
            f"no variable is filed under {STATISTICS!r}, and the network computes no BN from them that bncli knows;"
            f" {'/'.join(misfiled)} looks like running statistics",
            remedy="say which variables are: statistics=lambda path: path[-1] in ('mean', 'var')",
        )
    text = (
        f"no running statistics are among the variables, neither under a key {STATISTICS!r} nor by structure: nothing"
        " is folded. statistics= says which variables they are"
    )
    warnings.warn(text, NothingToFoldWarning, stacklevel=3)


def check_inference_mode(network: EditedGraph) -> None:
    """Refuse a network that normalises with the statistics of its input batch.

    Such a network uses the layer, but reads its running statistics only to update them, or not at all.

    Raises:
        FoldError: the message names the first such layer.
    """
    for bodies in network.inside.values():
        check_inference_mode(bodies[0])
    pooled = _pooled_over_the_batch(network)
    by_example = {value for node in network.live for value in node.inputs} - network.graph.known - pooled
    normalising = _layers_that_meet(network, network.live, by_example)
    in_train_mode = _live_modules(network) | _layers_that_meet(network, network.graph.nodes, pooled)
    for path in sorted(network.graph.leaves.values()):
        if path not in network.names or (name := network.names[path]) in normalising:
            continue
        if name in in_train_mode:
            raise FoldError(
                f"{name} normalises with the statistics of the batch it is given, not with its running statistics",
                remedy="pass an apply function in inference mode: train=False, or use_running_average=True",
            )


def _layers_that_meet(network: EditedGraph, nodes: Sequence[Node], values: Set[int]) -> set[str]:
    """The BN layers whose running statistics meet one of the values in an operation."""
    return {
        name
        for node in nodes
        if not values.isdisjoint(node.inputs)
        for value in node.inputs
        for name in norm_names(network.constants.provenance.get(value, frozenset()), network.names)
    }


def _pooled_over_the_batch(network: EditedGraph) -> set[int]:
    """The dynamic values that all examples share: reductions over the batch, and values computed from those."""
    pooled: set[int] = set()
    for node in network.graph.nodes:
        dynamic = [value for value in node.inputs if value not in network.constants]
        reduced = frozenset(node.params.get("axes", ()))
        if dynamic and (network.batch[dynamic[0]] & reduced or pooled.issuperset(dynamic)):
            pooled.update(node.outputs)
    return pooled


def _live_modules(network: EditedGraph) -> set[str]:
    """The modules with a variable that the outputs depend on."""
    read = {value for node in network.live for value in node.inputs}
    paths = [path for value, path in network.graph.leaves.items() if value in read]
    return {module_name(path) for path in paths if path not in network.names}


def check_complete(network: EditedGraph, program: Program, report: FoldReport) -> None:
    """Compare the report with the folded network: it keeps exactly the BN whose numbers the network still uses.

    Raises:
        FoldError: they differ, which is a defect of this package.
    """
    kept = {row.name for row in report.norms if row.status == "kept"}
    if kept != (found := _multiply_adds(network, program) | _read_directly(network, program)):
        raise FoldError(
            f"the report keeps {sorted(kept)}, and the folded network {sorted(found)}",
            remedy="this is a defect of bncli: please report it with the network",
        )


def _multiply_adds(network: EditedGraph, program: Program) -> set[str]:
    """The BN layers with a multiply-add of their own, by the path of its variables."""
    kept = [add for index, (_, add) in program.chains.items() if network.chains[index].norms]
    inside = (_multiply_adds(network.inside[index][0], loop.body) for index, loop in program.loops.items())
    return {"/".join(term.path[1:-1]) for add in kept for term in add.terms}.union(*inside)


def _read_directly(network: EditedGraph, program: Program) -> set[str]:
    """The BN layers whose statistics meet the data in another operation."""
    others = (*program.chains, *program.loops)
    nodes = [network.graph.nodes[index] for index in program.steps if index not in others]
    dynamic = {value for node in nodes for value in node.inputs} - network.graph.known
    inside = (_read_directly(network.inside[index][0], loop.body) for index, loop in program.loops.items())
    return _layers_that_meet(network, nodes, dynamic).union(*inside)
