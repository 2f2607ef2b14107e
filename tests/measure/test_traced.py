"""Recalibrated statistics of any framework's network are those of each layer's inputs in the final network."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from frameworks import test_nnx
from frameworks.oracle import IMAGES as X

import bncli
from bncli.errors import ModelError, UsageError
from bncli.frameworks import nnx as adapter
from bncli.measure.traced import TracedObserver


def moments(x):
    flat = np.asarray(x, np.float64).reshape(-1, x.shape[-1])
    return flat.mean(axis=0), flat.var(axis=0)


def test_each_layer_of_a_module_gets_the_statistics_of_its_inputs():
    """The module stays in its mode and keeps its own statistics; the last layer sees the new ones of the others."""
    module = test_nnx.made(test_nnx.ResNet)
    module.train()
    before = np.asarray(module.layers[1].bn2.mean.get_value())
    new = bncli.recalibrate(module, [X[:2], X[2:]])
    assert new.layers[1].bn2.use_running_average is False
    np.testing.assert_array_equal(module.layers[1].bn2.mean.get_value(), before)
    new.eval()
    last = new.layers[1]
    inner = new.layers[0](new.stem(X))
    inputs = {"stem/layers/1": new.stem.layers[0](X), "layers/1/bn2": last.conv2(nnx.relu(last.bn1(last.conv1(inner))))}
    found = {"stem/layers/1": new.stem.layers[1], "layers/1/bn2": last.bn2}
    for name, x in inputs.items():
        mean, var = moments(x)
        np.testing.assert_allclose(found[name].mean.get_value(), mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found[name].var.get_value(), var, rtol=1e-5)


def test_layers_wait_for_those_that_their_inputs_depend_on():
    user = adapter.adapt(test_nnx.made(test_nnx.ResNet))
    observer = TracedObserver(user.apply_fn, user.variables, X)
    assert observer.levels == [
        ["stem/layers/1"],
        ["layers/0/bn1"],
        ["layers/0/bn2"],
        ["layers/1/bn1"],
        ["layers/1/bn2"],
    ]
    assert list(observer.epsilons.values()) == pytest.approx([1e-5] * 5)


@pytest.mark.parametrize("axis", [1, 2])
def test_a_function_of_any_arrays_is_measured_along_its_own_axes(axis):
    """Statistics by structure, in a tuple, channels on any axis, scales of zero."""
    shape = tuple(3 if number == axis else 1 for number in range(3))
    variables = (jnp.zeros(3), jnp.ones(3), jnp.zeros(3))

    def apply(variables, x):
        mean, var, scale = (array.reshape(shape) for array in variables)

        def norm(x):
            factor = jax.lax.rsqrt(var + 1e-3) * (1 + scale)
            return x * factor + (0.5 - mean * factor)

        return norm(x)

    x = np.random.default_rng(0).normal(3, 2, size=(6, 3, 3)).astype(np.float32)
    mean, var, scale = bncli.recalibrate(apply, variables, [x[:4], x[4:]])
    flat = np.moveaxis(x.astype(np.float64), axis, -1).reshape(-1, 3)
    np.testing.assert_allclose(mean, flat.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(var, flat.var(axis=0), rtol=1e-5)
    np.testing.assert_array_equal(scale, variables[2])


def test_what_cannot_be_measured_is_named():
    with pytest.raises(ModelError, match="the network has no BN layer"):
        bncli.recalibrate(lambda v, x: x * v["w"], {"w": jnp.ones(3)}, [X])
    with pytest.raises(UsageError, match="there are no batches"):
        bncli.recalibrate(test_nnx.made(test_nnx.PreActivation), [])
    with pytest.raises(UsageError, match="can be read only once"):
        bncli.recalibrate(test_nnx.made(test_nnx.PreActivation), iter([X]))

    def looped(variables, x):
        def body(x, stats):
            return (x - stats["mean"]) * jax.lax.rsqrt(stats["var"] + 1e-5), None

        return jax.lax.scan(body, x, variables["batch_stats"])[0]

    stats = {"batch_stats": {"mean": jnp.zeros((2, 3)), "var": jnp.ones((2, 3))}}
    with pytest.raises(ModelError, match="BatchNorm is in a loop"):
        bncli.recalibrate(looped, stats, [X])
