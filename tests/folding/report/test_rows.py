"""The table of a fold: the row of each BN layer."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from bncli.errors import FoldError
from bncli.folding import FoldReport, NormReport, fold
from bncli.folding.checks import check_complete
from bncli.folding.report.rows import merged, report_on
from bncli.folding.rewrite.materialize import materialize
from bncli.folding.search.search import search_plan
from folding.oracle import check_fold, conv, in_float64, inputs, make, norm, relu
from folding.search.test_search import edited_graph

FOLDED = NormReport("bn", "folded", "backward", ("a",), None)
AGAIN = NormReport("bn", "folded", "forward", ("b", "a"), None, "a sign")
KEPT = NormReport("bn", "kept", None, (), "a ReLU stands in the way")
X = inputs(2, 4, 5, 3)


def test_a_layer_used_twice_is_folded_only_if_both_uses_are():
    assert merged([FOLDED, KEPT]) == KEPT
    assert merged([FOLDED, AGAIN]) == NormReport("bn", "folded", "backward", ("a", "b"), None, "a sign")


def test_counts():
    report = FoldReport((FOLDED, KEPT))
    assert (report.folded, report.kept) == (1, 1)


# --- where the numbers are in the end ------------------------------------------------------------------------------


def apart(v, name, x):
    """A BN with something between it and the one before, so that both are chains of their own."""
    return norm(v, name, x[:, ::-1])


def fates(apply, variables, **selection):
    """name -> (direction, into) of a folded BN, None of a kept one."""
    with jax.enable_x64(True):
        report = fold(apply, in_float64(variables), jnp.asarray(X, jnp.float64), verify=False, **selection).report
    return {row.name: (row.direction, row.into) if row.status == "folded" else None for row in report.norms}


def test_a_bn_merged_into_one_that_is_folded_later_is_where_that_one_went():
    variables = make(bn1=3, bn2=3, bn3=3, a=(3, 3, 3, 4))

    def apply(v, x):
        return conv(v, "a", apart(v, "bn3", apart(v, "bn2", norm(v, "bn1", jnp.tanh(x)))))

    check_fold(apply, variables, X, folded=["bn1", "bn2", "bn3"])
    assert fates(apply, variables) == dict.fromkeys(["bn1", "bn2", "bn3"], ("forward", ("a",)))


def test_a_bn_merged_into_one_that_is_kept_is_in_that_one_and_counts_as_folded():
    """One multiply-add is left, and one BN is kept."""
    variables = make(bn1=3, bn2=3, bn3=3)

    def apply(v, x):
        return jnp.tanh(apart(v, "bn3", apart(v, "bn2", norm(v, "bn1", jnp.tanh(x)))))

    result = check_fold(apply, variables, X, folded=["bn1", "bn2"], kept=["bn3"])
    assert list(result.variables["params"]) == ["bn3"]
    assert fates(apply, variables) == {"bn1": ("forward", ("bn3",)), "bn2": ("forward", ("bn3",)), "bn3": None}


def test_a_bn_can_go_back_into_one_that_is_not_selected():
    variables = make(bn1=3, bn2=3)

    def apply(v, x):
        return jnp.tanh(apart(v, "bn2", norm(v, "bn1", jnp.tanh(x))))

    assert fates(apply, variables, exclude=["bn1"]) == {"bn1": None, "bn2": ("backward", ("bn1",))}


def test_a_bn_in_two_places_names_both():
    variables = make(bn1=3, bn2=3, bn3=3, a=(3, 3, 3, 4))

    def apply(v, x):
        y = norm(v, "bn1", jnp.tanh(x))
        return conv(v, "a", apart(v, "bn2", y)), jnp.tanh(apart(v, "bn3", y))

    check_fold(apply, variables, X, folded=["bn1", "bn2"], kept=["bn3"])
    assert fates(apply, variables) == {"bn1": ("forward", ("a", "bn3")), "bn2": ("forward", ("a",)), "bn3": None}


@pytest.mark.parametrize(("exclude", "kept"), [([], "bn2"), (["bn1"], "bn1"), (["bn2"], "bn2"), (["bn*"], "bn2")])
def test_of_two_bn_in_a_row_one_is_kept(exclude, kept):
    """They are one multiply-add; by name bn1 comes first, in the network bn2 does."""
    variables = make(bn1=3, bn2=3)

    def apply(v, x):
        return jnp.tanh(norm(v, "bn1", norm(v, "bn2", jnp.tanh(x))))

    into = ("backward", ("bn2",)) if kept == "bn2" else ("forward", ("bn1",))
    assert fates(apply, variables, exclude=exclude) == {"bn2": into, "bn1": into} | {kept: None}
    if not exclude:
        result = check_fold(apply, variables, X, folded=["bn1"], kept=["bn2"])
        assert list(result.variables["params"]) == ["bn2"]


def test_layers_are_named_in_the_order_in_which_data_meets_them():
    variables = make(b=(3, 3, 3, 4), a=(1, 1, 3, 4), bn=4)
    assert fates(lambda v, x: relu(norm(v, "bn", conv(v, "b", x) + conv(v, "a", x))), variables) == {
        "bn": ("backward", ("b", "a"))
    }


# --- what is left of a folded one ----------------------------------------------------------------------------------


def test_what_a_folded_bn_leaves_in_the_network_is_said():
    variables = make(a=(3, 3, 3, 4), bn=4)

    def pooled(v, x):
        window = (1, 2, 2, 1)
        return relu(norm(v, "bn", lax.reduce_window(conv(v, "a", x), -jnp.inf, lax.max, window, (1,) * 4, "SAME")))

    def padded(v, x):
        return relu(norm(v, "bn", jnp.pad(conv(v, "a", x), ((0, 0), (1, 1), (0, 0), (0, 0)))))

    def plain(v, x):
        return relu(norm(v, "bn", conv(v, "a", x)))

    for apply, left in ((pooled, "a sign"), (padded, "a shift"), (plain, None)):
        result = check_fold(apply, variables, X, folded=["bn"])
        assert result.report.norms[0].left == left


# --- the report is what the folded network says --------------------------------------------------------------------


def test_a_report_that_does_not_fit_the_folded_network_is_a_defect():
    variables = make(a=(3, 3, 3, 3), bn1=3, bn2=3)
    network = edited_graph(lambda v, x: jnp.tanh(norm(v, "bn2", relu(norm(v, "bn1", conv(v, "a", x))))), variables, X)
    with jax.enable_x64(True):
        plan = search_plan(network, {"bn1", "bn2"})
        program, _ = materialize(
            plan, {path: np.ones(network.graph.avals[v].shape) for v, path in network.graph.leaves.items()}
        )
    report = report_on(plan)
    check_complete(plan.network, program, report)
    one, two = report.norms
    for wrong in ((one, replace(two, status="folded")), (replace(one, status="kept"), two)):
        with pytest.raises(FoldError, match="the report keeps"):
            check_complete(plan.network, program, FoldReport(wrong))


def test_statistics_that_something_else_reads_are_kept():
    variables = make(a=(3, 3, 3, 4), bn=4)

    def apply(v, x):
        y = relu(norm(v, "bn", conv(v, "a", x)))
        return jnp.maximum(y, v["batch_stats"]["bn"]["mean"])

    result = check_fold(apply, variables, X, kept=["bn"])
    assert result.report.norms[0].reason == "its statistics go into max, which is no multiply-add"
    assert list(result.variables["batch_stats"]["bn"]) == ["mean"]


def test_statistics_that_are_an_output_come_out_and_do_not_keep_a_bn():
    """Flax returns them so with `mutable=["batch_stats"]`."""
    variables = make(a=(3, 3, 3, 4), bn=4)

    def apply(v, x):
        return relu(norm(v, "bn", conv(v, "a", x))), v["batch_stats"], v["batch_stats"]["bn"]["var"] * 2

    with jax.enable_x64(True):
        variables, x = in_float64(variables), jnp.asarray(X, jnp.float64)
        result = fold(apply, variables, x)
        assert result.report.folded == 1
        for mine, theirs in zip(jax.tree.leaves(result(x)), jax.tree.leaves(apply(variables, x)), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-9)
