"""The proof that every fold brings along: both networks run on a few random examples.

The outputs prove nothing where they would be the same for a wrong fold: behind a ReLU that is dead for every example,
or a softmax that is saturated, or in a branch that is not taken. Then values inside are compared, the last ones before
the outputs that do vary with the input. A fold that no such value shows is not proved, and the result says so.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax

from bncli.folding.folded import Folded
from bncli.folding.proof.examples import count, random_inputs
from bncli.folding.proof.inside import Inside, ancestors, compiled, gates, least_tolerance, rough_values
from bncli.folding.trace.arguments import described
from bncli.folding.trace.graph import Pytree, trace
from bncli.folding.verify import Comparison, Verification, compare, outcome

MANY = 3  # names in one sentence


def prove(folded: Folded, variables: Pytree) -> Verification:
    """The comparison of a folded network with its original on random examples.

    Args:
        variables: the original network's.
    """
    graph = trace(folded.original, folded.shapes, folded.example)
    if any(node.effectful for node in graph.nodes):
        return _unproved("the network has side effects, so it was not run")
    inputs = random_inputs(folded)
    if inputs is None:
        return _unproved("the network cannot run on random inputs of the example's shapes and dtypes")
    both = compiled(lambda ours, theirs, x: (folded.original(ours, x), folded.apply(theirs, x)))
    with jax.default_matmul_precision("highest"):
        pairs = [(count(x), *jax.device_get(both(variables, folded.variables, x))) for x in inputs]
    least = least_tolerance(graph)
    return settled(compare(pairs, least=least), folded, variables, inputs, least=least)


def settled(
    comparison: Comparison,
    folded: Folded,
    variables: Pytree,
    inputs: Sequence[Pytree],
    *,
    tolerance: float | None = None,
    least: float = 0.0,
) -> Verification:
    """The result of a comparison of the outputs, settled by values inside where the outputs do not show every fold.

    Args:
        variables: the original network's.
        inputs: two batches or more of as many examples each; only these are run again.
        tolerance: the largest relative error of an output; by default the rounding of its dtype.
        least: the rounding of other dtypes in the network.
    """
    graph = trace(folded.original, folded.shapes, described(inputs[0], "input"))
    if graph.structure != folded.structure:
        return outcome(comparison)
    rough = rough_values(graph)
    outputs = list(zip(graph.outputs, comparison.outputs, strict=True))
    if any(match.sound and not match.agrees and value not in rough for value, match in outputs):
        return comparison.verification("failed")
    closed = gates(graph)
    shown = ancestors(graph, {value for value, match in outputs if match.tells}, closed=closed)
    agree = all(match.agrees for match in comparison.outputs)
    if agree and shown.issuperset(folded.program.rewritten):
        return comparison.verification("proved")
    gated = {value for node in closed for value in node.inputs}
    silent = gated | {value for value, match in outputs if not match.tells}
    found = Inside(folded, graph, rough, tolerance, least).search(variables, inputs, silent)
    if found.wrong:
        return comparison.verification("failed", "values inside the network differ", found.wrong)
    if not agree:
        return comparison.verification("not proved", _doubt(comparison))
    shown |= ancestors(graph, found.witnesses, closed=closed)
    hidden = [name for value, names in folded.program.rewritten.items() if value not in shown for name in names]
    if hidden:
        return comparison.verification("not proved", _hidden(hidden))
    return comparison.verification("proved", "the outputs do not show every fold, so values inside were compared too")


def _doubt(comparison: Comparison) -> str:
    """The reason why outputs that differ are no failure."""
    if not all(match.sound for match in comparison.outputs):
        return "the original's outputs are not finite"
    return "the network rounds or sorts its values, which makes tiny differences large"


def _hidden(names: Sequence[str]) -> str:
    """The reason why some folds are not proved."""
    shown = ", ".join(names[:MANY]) + (f" and {len(names) - MANY} more" if len(names) > MANY else "")
    return f"no value that varies with the input shows the fold of {shown}"


def _unproved(note: str) -> Verification:
    return Comparison(0, 0.0, ()).verification("not proved", note)
