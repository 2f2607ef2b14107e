"""No order of folding, and no choice of directions, leaves fewer BN than the plan."""

from __future__ import annotations

import os
from itertools import permutations, product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax import lax

from bncli.folding import fold
from bncli.folding.fold import batch_axes
from bncli.folding.rewrite.edits import EditedGraph, Edits
from bncli.folding.search.propagate import propagate_backward, propagate_forward
from bncli.folding.search.search import search_plan
from bncli.folding.search.statistics import find_statistics
from bncli.folding.trace.constants import Constants
from bncli.folding.trace.graph import leaf_path, trace
from folding.oracle import check_fold, conv, in_float64, inputs, make, make_norm, norm, relu
from folding.test_properties import PARTS, Network, draw_head

X = inputs(2, 4, 4, 3)
MOST = 4  # BN in one network: all orders and directions are 4!·2⁴


def edited_graph(apply, variables, x) -> EditedGraph:
    with jax.enable_x64(True):
        variables = in_float64(variables)
        arrays = {leaf_path(path): array for path, array in jax.tree_util.tree_flatten_with_path(variables)[0]}
        shapes = jax.tree_util.tree_map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), variables)
        example = jax.ShapeDtypeStruct(x.shape, jnp.float64)
        graph = trace(apply, shapes, example)
        constants = Constants(graph, arrays)
        found = find_statistics(None, variables, graph, constants.provenance)
        return EditedGraph(graph, constants, batch_axes(graph, apply, shapes, example), found)


def kept_by_the_plan(network: EditedGraph) -> int:
    names = {name for norms in network.norms.values() for name in norms}
    return search_plan(network, names).cost[0]


def kept_at_least(network: EditedGraph) -> int:
    """The fewest BN that any order and any preference of directions leave, each repeated until nothing changes."""
    chains = sorted(network.norms)
    preferences = [(propagate_backward, propagate_forward), (propagate_forward, propagate_backward)]
    plans = product(permutations(chains), list(product(preferences, repeat=len(chains))))
    return min(kept_by(network.unedited(), order, dict(zip(chains, ways, strict=True))) for order, ways in plans)


def kept_by(network: EditedGraph, order, ways) -> int:
    while sum(fold_first(network, index, ways[index]) for index in order if index in network.norms):
        pass
    return len(network.norms)


def fold_first(network: EditedGraph, index: int, ways) -> bool:
    for way in ways:
        edits = way(network, index)
        if isinstance(edits, Edits):
            network.commit(index, edits)
            return True
    return False


# --- networks in which one fold spoils another ---------------------------------------------------------------------


def pure(variables, *names):
    """BN that only multiply, by positive numbers: they pass a ReLU."""
    for name in names:
        width = variables["batch_stats"][name]["mean"].size
        variables["params"][name] = {"scale": np.linspace(0.5, 2.0, width)}
        variables["batch_stats"][name]["mean"] = np.zeros(width)
    return variables


def merged_into_two(v, x):
    """bn1 could merge into bn2 and bn3, but then neither of those passes its ReLU."""
    y = norm(v, "bn1", jnp.tanh(x))
    return conv(v, "a", relu(norm(v, "bn2", y))) + conv(v, "b", relu(norm(v, "bn3", y)))


def merged_into_two_gates(v, x):
    y = norm(v, "bn1", relu(conv(v, "c", x)))
    gate = jax.nn.sigmoid(x.mean(-1, keepdims=True))
    return conv(v, "a", norm(v, "bn2", y) * gate) + conv(v, "b", norm(v, "bn3", y) * gate)


def freed_by_a_later_one(v, x):
    """bn1 passes the difference only when bn2 has gone, which leaves both sides with one scale."""
    y = norm(v, "bn1", jnp.tanh(x))
    return conv(v, "a", norm(v, "bn2", y) - y)


def two_into_one(v, x):
    y = jnp.concatenate([norm(v, "bn1", jnp.tanh(x)), norm(v, "bn2", relu(conv(v, "c", x)))], axis=-1)
    return relu(y[..., :3]), conv(v, "a", y[..., 3:])


def signs(v, x):
    y = lax.reduce_window(conv(v, "c", x), -jnp.inf, lax.max, (1, 2, 2, 1), (1, 1, 1, 1), "SAME")
    return relu(norm(v, "bn2", lax.reduce_window(norm(v, "bn1", y), -jnp.inf, lax.max, (1, 2, 2, 1), (1,) * 4, "SAME")))


def conflicting():
    """The variables of the networks above."""
    variables = make(bn1=3, bn2=3, bn3=3, a=(1, 1, 3, 2), b=(1, 1, 3, 2), c=(1, 1, 3, 3))
    return pure(variables, "bn2", "bn3")


CONFLICTS = {
    # network -> BN kept
    freed_by_a_later_one: 0,
    merged_into_two: 1,
    merged_into_two_gates: 1,
    signs: 0,
    two_into_one: 1,
}


@pytest.mark.parametrize("apply", CONFLICTS, ids=lambda apply: apply.__name__)
def test_conflicts_are_resolved_with_the_fewest_bn_kept(apply):
    variables = conflicting()
    if apply is freed_by_a_later_one:  # a scale of one: only the shift is left to move
        variables["params"]["bn2"] = {"scale": np.sqrt(variables["batch_stats"]["bn2"]["var"] + 1e-3)}
        variables["params"]["bn2"]["bias"] = np.arange(3.0)
    network = edited_graph(apply, variables, X)
    with jax.enable_x64(True):
        assert kept_by_the_plan(network) == CONFLICTS[apply] == kept_at_least(network)
    check_fold(apply, variables, X, kept=None)


# --- random networks ------------------------------------------------------------------------------------------------


def draw_any_norm(draw, net: Network) -> None:
    """A BN, more often than in life one that only multiplies or only adds: those get past more than others do."""
    name = f"bn_{len(net.variables['batch_stats'])}"
    if len(net.variables["batch_stats"]) == MOST:
        return
    params, stats = make_norm(net.rng, net.shape[-1])
    kind = draw(st.sampled_from(["any", "positive", "pure", "pure", "shift"]))
    if kind in ("positive", "pure"):
        params["scale"] = np.abs(params["scale"]) + 0.1
    if kind == "pure":
        del params["bias"]
        stats["mean"] = np.zeros_like(stats["mean"])
    if kind == "shift":
        params["scale"] = np.sqrt(stats["var"] + 1e-3)
    net.variables["params"][name], net.variables["batch_stats"][name] = params, stats
    net.add(lambda v, x: norm(v, name, x))


SOME = {**PARTS, "norm": draw_any_norm}
CHOICES = [*SOME, "activation", "conv", *["join"] * 3, *["norm"] * 5]


@st.composite
def networks(draw) -> Network:
    net = Network(rng=np.random.default_rng(draw(st.integers(0, 2**16))))
    net.shapes.append((2, draw(st.integers(3, 4)), 3, draw(st.sampled_from([1, 2]))))
    for part in draw(st.lists(st.sampled_from(CHOICES), min_size=4, max_size=9)):
        SOME[part](draw, net)
    if draw(st.booleans()):
        draw_head(draw, net)
    return net


@pytest.mark.broad
@settings(
    max_examples=int(os.environ.get("BNCLI_PLANS", "60")),
    deadline=None,
    derandomize="BNCLI_PLANS" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(networks(), st.booleans())
def test_no_order_and_no_directions_leave_fewer_bn(net, all_values):
    def apply(v, x):
        values = net.values(v, x)
        return values[len(net.steps) // 2 :: 2] if all_values else values[-1]

    network = edited_graph(apply, net.variables, inputs(*net.shapes[0]))
    with jax.enable_x64(True):
        assert kept_by_the_plan(network) == kept_at_least(network)


# --- what a plan says ----------------------------------------------------------------------------------------------


def test_a_bn_that_is_the_identity_is_simply_gone():
    variables = make(a=(1, 1, 3, 3), bn=3)
    variables["params"]["bn"] = {}
    variables["batch_stats"]["bn"] = {"mean": np.zeros(3), "var": np.full(3, 1 - 1e-3)}

    def apply(v, x):
        return jnp.tanh(norm(v, "bn", jnp.tanh(conv(v, "a", x))))

    with jax.enable_x64(True):
        result = fold(apply, in_float64(variables), in_float64(X), verify=False)
        kept = fold(apply, in_float64(variables), in_float64(X), exclude=["bn"], verify=False)
    assert (result.report.folded, result.report.norms[0].into) == (1, ())
    assert "bn" not in result.variables["params"]
    assert kept.report.kept == 1
    assert list(kept.variables["params"]["bn"]) == ["scale"]
