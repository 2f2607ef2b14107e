"""Every BN layer of a variables dict is found, under its own name, with its own arrays."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import freeze

from bncli.inspection.readers.variables import ASSUMED_EPSILON, read_variables
from bncli.models import BatchNormSettings
from bncli.models.network import as_network


class Block(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(self.width)(x)
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        return nn.BatchNorm(use_running_average=not train, use_scale=False, epsilon=1e-3, momentum=0.7)(x)


class Nested(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = Block(5, name="stem")(x.reshape(len(x), -1), train)
        for _ in range(2):
            x = Block(3)(x, train)
        return nn.BatchNorm(use_running_average=not train, use_bias=False)(x)


SHAPE = (4, 4, 1)
NETWORK = as_network(Nested())


@pytest.fixture(scope="module")
def variables():
    """Every leaf another random number."""
    shapes = jax.eval_shape(lambda: NETWORK.init(jax.random.key(0), SHAPE))
    draw = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: draw.uniform(0.5, 1.5, leaf.shape).astype(np.float32), shapes)


# In the order of the forward pass; by name "BatchNorm_0" would come first.
NAMES = [f"{block}/{norm}" for block in ("stem", "Block_0", "Block_1") for norm in ("norm", "BatchNorm_0")] + ["BatchNorm_0"]


def test_nested_layers_have_their_path_as_name_and_come_in_the_order_of_the_forward_pass(variables):
    settings = NETWORK.batch_norms(variables, SHAPE)
    layers, notes = read_variables(variables, settings=settings)
    assert [layer.name for layer in layers] == NAMES
    assert notes == ()
    assert [(layer.epsilon, layer.momentum) for layer in layers[:2]] == [(1e-5, 0.99), (1e-3, 0.7)]


def test_each_layer_has_its_own_arrays(variables):
    for layer in read_variables(variables)[0]:
        stats, params = variables["batch_stats"], variables["params"]
        for part in layer.name.split("/"):
            stats, params = stats[part], params[part]
        for name, array in layer.stored().items():
            assert array.dtype == np.float64
            np.testing.assert_array_equal(array, (stats | params)[name])
        assert layer.stored().keys() == {*stats, *params}


def test_without_the_model_epsilon_is_assumed_and_said_to_be(variables):
    layers, notes = read_variables(variables)
    assert sorted(layer.name for layer in layers) == sorted(NAMES)
    assert {(layer.epsilon, layer.momentum) for layer in layers} == {(ASSUMED_EPSILON, None)}
    assert [note for note in notes if "is assumed" in note] == list(notes) != []


def test_a_layer_the_model_does_not_call_is_still_shown(variables):
    settings = {"Block_1/norm": BatchNormSettings(epsilon=0.5, momentum=0.5)}
    layers, _ = read_variables(variables, settings=settings)
    assert layers[0].name == "Block_1/norm"
    assert sorted(layer.name for layer in layers) == sorted(NAMES)


@pytest.mark.parametrize("container", [freeze, lambda tree: jax.tree.map(jnp.asarray, tree)], ids=["frozen", "jax"])
def test_the_container_does_not_matter(variables, container):
    expected, _ = read_variables(variables)
    layers, _ = read_variables(container(variables))
    assert [layer.name for layer in layers] == [layer.name for layer in expected]
    for layer, other in zip(layers, expected, strict=True):
        jax.tree.map(np.testing.assert_array_equal, layer.stored(), other.stored())


def test_half_precision_is_read():
    stats = {"mean": jnp.array([0.5, 1.5], jnp.bfloat16), "var": jnp.array([1.0, 2.0], jnp.float16)}
    (layer,), _ = read_variables({"batch_stats": {"norm": stats}})
    np.testing.assert_array_equal(layer.mean, [0.5, 1.5])
    np.testing.assert_array_equal(layer.var, [1.0, 2.0])
    assert (layer.scale, layer.bias) == (None, None)


def test_a_lone_layer_has_the_empty_name():
    module = nn.BatchNorm(use_running_average=True)
    (layer,), _ = read_variables(module.init(jax.random.key(0), jnp.zeros((2, 3))))
    assert (layer.name, layer.channels) == ("", 3)
    np.testing.assert_array_equal(layer.scale, np.ones(3))


def test_modules_called_mean_and_var_are_modules():
    norm = {"mean": np.zeros(2), "var": np.ones(2)}
    layers, _ = read_variables({"batch_stats": {"mean": norm, "var": norm}})
    assert [layer.name for layer in layers] == ["mean", "var"]


@pytest.mark.parametrize("variables", [{}, {"params": {"kernel": np.ones(3)}}, {"batch_stats": {"other": {"count": 3}}}])
def test_no_layer_is_a_note(variables):
    layers, notes = read_variables(variables)
    assert layers == ()
    assert notes == ("no BN layer: batch_stats holds no mean and var",)


def test_what_the_model_says_of_relus_reaches_each_layer(variables):
    assert all(layer.relu_follows for layer in read_variables(variables, relu_follows=True)[0])
    assert not any(layer.relu_follows for layer in read_variables(variables)[0])
