"""Chains: runs of operations that multiply and add constants."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bncli.folding.fold import batch_axes
from bncli.folding.search.chains import find_chains, find_links
from bncli.folding.search.norms import name_norms, norm_names
from bncli.folding.search.statistics import Statistics, find_statistics
from bncli.folding.trace.constants import Constants
from bncli.folding.trace.graph import trace
from folding.oracle import inputs, make, norm

X = inputs(2, 5, 4, 3)
K = np.random.default_rng(1).normal(size=3)
MASK = np.random.default_rng(1).normal(size=(5, 4, 1))


def chains_of(apply, variables=None):
    variables = variables or {}
    with jax.enable_x64(True):
        shapes = jax.tree_util.tree_map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), variables)
        x = jax.ShapeDtypeStruct(X.shape, jnp.float64)
        graph = trace(apply, shapes, x)
        arrays = {tuple(k.key for k in path): a for path, a in jax.tree_util.tree_flatten_with_path(variables)[0]}
        batch = batch_axes(graph, apply, shapes, x)
        constants = Constants(graph, arrays)
        found = find_statistics(None, variables, graph, constants.provenance)
        links = find_links(graph, graph.live(), constants, batch)
        return find_chains(graph, graph.live(), links, name_norms(found, links))


LINKS = {
    "add": lambda x: x + K,
    "cast": lambda x: (x * K).astype(jnp.float32).astype(x.dtype) * 1.5,
    "div": lambda x: x / K,
    "mul": lambda x: K * x,
    "neg": lambda x: -x,
    "stop_gradient": lambda x: jax.lax.stop_gradient(x * 2.0),
    "sub": lambda x: x - K,
    "sub from": lambda x: K - x,
    "several": lambda x: -((x * K + 2.0) / 3.0 - K),
    "mask": lambda x: x * MASK + MASK,
}


@pytest.mark.parametrize("name", LINKS)
def test_a_chain_computes_what_its_operations_do(name):
    (chain,) = chains_of(lambda v, x: LINKS[name](x))
    with jax.enable_x64(True):
        expected = LINKS[name](jnp.asarray(X))
    rounding = 1e-6 if name == "cast" else 1e-14
    np.testing.assert_allclose(X * chain.affine.scale + chain.affine.shift, expected, rtol=rounding, atol=rounding)


def test_bn_is_one_chain_named_after_its_statistics():
    (chain,) = chains_of(lambda v, x: norm(v, "bn", x * 2.0), make(bn=3))
    assert chain.norms == ("bn",)
    assert chain.affine.scale.shape == (1, 1, 1, 3)


def test_a_chain_ends_where_its_value_is_read_twice():
    def apply(v, x):
        y = x * 2.0
        return y + K, y

    assert [len(chain.nodes) for chain in chains_of(apply)] == [1, 1]


def test_a_mask_does_not_come_to_the_scale_of_a_bn():
    for apply in (lambda v, x: norm(v, "bn", x * MASK), lambda v, x: norm(v, "bn", x) * MASK):
        assert sorted(len(chain.norms) for chain in chains_of(apply, make(bn=3))) == [0, 1]


def test_what_is_no_affine_is_no_chain():
    others = [lambda x: 2.0 / x, lambda x: x * x, lambda x: x + jnp.ones(x.shape[0])[:, None, None, None] * x.shape[0]]
    assert not chains_of(lambda v, x: others[0](x))
    assert not chains_of(lambda v, x: others[1](x))
    assert not chains_of(lambda v, x: x / jnp.zeros(3))
    assert not chains_of(lambda v, x: x + jnp.arange(1.0 * x.shape[0])[:, None, None, None])
    assert not chains_of(lambda v, x: x[:, :1, :1] * jnp.asarray(MASK))


def test_names_are_where_the_statistics_are_filed():
    paths = [("batch_stats", "Block_1", "BatchNorm_0", "mean"), ("params", "Conv_0", "kernel"), ("batch_stats", "var")]
    names = name_norms(Statistics("by name", frozenset((paths[0], paths[2]))), [])
    assert norm_names(paths, names) == ("BatchNorm", "Block_1/BatchNorm_0")
