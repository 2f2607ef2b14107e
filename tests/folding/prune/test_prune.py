"""Dead channels: the network without them computes the same, and what is not provably dead stays."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.breadth import broad

from bncli.folding import fold
from bncli.folding.fold import batch_axes
from bncli.folding.prune.bounds import Bounds, Context, find_bounds
from bncli.folding.prune.prune import prune
from bncli.folding.trace.arguments import concrete, described
from bncli.folding.trace.constants import Constants
from bncli.folding.trace.graph import trace

SIDE, COLOURS = 12, 3
LOW, HIGH = np.full(COLOURS, -1.5), np.full(COLOURS, 2.0)


class Plain(nn.Module):
    """Two convolutions with BN, a pool, and a flattened or pooled head."""

    pooled: bool = True
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x, *, train=False):
        for features in (6, 8):
            x = nn.Conv(features, (3, 3), padding=self.padding, use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = x.mean(axis=(1, 2)) if self.pooled else x.reshape(x.shape[0], -1)
        return nn.Dense(5)(x)


class Residual(nn.Module):
    """A sum of two branches, a depthwise convolution behind it."""

    @nn.compact
    def __call__(self, x, *, train=False):
        norm = lambda: nn.BatchNorm(use_running_average=not train)  # noqa: E731
        a = nn.relu(norm()(nn.Conv(6, (3, 3))(x)))
        b = nn.relu(norm()(nn.Conv(6, (1, 1))(x)))
        x = nn.Conv(6, (3, 3), feature_group_count=6)(a + b)
        x = nn.relu(norm()(x))
        return nn.Dense(4)(x.mean(axis=(1, 2)))


def variables_of(model, seed=0):
    """Variables with statistics and scales that are not the initial ones."""
    variables = model.init(jax.random.key(seed), jnp.zeros((2, SIDE, SIDE, COLOURS)))
    rng = np.random.default_rng(seed)
    leaves, structure = jax.tree.flatten(variables)
    named = jax.tree_util.tree_flatten_with_path(variables)[0]
    changed = [
        np.asarray(rng.uniform(0.5, 1.5, leaf.shape) if path[-1].key in ("var", "scale") else leaf, np.float32)
        for (path, leaf) in named
    ]
    assert len(leaves) == len(changed)
    return jax.tree.unflatten(structure, changed)


def with_dead(variables, layer, channels, *, beta):
    """γ of these channels is 0, and β is ``beta``."""
    variables = jax.tree.map(np.array, variables)
    variables["params"][layer]["scale"][list(channels)] = 0
    variables["params"][layer]["bias"][list(channels)] = beta
    return variables


def folded_of(model, variables):
    example = jax.ShapeDtypeStruct((2, SIDE, SIDE, COLOURS), jnp.float32)
    return fold(model.apply, variables, example, verify=False)


def images(number, seed=0):
    return np.random.default_rng(seed).uniform(-1.5, 2.0, (number, SIDE, SIDE, COLOURS)).astype(np.float32)


def assert_same(before, after):
    for number in (1, 3):
        np.testing.assert_allclose(after(images(number)), before(images(number)), rtol=1e-5, atol=1e-6)


@pytest.mark.sample(2)
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("pooled", broad([True, False], bool))
@pytest.mark.parametrize(("layer", "channels"), [("BatchNorm_0", (1, 4)), ("BatchNorm_1", (0, 2, 7))])
def test_channels_with_scale_0_go_with_what_makes_and_reads_them(padding, pooled, layer, channels):
    model = Plain(pooled, padding)
    before = folded_of(model, with_dead(variables_of(model), layer, channels, beta=-0.3))
    found = prune(before, LOW, HIGH)
    (row,) = found.report.layers
    assert row.removed == channels
    assert (row.zero, row.constant, row.kept) == (len(channels), 0, 0)
    kernels = {path: leaf.shape for path, leaf in _flat(found.network.variables).items() if path[-1] == "kernel"}
    first, second = (6, 8) if layer == "BatchNorm_1" else (6 - len(channels), 8)
    second -= len(channels) if layer == "BatchNorm_1" else 0
    assert kernels["params", "Conv_0", "kernel"][-1] == first
    assert kernels["params", "Conv_1", "kernel"][-2:] == (first, second)
    assert found.report.parameters[1] < found.report.parameters[0]
    assert_same(before, found.network)


def test_a_channel_that_is_always_below_the_relu_is_removed():
    model = Plain()
    variables = jax.tree.map(np.array, variables_of(model))
    variables["params"]["BatchNorm_0"]["bias"][2] = -1000
    before = folded_of(model, variables)
    found = prune(before, LOW, HIGH)
    assert [row.removed for row in found.report.layers] == [(2,)]
    assert_same(before, found.network)


def test_a_channel_that_some_input_lets_pass_stays():
    model = Plain()
    variables = jax.tree.map(np.array, variables_of(model))
    variables["params"]["BatchNorm_0"]["bias"][2] = -1.0
    before = folded_of(model, variables)
    assert prune(before, LOW, HIGH).network is before


def test_a_channel_that_passes_a_constant_on_stays_and_is_told_of():
    model = Plain()
    before = folded_of(model, with_dead(variables_of(model), "BatchNorm_0", (3,), beta=0.7))
    found = prune(before, LOW, HIGH)
    (row,) = found.report.layers
    assert (row.removed, row.constant) == ((), 1)
    assert found.network is before


def test_both_branches_of_a_sum_must_be_dead_and_a_depthwise_convolution_is_passed():
    model = Residual()
    one = with_dead(variables_of(model), "BatchNorm_0", (1, 2), beta=-1.0)
    half = folded_of(model, one)
    assert prune(half, LOW, HIGH).network is half
    variables = with_dead(with_dead(one, "BatchNorm_1", (2, 5), beta=0.0), "BatchNorm_2", (2,), beta=-1.0)
    before = folded_of(model, variables)
    found = prune(before, LOW, HIGH)
    (row,) = found.report.layers
    assert row.removed == (2,)
    assert set(row.layers) == {"Conv_0", "Conv_1"}
    shapes = {"/".join(path[1:]): leaf.shape for path, leaf in _flat(found.network.variables).items()}
    assert shapes["Conv_2/kernel"] == (3, 3, 1, 5)
    assert_same(before, found.network)


def test_a_channel_with_no_reader_goes_and_takes_with_it_what_only_it_read():
    model = Plain()
    variables = jax.tree.map(np.array, variables_of(model))
    variables["params"]["Dense_0"]["kernel"][4] = 0  # channel 4 of the second convolution is unread
    variables["params"]["Conv_1"]["kernel"][:, :, 1, [0, 1, 2, 3, 5, 6, 7]] = 0  # and alone reads channel 1
    before = folded_of(model, variables)
    found = prune(before, LOW, HIGH)
    assert {row.layers: (row.removed, row.unread) for row in found.report.layers} == {
        ("Conv_0",): ((1,), 1),
        ("Conv_1",): ((4,), 1),
    }
    assert_same(before, found.network)


def test_one_channel_stays_where_all_are_dead():
    model = Plain()
    before = folded_of(model, with_dead(variables_of(model), "BatchNorm_0", range(6), beta=-1.0))
    found = prune(before, LOW, HIGH)
    row = next(row for row in found.report.layers if row.layers == ("Conv_0",))
    assert row.removed == (1, 2, 3, 4, 5)
    assert "has to stay" in row.reason
    assert_same(before, found.network)


def test_outputs_of_the_network_are_never_removed():
    class Head(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            return nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Dense(4)(x.mean(axis=(1, 2)))))

    model = Head()
    before = folded_of(model, with_dead(variables_of(model), "BatchNorm_0", (1,), beta=-1.0))
    assert prune(before, LOW, HIGH).network is before


def test_nothing_dead_leaves_the_very_network():
    model = Plain()
    before = folded_of(model, variables_of(model))
    found = prune(before, LOW, HIGH)
    assert found.network is before
    assert found.report.removed == 0


@settings(max_examples=15)
@given(seed=st.integers(0, 2**16), pooled=st.booleans(), count=st.integers(0, 6))
def test_whatever_is_dead_the_outputs_stay(seed, pooled, count):
    model, rng = Plain(pooled), np.random.default_rng(seed)
    chosen = rng.permutation(6)[:count]
    before = folded_of(model, with_dead(variables_of(model, seed % 7), "BatchNorm_0", chosen, beta=-rng.uniform(0, 1)))
    x = images(2, seed)
    np.testing.assert_allclose(prune(before, LOW, HIGH).network(x), before(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model", [Plain(), Plain(pooled=False, padding="VALID"), Residual()])
def test_every_value_lies_within_its_bounds(model):
    before = folded_of(model, variables_of(model))
    shapes = described(before.variables, "variable")
    graph = trace(before.apply, shapes, before.example)
    context = Context(
        graph, Constants(graph, concrete(before.variables)), batch_axes(graph, before.apply, shapes, before.example)
    )
    (value,) = graph.inputs
    found = find_bounds(context, {value: Bounds(3, LOW, HIGH)})
    values = dict(graph.constants) | {v: concrete(before.variables)[path] for v, path in graph.leaves.items()}
    values[value] = images(2)
    for node in graph.nodes:
        values.update(zip(node.outputs, node.bind([jnp.asarray(values[v]) for v in node.inputs]), strict=True))
    checked = 0
    for number, bounds in found.items():
        array = np.moveaxis(np.asarray(values[number], np.float64), bounds.axis, -1).reshape(-1, len(bounds.low))
        assert (array >= bounds.low).all(), graph.producers[number]
        assert (array <= bounds.high).all(), graph.producers[number]
        checked += 1
    assert graph.outputs[0] in found
    assert checked >= 10


def _flat(tree):
    return {tuple(key.key for key in path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}
