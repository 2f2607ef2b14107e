"""``bncli.fold``: one call for the networks of every framework."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bncli.errors import FoldError
from bncli.folding import Folded
from bncli.folding import fold as fold_function
from bncli.folding.proof.examples import count, random_inputs
from bncli.folding.proof.inside import compiled
from bncli.folding.rewrite.unroll import unrolled
from bncli.folding.search.statistics import Asked
from bncli.folding.trace.graph import Pytree
from bncli.folding.verify import compare, outcome
from bncli.frameworks.adapt import adapted, bound, framework_of
from bncli.frameworks.adapted import Adapted


def fold(
    network: Pytree,
    *arguments: Pytree,
    include: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
    statistics: Asked = None,
    verify: bool = True,
    unroll: bool = False,
    **named: Pytree,
) -> Folded:
    """Fold every BN of a network that can be folded exactly.

    ============================================= ============================================
    ``fold(apply_fn, variables, example)``        any function ``apply_fn(variables, x)``
    ``fold(module, variables, example)``          a linen module
    ``fold(module, example)``                     an NNX module, after ``module.eval()``
    ``fold(model, example, state=state)``         an Equinox model, in ``eqx.nn.inference_mode``
    ``fold(transformed, params, state, example)`` a function transformed by Haiku
    ``fold(model, example)``                      a Keras model on JAX
    ============================================= ============================================

    The network stays as it is. The result is called as ``folded(x)``, its arrays are ``folded.variables``, and
    ``folded.module`` is the user's own module without BN (NNX, Equinox, Keras).

    Args:
        network: a function or a network in eval mode.
        arguments: its arrays, where it does not hold them, and an example, as in the table. The example is a batch of
            inputs, or its `jax.ShapeDtypeStruct`. Several inputs are a tuple, which a network of a framework takes as
            its positional arguments, and a function as one argument.
        include: patterns of the BN layers to fold, by the names of the report (`Block_1/*`).
        exclude: patterns of the BN layers to keep.
        statistics: for a function: its running statistics, as a predicate on the path of a variable (a tuple of names),
            or as a tree like the variables with a `bncli.folding.Role`, True, False or None for each. By default those
            under a key `batch_stats`; if there is none, those that the function uses as a mean and a variance.
        verify: compare both networks on a few random examples; the result is `report.verification`.
        unroll: write each iteration of a `scan` in its place, so that BN moves from one to the next; the folded network
            is longer by as much. The body of a scan folds without it.
        named: `variables`, `params`, `state` and `example` by name.

    Raises:
        FoldError: the network must not be folded: it is in train mode, a statistic is not finite, a variance is
            negative, or a folded number is too large for its dtype. Or the folded network computes other outputs.
        UsageError: an argument is missing; the remedy is the right call.
    """
    framework = framework_of(network)
    given = bound(framework, "fold", "example", arguments, named)
    if framework is None:
        return fold_function(
            unrolled(network) if unroll else network,
            given["variables"],
            given["example"],
            include=include,
            exclude=exclude,
            statistics=statistics,
            verify=verify,
        )
    user = adapted(network, framework, given)
    folded = fold_function(
        unrolled(user.apply_fn) if unroll else user.apply_fn,
        user.variables,
        given["example"],
        include=include,
        exclude=exclude,
        statistics=statistics,
        verify=verify,
    )
    if user.module is None:
        return folded
    return replace(folded, build_module=lambda folded: _checked_module(user, folded))


def _checked_module(user: Adapted, folded: Folded) -> object:
    """The user's module without BN, if it computes what the folded network does.

    Raises:
        FoldError: a folded array has no place in the module, or the module computes other numbers.
    """
    assert user.module is not None
    module = user.module(folded)
    inputs = random_inputs(folded) or ()
    other = user.again(module)
    run = compiled(other.apply_fn)  # operation by operation, XLA would compile each on its own
    pairs = ((count(x), folded(x), run(other.variables, x)) for x in inputs)
    result = outcome(compare(pairs))
    if result.status == "failed":
        raise FoldError(
            f"the module without BN computes other numbers than the folded network: relative error"
            f" {result.max_rel_error:.3g}",
            remedy="use folded(x) and folded.variables; please report it with the module",
        )
    return module
