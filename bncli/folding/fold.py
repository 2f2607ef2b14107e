"""The fold of a network: trace it, search a plan, materialize the rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property

import jax

from bncli.errors import FoldError
from bncli.folding.checks import check_complete, check_inference_mode, check_statistics
from bncli.folding.report.rows import FoldReport, report_on
from bncli.folding.rewrite.edits import EditedGraph
from bncli.folding.rewrite.materialize import materialize
from bncli.folding.rewrite.program import Program, run
from bncli.folding.search.search import search_plan
from bncli.folding.trace.arguments import as_text, concrete, described, is_batched, like_example, resized
from bncli.folding.trace.constants import Constants
from bncli.folding.trace.graph import (
    ApplyFn,
    Constant,
    Graph,
    Path,
    Pytree,
    Structure,
    leaf_path,
    trace,
)


@dataclass(frozen=True)
class Folded:
    """A network without the BN that could be folded: call it, or use `apply` with `variables`.

    Args:
        variables: every array it reads, in nested dicts under the original names.
        report: one row for each BN layer.
        original: the apply function that was folded; `shapes`: the variables it was traced with.
        example: the shapes and dtypes of its inputs; only the batch size may differ.
        structure: the trace's operations, which another batch size must not change.
        numbers: the constants that went into folded numbers, which it must not change either.
        program: the steps to run with the variables.
    """

    variables: dict[str, Pytree] = field(repr=False)
    report: FoldReport
    original: ApplyFn = field(repr=False)
    shapes: Pytree = field(repr=False)
    example: Pytree
    structure: Structure = field(repr=False)
    numbers: Mapping[int, bytes] = field(repr=False)
    program: Program = field(repr=False)

    def __call__(self, x: Pytree) -> Pytree:
        """The network's outputs for a batch of any size."""
        return self._jitted(self.variables, x)

    def apply(self, variables: Pytree, x: Pytree) -> Pytree:
        """The network's outputs as a pure function of its variables and its inputs.

        Raises:
            FoldError: the inputs differ from the example in structure, in dtype or in a size other than the batch
                size, or the network runs other operations at this batch size.
        """
        found = described(x, "input")
        given = like_example(found, self.example)
        if given is None:
            raise self._refusal(found, "may compute other numbers")
        graph = trace(self.original, self.shapes, given)
        if graph.structure != self.structure or graph.numbers(self.numbers) != self.numbers:
            raise self._refusal(found, "runs other operations")
        return run(self.program, graph, dict(_flatten(variables)), x)

    def _refusal(self, given: Pytree, verb: str) -> FoldError:
        """The error for an input that needs other folded numbers: a folded mean over H·W is a factor 1/(H·W)."""
        return FoldError(
            f"for an input {as_text(given)} the network {verb} than for its example, {as_text(self.example)}",
            remedy="fold it with an example of this shape and dtype",
        )

    @cached_property
    def _jitted(self) -> ApplyFn:
        return jax.jit(self.apply)


def fold(
    apply_fn: ApplyFn,
    variables: Pytree,
    example: Pytree,
    *,
    include: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
) -> Folded:
    """Fold every BN of a network that can be folded exactly.

    Args:
        apply_fn: `apply_fn(variables, x)`, in inference mode; any traceable function.
        variables: its pytree of arrays and Python numbers; running statistics are those under a key `batch_stats`.
        example: an input, or its `jax.ShapeDtypeStruct`; only shape and dtype matter. Several inputs are a tuple, a
            dict or any other pytree, and their common first axis is the batch size.
        include: patterns of the BN layers to fold (`Block_1/*`).
        exclude: patterns of the BN layers to keep.

    Raises:
        FoldError: the network must not be folded: a statistic is not finite, a variance is negative, a BN is in train
            mode, or a folded number is too large for its dtype.
    """
    arrays = concrete(variables)
    check_statistics(arrays)
    shapes, inputs = described(variables, "variable"), described(example, "input")
    graph = trace(apply_fn, shapes, inputs)
    network = EditedGraph(graph, Constants(graph, arrays), batch_axes(graph, apply_fn, shapes, inputs))
    check_inference_mode(network)
    names = {name for norms in network.norms.values() for name in norms}
    plan = search_plan(network, {name for name in names if _selected(name, include, exclude)})
    report = report_on(plan)
    program, folded_arrays = materialize(plan, arrays)
    check_complete(plan.network, program, report)
    return Folded(
        variables=_nested(folded_arrays),
        report=report,
        original=apply_fn,
        shapes=shapes,
        example=inputs,
        structure=graph.structure,
        numbers=graph.numbers(program.spent),
        program=program,
    )


def batch_axes(graph: Graph, apply_fn: ApplyFn, shapes: Pytree, example: Pytree) -> list[frozenset[int]]:
    """For each value, the axes whose length changes with the batch size, found by a second trace.

    A network that runs at one batch size only has no batch axes: all that differs by example is fixed in it.
    """
    inputs = [x for x in jax.tree_util.tree_leaves(example) if x.shape]
    if not is_batched(inputs):
        return [frozenset()] * len(graph.avals)
    try:
        other = trace(apply_fn, shapes, resized(example, inputs[0].shape[0] + 1))
    except Exception:  # raised by the network itself, so it may be of any type
        return [frozenset()] * len(graph.avals)
    if other.structure != graph.structure:
        return [frozenset()] * len(graph.avals)
    return [
        frozenset(axis for axis, sizes in enumerate(zip(mine.shape, theirs.shape, strict=True)) if sizes[0] != sizes[1])
        for mine, theirs in zip(graph.avals, other.avals, strict=True)
    ]


def _selected(name: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    return any(fnmatchcase(name, p) for p in include) and not any(fnmatchcase(name, p) for p in exclude)


def _flatten(variables: Pytree) -> Iterable[tuple[Path, Constant]]:
    return ((leaf_path(path), array) for path, array in jax.tree_util.tree_flatten_with_path(variables)[0])


def _nested(arrays: Mapping[Path, Constant]) -> dict[str, Pytree]:
    tree: dict[str, Pytree] = {}
    for path, array in arrays.items():
        branch = tree
        for key in path[:-1]:
            branch = branch.setdefault(key, {})
        branch[path[-1]] = array
    return tree
