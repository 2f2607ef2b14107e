"""A folded network: what `fold` returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import jax

from bncli.errors import FoldError
from bncli.folding.report.rows import FoldReport
from bncli.folding.rewrite.program import Program, fits, run
from bncli.folding.trace.arguments import as_text, described, like_example
from bncli.folding.trace.graph import ApplyFn, Constant, Path, Pytree, Structure, leaf_path, trace


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
        build_module: makes the user's own module without BN; None if there is no such thing.
    """

    variables: dict[str, Pytree] = field(repr=False)
    report: FoldReport
    original: ApplyFn = field(repr=False)
    shapes: Pytree = field(repr=False)
    example: Pytree
    structure: Structure = field(repr=False)
    numbers: Mapping[int, bytes] = field(repr=False)
    program: Program = field(repr=False)
    build_module: Callable[[Folded], object] | None = field(default=None, repr=False)

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
        same = graph.structure == self.structure and graph.numbers(self.numbers) == self.numbers
        if not same or not fits(self.program, graph):
            raise self._refusal(found, "runs other operations")
        return run(self.program, graph, dict(flatten(variables)), x)

    @cached_property
    def module(self) -> Pytree:
        """The user's own module with an identity in the place of each folded BN, and the new weights.

        Raises:
            FoldError: a function was folded, or a folded array has no place in the module.
        """
        if self.build_module is None:
            raise FoldError(
                "there is no module to give back: this network is a function of its variables",
                remedy="use folded(x) and folded.variables; NNX, Equinox and Keras networks have a module",
            )
        return self.build_module(self)

    def _refusal(self, given: Pytree, verb: str) -> FoldError:
        """The error for an input that needs other folded numbers: a folded mean over H·W is a factor 1/(H·W)."""
        return FoldError(
            f"for an input {as_text(given)} the network {verb} than for its example, {as_text(self.example)}",
            remedy="fold it with an example of this shape and dtype",
        )

    @cached_property
    def _jitted(self) -> ApplyFn:
        return jax.jit(self.apply)


def flatten(variables: Pytree) -> Iterable[tuple[Path, Constant]]:
    """Each array with its path."""
    return ((leaf_path(path), array) for path, array in jax.tree_util.tree_flatten_with_path(variables)[0])


def nested(arrays: Mapping[Path, Constant]) -> dict[str, Pytree]:
    """The arrays in nested dicts."""
    tree: dict[str, Pytree] = {}
    for path, array in arrays.items():
        branch = tree
        for key in path[:-1]:
            branch = branch.setdefault(key, {})
        branch[path[-1]] = array
    return tree
