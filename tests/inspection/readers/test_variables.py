"""BN layers are found in any variables dict, at any depth, with whatever they have of scale and bias."""

import flax.core
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bncli.inspection.readers.variables import ASSUMED_EPSILON, read_variables
from bncli.models import BatchNormSettings

STATS = {"mean": np.array([1.0, 2.0], np.float32), "var": np.array([3.0, 4.0], np.float32)}
PARAMS = {"scale": np.array([5.0, 6.0], np.float32), "bias": np.array([7.0, 8.0], np.float32)}


def test_layers_are_found_at_any_depth_by_their_path():
    variables = {
        "batch_stats": {"Block_0": {"inner": {"BatchNorm_0": STATS}, "norm": STATS}, "top": STATS},
        "params": {"Block_0": {"inner": {"BatchNorm_0": PARAMS}, "norm": {"scale": PARAMS["scale"]}}},
    }
    layers, notes = read_variables(variables)
    rows = {layer.name: (layer.scale is None, layer.bias is None) for layer in layers}
    assert rows == {
        "Block_0/inner/BatchNorm_0": (False, False),
        "Block_0/norm": (False, True),
        "top": (True, True),
    }
    deepest = layers[0]
    for name, array in {**STATS, **PARAMS}.items():
        stored = deepest.stored()[name]
        np.testing.assert_array_equal(stored, array)
        assert stored.dtype == np.float64
    assert len(notes) == 1
    assert "ε is not stored" in notes[0]
    assert {layer.epsilon for layer in layers} == {ASSUMED_EPSILON}
    assert {layer.momentum for layer in layers} == {None}


def test_the_variables_of_a_module_that_is_itself_a_bn_layer_are_read():
    variables = nn.BatchNorm(use_running_average=False).init(jax.random.key(0), jnp.ones((2, 3)))
    for form in (variables, flax.core.freeze(variables)):
        (layer,), _ = read_variables(form)
        assert layer.name == ""
        assert layer.channels == 3
        np.testing.assert_array_equal(layer.scale, np.ones(3))


def test_settings_give_order_epsilon_and_momentum():
    variables = {"batch_stats": {"a": STATS, "b": STATS, "unused": STATS}, "params": {}}
    settings = {"b": BatchNormSettings(1e-3, 0.9), "a": BatchNormSettings(1e-2, 0.8), "gone": BatchNormSettings(1, 0)}
    layers, notes = read_variables(variables, settings=settings, relu_follows=True)
    assert [(layer.name, layer.epsilon, layer.momentum) for layer in layers] == [
        ("b", 1e-3, 0.9),
        ("a", 1e-2, 0.8),
        ("unused", ASSUMED_EPSILON, None),
    ]
    assert all(layer.relu_follows for layer in layers)
    assert notes == ()


def test_other_collections_and_half_precision_are_read():
    half = {name: jnp.asarray(array, jnp.bfloat16) for name, array in STATS.items()}
    (layer,), _ = read_variables({"batch_stats": {"norm": half}, "cache": {"norm": STATS}})
    np.testing.assert_array_equal(layer.var, [3, 4])


def test_without_a_mean_and_a_variance_there_is_no_layer():
    for variables in ({}, {"params": {}}, {"batch_stats": {}}, {"batch_stats": {"count": {"mean": np.ones(2)}}}):
        layers, notes = read_variables(variables)
        assert layers == ()
        assert notes == ("no BN layer: batch_stats holds no mean and var",)


def test_a_layer_may_be_called_mean():
    (layer,), _ = read_variables({"batch_stats": {"mean": STATS, "var": {"other": np.ones(2)}}})
    assert layer.name == "mean"
