"""A trace in this package's own words."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bncli.folding import fold
from bncli.folding.trace.graph import trace
from folding.oracle import conv, inputs, make, norm

GOLDEN = """\
x: float32[2,4,4,3]
v0: float32[2,4,4,4] = conv_general_dilated x, params/a/kernel
v1: float32[1,1,1,4] = broadcast_in_dim params/a/bias
v2: float32[2,4,4,4] = add v0, v1
v3: float32[1,1,1,4] = reshape batch_stats/bn/var
v4: float32[1,1,1,4] = add v3, 0.001
v5: float32[1,1,1,4] = rsqrt v4
v6: float32[1,1,1,4] = reshape params/bn/scale
v7: float32[1,1,1,4] = mul v5, v6
v8: float32[1,1,1,4] = reshape batch_stats/bn/mean
v9: float32[2,4,4,4] = sub v2, v8
v10: float32[2,4,4,4] = mul v9, v7
v11: float32[1,1,1,4] = reshape params/bn/bias
v12: float32[2,4,4,4] = add v10, v11
v13: float32[2,4,4,4] = max v12, 0.0
return v13
"""

GOLDEN_FOLDED = """\
x: float32[2,4,4,3]
v0: float32[2,4,4,4] = conv_general_dilated x, params/a/kernel
v1: float32[1,1,1,4] = reshape params/a/bias
v2: float32[2,4,4,4] = add v0, v1
v3: float32[2,4,4,4] = max v2, 0.0
return v3
"""


def apply(v, x):
    return jax.jit(jax.nn.relu)(jax.checkpoint(lambda v, x: norm(v, "bn", conv(v, "a", x)))(v, x))


@pytest.fixture
def variables():
    return jax.tree_util.tree_map(lambda a: jnp.asarray(a, jnp.float32), make(bias=True, a=(3, 3, 3, 4), bn=4))


X = jax.ShapeDtypeStruct((2, 4, 4, 3), jnp.float32)


def test_the_text_of_a_network_and_of_the_folded_one(variables):
    assert trace(apply, variables, X).text() == GOLDEN
    folded = fold(apply, variables, X)
    assert trace(folded.apply, folded.variables, X).text() == GOLDEN_FOLDED


def test_the_structure_does_not_depend_on_the_batch_size(variables):
    structures = {
        trace(apply, variables, jax.ShapeDtypeStruct((size, 4, 4, 3), jnp.float32)).structure for size in (1, 2, 9)
    }
    assert len(structures) == 1


def test_what_the_input_cannot_reach_is_known(variables):
    graph = trace(apply, variables, X)
    dynamic = {value for node in graph.nodes for value in node.outputs} - graph.known
    assert [node.name for node in graph.nodes if dynamic.intersection(node.outputs)] == [
        "conv_general_dilated", "add", "sub", "mul", "add", "max"
    ]  # fmt: skip


def test_scopes_name_the_modules():
    def named(v, x):
        with jax.named_scope("Net"):
            inner = jax.jit(lambda x: jnp.sin(x))
            with jax.named_scope("Block_0"):
                return inner(x)

    (node,) = trace(named, {}, X).nodes
    assert node.scope == "Net/Block_0"


def test_dead_operations_are_not_live():
    graph = trace(lambda v, x: (jnp.sin(x), jnp.cos(x))[0], {}, X)
    assert [node.name for node in graph.nodes] == ["sin", "cos"]
    assert [node.name for node in graph.live()] == ["sin"]


def test_constants_and_lists_of_variables():
    table = np.arange(3.0, dtype=np.float32)
    graph = trace(lambda v, x: x * v[1] + table, [np.float32(1), np.float32(2)], X)
    assert list(graph.leaves.values()) == [("0",), ("1",)]
    assert "constant[3]" in graph.text()


def test_several_outputs_come_back_as_they_were():
    variables = make(a=(3, 3, 3, 4), bn=4)
    with jax.enable_x64(True):
        x = jnp.asarray(inputs(2, 5, 4, 3))
        folded = fold(lambda v, x: {"y": (norm(v, "bn", conv(v, "a", x)), [x])}, variables, x)
        y = folded(x)["y"]
        assert isinstance(y, tuple)
        np.testing.assert_array_equal(y[1][0], x)
