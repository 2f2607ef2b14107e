"""What makes a network one that must not be folded, found before anything is; and that nothing was forgotten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np

from bncli.errors import FoldError
from bncli.folding.report.rows import FoldReport
from bncli.folding.rewrite.edits import Draft
from bncli.folding.rewrite.program import Recipe
from bncli.folding.search.chains import STATISTICS, norm_name, norm_names
from bncli.folding.trace.constants import is_float
from bncli.folding.trace.graph import Node, Path

VARIANCE_NAMES = frozenset({"moving_variance", "running_var", "sigma", "var", "variance"})


def check_statistics(arrays: Mapping[Path, Any]) -> None:
    """Refuse statistics that no training run should have left behind.

    Raises:
        FoldError: some are not finite, or a variance is negative; the message names the layer.
    """
    for path, array in arrays.items():
        if STATISTICS not in path or not is_float(array.dtype):
            continue
        values = np.asarray(array, np.float64)
        if not np.isfinite(values).all():
            raise FoldError(
                f"{norm_name(path)}: {np.sum(~np.isfinite(values))} of {values.size} numbers in its"
                f" {path[-1]!r} statistics are not finite",
                remedy="run `bncli inspect-stats` on the checkpoint; an earlier step may be sound",
            )
        if path[-1] in VARIANCE_NAMES and (values < 0).any():
            raise FoldError(
                f"{norm_name(path)}: its running variance is negative ({values.min():.3g})",
                remedy="the checkpoint is damaged; `bncli recalibrate` computes the statistics anew",
            )


def check_inference_mode(draft: Draft) -> None:
    """Refuse a network that normalises with the statistics of its input batch.

    Such a network reads its running statistics only to update them, or not at all, though their layer is in use.

    Raises:
        FoldError: the message names the first such layer.
    """
    pooled = _pooled_over_the_batch(draft)
    by_example = {value for node in draft.live for value in node.inputs} - draft.graph.known - pooled
    normalising = _layers_that_meet(draft, draft.live, by_example)
    in_train_mode = _live_modules(draft) | _layers_that_meet(draft, draft.graph.nodes, pooled)
    for path in sorted(draft.graph.leaves.values()):
        if STATISTICS not in path or (name := norm_name(path)) in normalising:
            continue
        if name in in_train_mode:
            raise FoldError(
                f"{name} normalises with the statistics of the batch it is given, not with its running statistics",
                remedy="pass an apply function in inference mode: train=False, or use_running_average=True",
            )


def _layers_that_meet(draft: Draft, nodes: Sequence[Node], values: Set[int]) -> set[str]:
    """The BN layers whose running statistics meet one of the values in one of the operations."""
    return {
        name
        for node in nodes
        if not values.isdisjoint(node.inputs)
        for value in node.inputs
        for name in norm_names(draft.known.provenance.get(value, frozenset()))
    }


def _pooled_over_the_batch(draft: Draft) -> set[int]:
    """The dynamic values that are one for all examples: means over the batch and what is computed from those."""
    pooled: set[int] = set()
    for node in draft.graph.nodes:
        dynamic = [value for value in node.inputs if value not in draft.known]
        reduced = frozenset(node.params.get("axes", ())) if node.name.startswith("reduce_") else frozenset()
        if dynamic and (draft.batch[dynamic[0]] & reduced or pooled.issuperset(dynamic)):
            pooled.update(node.outputs)
    return pooled


def _live_modules(draft: Draft) -> set[str]:
    """The modules any of whose variables the outputs depend on."""
    read = {value for node in draft.live for value in node.inputs}
    paths = [path for value, path in draft.graph.leaves.items() if value in read]
    return {"/".join(path[1:-1]) for path in paths if STATISTICS not in path}


def check_complete(draft: Draft, recipe: Recipe, report: FoldReport) -> None:
    """Every BN whose numbers the folded network still computes with is reported as kept, and no other.

    Raises:
        FoldError: it is not so, which is a defect of this package.
    """
    kept = {row.name for row in report.norms if row.status == "kept"}
    if kept != (found := _multiply_adds(draft, recipe) | _read_directly(draft, recipe)):
        raise FoldError(
            f"the report keeps {sorted(kept)}, and the folded network {sorted(found)}",
            remedy="this is a defect of bncli: please report it with the network",
        )


def _multiply_adds(draft: Draft, recipe: Recipe) -> set[str]:
    """The BN layers that are a multiply-add of their own, by where its numbers are filed."""
    kept = [add for index, (_, add) in recipe.chains.items() if draft.chains[index].norms]
    return {"/".join(term.path[1:-1]) for add in kept for term in add.terms}


def _read_directly(draft: Draft, recipe: Recipe) -> set[str]:
    """The BN layers whose statistics meet the data in some other operation."""
    nodes = [draft.graph.nodes[index] for index in recipe.steps if index not in recipe.chains]
    dynamic = {value for node in nodes for value in node.inputs} - draft.graph.known
    return _layers_that_meet(draft, nodes, dynamic)
