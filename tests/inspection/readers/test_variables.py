"""BN layers in a Flax variables dict, with the model's settings where it is known."""

import jax.numpy as jnp
import numpy as np

from bncli.frameworks.linen import BatchNormSettings
from bncli.inspection.readers.assembly import NO_LAYER
from bncli.inspection.readers.conventions import FLAX
from bncli.inspection.readers.settings import Asked
from bncli.inspection.readers.variables import read_variables

STATS = {"mean": np.array([1.0, 2.0], np.float32), "var": np.array([3.0, 4.0], np.float32)}
PARAMS = {"scale": np.array([5.0, 6.0], np.float32), "bias": np.array([7.0, 8.0], np.float32)}


def test_layers_are_found_at_any_depth_by_their_path():
    variables = {
        "batch_stats": {"Block_0": {"inner": {"BatchNorm_0": STATS}, "norm": STATS}, "top": STATS},
        "params": {"Block_0": {"inner": {"BatchNorm_0": PARAMS}, "norm": {"scale": PARAMS["scale"]}}},
    }
    contents = read_variables(variables)
    rows = {layer.name: (layer.scale is None, layer.bias is None) for layer in contents.layers}
    assert rows == {
        "Block_0/inner/BatchNorm_0": (False, False),
        "Block_0/norm": (False, True),
        "top": (True, True),
    }
    for name, array in {**STATS, **PARAMS}.items():
        stored = contents.layers[0].stored()[name]
        np.testing.assert_array_equal(stored, array)
        assert stored.dtype == np.float64
    assert {(layer.epsilon, layer.momentum) for layer in contents.layers} == {(FLAX.epsilon, FLAX.momentum)}
    (note,) = contents.notes
    assert "assumed, Flax's defaults" in note


def test_settings_give_order_epsilon_and_momentum():
    variables = {"batch_stats": {"a": STATS, "b": STATS, "unused": STATS}, "params": {}}
    settings = {"b": BatchNormSettings(1e-3, 0.9), "a": BatchNormSettings(1e-2, 0.8), "gone": BatchNormSettings(1, 0)}
    contents = read_variables(variables, settings=settings, relu_follows=True, asked=Asked(epsilon=0.5))
    assert [(layer.name, layer.epsilon, layer.momentum) for layer in contents.layers] == [
        ("b", 1e-3, 0.9),
        ("a", 1e-2, 0.8),
        ("unused", 0.5, FLAX.momentum),
    ]
    assert all(layer.relu_follows for layer in contents.layers)


def test_other_collections_and_half_precision_are_read():
    half = {name: jnp.asarray(array, jnp.bfloat16) for name, array in STATS.items()}
    (layer,) = read_variables({"batch_stats": {"norm": half}, "cache": {"norm": STATS}}).layers
    np.testing.assert_array_equal(layer.var, [3, 4])
    assert layer.dtype == "bfloat16"


def test_without_a_mean_and_a_variance_there_is_no_layer():
    for variables in ({}, {"params": {}}, {"batch_stats": {}}, {"batch_stats": {"count": {"mean": np.ones(2)}}}):
        contents = read_variables(variables)
        assert contents.layers == ()
        assert contents.notes == (NO_LAYER,)
