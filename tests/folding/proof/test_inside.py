"""The values that both networks have in common."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from bncli.folding import fold
from bncli.folding.proof.examples import random_inputs
from bncli.folding.proof.inside import DISCONTINUOUS, Inside, ancestors, least_tolerance, rough_values
from bncli.folding.trace.graph import trace
from folding.nets import NETS, X, trained

SHAPE = jax.ShapeDtypeStruct((2, 3), np.float32)


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", ["classic, post", "inception, post", "resnet, preactivation", "densenet", "unet"])
def test_every_value_that_no_fold_moved_is_the_same_in_both_networks(name):
    model = NETS[name][0]
    variables = trained(model, X)
    folded = fold(model.apply, variables, X[:2], verify=False)
    graph = trace(folded.original, folded.shapes, folded.example)
    inside = Inside(folded, graph, frozenset(), None, 0.0)
    common = inside.common()
    assert len(common) > folded.report.folded
    matches = inside.matches(variables, random_inputs(folded), common)
    assert max(match.relative for match in matches.values()) < 1e-5


def nodes(function):
    return trace(lambda v, x: function(x), {}, SHAPE)


STEPS = {
    "argmax": lambda x: x.argmax(1),
    "integers": lambda x: x.astype(np.int32),
    "float8": lambda x: x.astype(jax.numpy.float8_e5m2),
    "few digits": lambda x: jax.lax.reduce_precision(x, 8, 3),
    "round": jax.numpy.round,
    "sign": jax.numpy.sign,
    "sort": jax.numpy.sort,
    "top_k": lambda x: jax.lax.top_k(x, 2)[0],
}
SMOOTH = {
    "relu": jax.nn.relu,
    "leaky relu": jax.nn.leaky_relu,
    "softmax": jax.nn.softmax,
    "bfloat16": lambda x: x.astype(jax.numpy.bfloat16),
    "few digits, but enough": lambda x: jax.lax.reduce_precision(x, 8, 7),
}


@pytest.mark.parametrize("name", [*STEPS, *SMOOTH])
def test_a_value_is_rough_behind_an_operation_that_makes_steps(name):
    graph = nodes(lambda x: {**STEPS, **SMOOTH}[name](x * 2).astype(np.float32) + 1)
    assert (graph.outputs[0] in rough_values(graph)) == (name in STEPS)
    assert graph.nodes[0].outputs[0] not in rough_values(graph)


def test_a_constant_that_is_rounded_makes_nothing_rough():
    graph = nodes(lambda x: x + jax.numpy.round(np.float32(2.5)))
    assert not rough_values(graph)
    assert "round" in DISCONTINUOUS


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: x + 1, 1e-4),
        (lambda x: (x.astype(np.float16) * 2).astype(np.float32), 2**-6),
        (lambda x: (x.astype(jax.numpy.bfloat16) * 2).astype(np.float32), 2**-4),
        (lambda x: jax.lax.reduce_precision(x, 8, 7), 2**-4),
        (lambda x: jax.lax.reduce_precision(x, 8, 12), 1e-4),
        (lambda x: x * np.float16(2).astype(jax.numpy.bfloat16).astype(np.float32), 1e-4),
    ],
)
def test_the_tolerance_is_that_of_the_shortest_type_that_the_data_go_through(function, expected):
    assert least_tolerance(nodes(function)) == expected


def test_ancestors_are_all_values_that_another_one_is_computed_from():
    graph = nodes(lambda x: (x * 2 + 1, x - 3))
    product, total, difference = (node.outputs[0] for node in graph.nodes)
    assert {product, total, *graph.inputs} <= ancestors(graph, {total})
    assert difference not in ancestors(graph, {total})
