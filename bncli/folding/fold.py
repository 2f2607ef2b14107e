"""The fold of a network: trace it, search a plan, materialize the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import jax

from bncli.errors import FoldError
from bncli.folding.checks import check_complete, check_inference_mode, check_recognised, check_statistics
from bncli.folding.folded import Folded, nested
from bncli.folding.proof.prove import prove
from bncli.folding.report.rows import report_on
from bncli.folding.rewrite.edits import EditedGraph
from bncli.folding.rewrite.materialize import materialize
from bncli.folding.search.search import search_plan
from bncli.folding.search.statistics import Asked, find_statistics
from bncli.folding.trace.arguments import concrete, described, is_batched, resized
from bncli.folding.trace.bodies import bodies_within, differing_axes, find_bodies
from bncli.folding.trace.constants import Constants
from bncli.folding.trace.graph import ApplyFn, Graph, Pytree, trace


def fold(
    apply_fn: ApplyFn,
    variables: Pytree,
    example: Pytree,
    *,
    include: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
    statistics: Asked = None,
    verify: bool = True,
) -> Folded:
    """Fold every BN of a network that can be folded exactly.

    Args:
        apply_fn: `apply_fn(variables, x)`, in inference mode; any traceable function.
        variables: its pytree of arrays and Python numbers.
        example: an input, or its `jax.ShapeDtypeStruct`; only shape and dtype matter. Several inputs are a tuple, a
            dict or any other pytree, and their common first axis is the batch size.
        include: patterns of the BN layers to fold, by the names of the report (`Block_1/*`).
        exclude: patterns of the BN layers to keep.
        statistics: the running statistics among the variables, as a predicate on the path of a variable (a tuple of
            names), or as a tree like the variables with a `Role`, True, False or None for each. By default those under
            a key `batch_stats`; if there is none, those that the network uses as a mean and a variance.
        verify: compare both networks on a few random examples; the result is `report.verification`.

    Raises:
        FoldError: the network must not be folded: a statistic is not finite, a variance is negative, a BN is in train
            mode, or a folded number is too large for its dtype. Or a variable looks like running statistics, but the
            network does not use it as such. Or the folded network computes other outputs.
    """
    arrays = concrete(variables)
    shapes, inputs = described(variables, "variable"), described(example, "input")
    graph = trace(apply_fn, shapes, inputs)
    constants = Constants(graph, arrays)
    other = _other_size(graph, apply_fn, shapes, inputs)
    bodies = find_bodies(graph, other, constants)
    inside = [(body.graph, body.constants[0].provenance) for body in bodies_within(bodies)]
    found = find_statistics(statistics, variables, graph, constants.provenance, inside=inside)
    check_statistics(arrays, found)
    network = EditedGraph(graph, constants, differing_axes(graph, other), found, bodies=bodies)
    check_inference_mode(network)
    plan = search_plan(network, {name for name in network.layers if _selected(name, include, exclude)})
    report = report_on(plan, found.way)
    if not report.norms and not isinstance(getattr(apply_fn, "__self__", None), Folded):
        check_recognised(arrays, found)
    program, folded_arrays = materialize(plan, arrays)
    check_complete(plan.network, program, report)
    folded = Folded(
        variables=nested(folded_arrays),
        report=report,
        original=apply_fn,
        shapes=shapes,
        example=inputs,
        structure=graph.structure,
        numbers=graph.numbers(program.spent),
        program=program,
    )
    if not verify:
        return folded
    return _proved(folded, jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(variables), arrays.values()))


def _proved(folded: Folded, variables: Pytree) -> Folded:
    """The network with the proof in its report.

    Raises:
        FoldError: the proof fails.
    """
    proof = prove(folded, variables)
    if proof.status == "failed":
        raise FoldError(
            f"the folded network computes other numbers on random examples: relative error {proof.max_rel_error:.3g},"
            f" allowed {proof.tolerance:.3g}" + (f" ({proof.note})" if proof.note else ""),
            remedy="please report it with the network; exclude= keeps layers, and verify=False returns it as it is",
        )
    return replace(folded, report=replace(folded.report, verification=proof))


def batch_axes(graph: Graph, apply_fn: ApplyFn, shapes: Pytree, example: Pytree) -> list[frozenset[int]]:
    """For each value, the axes whose length changes with the batch size, found by a second trace.

    A network that runs at one batch size only has no batch axes: all that differs by example is fixed in it.
    """
    return differing_axes(graph, _other_size(graph, apply_fn, shapes, example))


def _other_size(graph: Graph, apply_fn: ApplyFn, shapes: Pytree, example: Pytree) -> Graph | None:
    """The trace for one more example; None if the network does not run, or runs other operations."""
    inputs = [x for x in jax.tree_util.tree_leaves(example) if x.shape]
    if not is_batched(inputs):
        return None
    try:
        other = trace(apply_fn, shapes, resized(example, inputs[0].shape[0] + 1))
    except Exception:  # raised by the network itself, so it may be of any type
        return None
    return other if other.structure == graph.structure else None


def _selected(name: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    return any(fnmatchcase(name, p) for p in include) and not any(fnmatchcase(name, p) for p in exclude)
