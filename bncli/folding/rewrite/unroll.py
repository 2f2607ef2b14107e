"""A network without loops and branches: the iterations of each scan in its place, and both branches of each cond.

The body of a scan is folded as it is (`trace/bodies`), but no BN moves from one iteration to the next. Where one
should, each iteration must be written in its place.
"""

from __future__ import annotations

import jax

from bncli.folding.rewrite.program import Program, run
from bncli.folding.trace.arguments import described
from bncli.folding.trace.graph import ApplyFn, Pytree, leaf_path, trace


def unrolled(apply_fn: ApplyFn) -> ApplyFn:
    """The same function, traced without scans and conds; a while loop stays as it is."""

    def apply(variables: Pytree, x: Pytree) -> Pytree:
        graph = trace(apply_fn, described(variables, "variable"), described(x, "input"), unroll=True)
        leaves = jax.tree_util.tree_flatten_with_path(variables)[0]
        arrays = {leaf_path(path): array for path, array in leaves}
        return run(Program(tuple(node.index for node in graph.live())), graph, arrays, x)

    return apply
