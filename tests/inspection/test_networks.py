"""The BN layers of a live network of each framework, with findings and remedies in the framework's words."""

from __future__ import annotations

from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import bncli
from bncli.errors import FoldError, ModelError, UsageError


class Net(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.bn = nnx.BatchNorm(4, momentum=0.8, epsilon=1e-4, rngs=rngs)

    def __call__(self, x):
        return self.bn(self.conv(x))


def codes(report):
    return {(finding.code, finding.layer) for finding in report.findings}


def test_an_nnx_module_tells_its_settings_and_its_mode():
    module = Net(nnx.Rngs(0))
    report = bncli.inspect_stats(module)
    (layer,) = report.arrays
    assert (layer.name, layer.epsilon, layer.momentum) == ("bn", 1e-4, 0.8)
    assert report.format == "nnx"
    assert codes(report) == {("never-updated", "bn")}
    assert "bncli.recalibrate(module, batches)" in report.findings[0].remedy
    assert "model.train()" in report.findings[0].remedy
    assert any("train mode" in note for note in report.notes)
    module.eval()
    assert bncli.inspect_stats(module).notes == ()


def test_the_state_of_an_nnx_module_is_read_as_it_is():
    report = bncli.inspect_stats(nnx.state(Net(nnx.Rngs(0))))
    assert [row.name for row in report.layers] == ["bn"]


def equinox_model(updates, momentum=0.99):
    eqx = pytest.importorskip("equinox", reason="Equinox is not installed")
    layer, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(3, "batch", momentum=momentum, mode="batch")
    model = eqx.nn.Sequential([layer])
    x = jnp.asarray(np.random.default_rng(0).normal(2, 0.5, size=(64, 3, 5)), jnp.float32)

    @jax.jit
    def step(state):
        return jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(x, state)[1]

    for _ in range(updates):
        state = step(state)
    return eqx.nn.inference_mode(model), state, x


def trained(model, state, x):
    """The state after one more update."""
    eqx = pytest.importorskip("equinox", reason="Equinox is not installed")
    train = eqx.nn.inference_mode(model, value=False)
    return jax.vmap(train, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(x, state)[1]


@pytest.mark.parametrize("updates", [10, 100])
def test_equinox_variance_is_too_large_by_what_is_left_of_its_start(updates):
    """Against the population in float64: mⁿ/(1 − mⁿ) too large, and right after `recalibrate`."""
    model, state, x = equinox_model(updates)
    population = np.asarray(x, np.float64).var(axis=(0, 2))
    report = bncli.inspect_stats(model, state=state)
    (layer,) = report.arrays
    excess = 0.99**updates / (1 - 0.99**updates)
    np.testing.assert_allclose(layer.var - population, excess, rtol=1e-4)
    np.testing.assert_allclose(layer.mean, np.asarray(x, np.float64).mean(axis=(0, 2)), rtol=1e-5)
    assert codes(report) == {("undebiased-variance", "layers/0")}
    assert f"too large by {excess:.3g}" in report.findings[0].message
    assert "state = bncli.recalibrate(model, batches, state=state)" in report.findings[0].remedy
    outputs = jax.vmap(lambda one: model(one, state)[0])(x)
    assert np.asarray(outputs, np.float64).var() < 1 / (1 + excess)  # eval mode shows it

    repaired = bncli.recalibrate(model, [x], state=state)
    outputs = jax.vmap(lambda one: model(one, repaired)[0])(x)
    np.testing.assert_allclose(np.asarray(outputs, np.float64).var(axis=(0, 2)), 1, rtol=1e-4)
    assert bncli.inspect_stats(model, state=repaired).findings == ()
    (layer,) = bncli.inspect_stats(model, state=trained(model, repaired, x)).arrays
    np.testing.assert_allclose(layer.var, population, rtol=1e-4)  # training goes on from what was measured


def test_equinox_after_many_updates_needs_nothing():
    model, state, _ = equinox_model(200, momentum=0.9)
    assert bncli.inspect_stats(model, state=state).findings == ()


def test_equinox_without_an_update_was_never_updated_and_can_be_measured():
    model, state, x = equinox_model(0)
    assert codes(bncli.inspect_stats(model, state=state)) == {("never-updated", "layers/0")}
    repaired = bncli.recalibrate(model, [x], state=state)
    outputs = jax.vmap(lambda one: model(one, repaired)[0])(x)
    np.testing.assert_allclose(np.asarray(outputs).var(axis=(0, 2)), 1, rtol=1e-3)


def test_equinox_needs_its_state():
    model, _, _ = equinox_model(0)
    with pytest.raises(FoldError, match="keeps its running statistics in a state"):
        bncli.inspect_stats(model)


def test_haiku_is_read_with_its_own_names():
    hk = pytest.importorskip("haiku", reason="Haiku is not installed")
    transformed = hk.transform_with_state(lambda x: hk.BatchNorm(True, True, 0.9)(x, True))
    params, state = transformed.init(jax.random.key(0), jnp.ones((4, 3)))
    _, state = transformed.apply(params, state, None, jnp.asarray(np.random.default_rng(0).normal(size=(64, 3))))
    report = bncli.inspect_stats(transformed, params, state)
    assert [(row.name, row.channels) for row in report.layers] == [("batch_norm", 3)]
    assert report.format == "haiku"


def test_on_batches_a_function_of_haiku_tells_its_settings():
    """ε and the decay rate are in its code only, and a call shows them; layers are in the order of the calls."""
    hk = pytest.importorskip("haiku", reason="Haiku is not installed")

    class Block(hk.Module):
        def __call__(self, x, is_training):
            return hk.BatchNorm(True, True, 0.7, eps=1e-2)(x, is_training)

    def net(x, is_training):
        x = hk.BatchNorm(True, True, 0.8, eps=1e-4, name="z")(x, is_training)
        return Block(name="a")(x, is_training)

    transformed = hk.transform_with_state(net)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(64, 3)), jnp.float32)
    params, state = transformed.init(jax.random.key(0), x, True)
    (note,) = bncli.inspect_stats(transformed, params, state).notes
    assert note.endswith("pass epsilon=, or the network with data=[x, …]")
    report = bncli.inspect_stats(transformed, params, state, data=[x])
    assert [(layer.name, layer.epsilon, layer.momentum) for layer in report.arrays] == [
        ("z", 1e-4, 0.8),
        ("a/batch_norm", 1e-2, 0.7),
    ]
    assert report.notes == ()
    asked = bncli.inspect_stats(transformed, params, state, data=[x], epsilon=1.0)
    assert asked.notes == ("epsilon 1 is ignored: the network has its own",)


def test_what_is_no_network_is_refused():
    with pytest.raises(UsageError, match="cannot read a list"):
        bncli.inspect_stats([1])
    with pytest.raises(UsageError, match="of an NNX module takes no state"):
        bncli.inspect_stats(Net(nnx.Rngs(0)), state=1)
    with pytest.raises(UsageError, match="with a network only"):
        bncli.inspect_stats(Path("x"), state=1)


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return nn.BatchNorm(not train, momentum=0.8, epsilon=1e-4, name="bn")(x)


def test_on_batches_a_linen_module_tells_its_settings():
    x = np.random.default_rng(0).normal(3, 1, size=(32, 4)).astype(np.float32)
    module = Linen()
    variables = module.init(jax.random.key(0), x)
    report = bncli.inspect_stats(module, variables, data=[x])
    (layer,) = report.arrays
    assert (layer.epsilon, layer.momentum, report.notes) == (1e-4, 0.8, ())
    (measured,) = report.data.layers
    assert measured.drift.distance == pytest.approx(3, rel=0.2)
    assert bncli.inspect_stats(module, bncli.recalibrate(module, variables, [x]), data=[x]).findings == ()


def test_remedies_of_measurements_are_in_the_words_of_the_framework():
    module = Net(nnx.Rngs(0))
    report = bncli.inspect_stats(module, data=[10 * np.ones((2, 8, 8, 3), np.float32)])
    (found,) = (finding for finding in report.findings if finding.code == "stale-statistics")
    assert found.remedy == "module = bncli.recalibrate(module, batches)"


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (np.ones((2, 8, 8, 3), np.float32), UsageError, r"one array \(2, 8, 8, 3\), not a list of batches"),
        ([np.ones((2, 8, 8, 1), np.float32)], ModelError, r"cannot be applied to a batch of float32 \(2, 8, 8, 1\)"),
        ("digits", UsageError, "cannot run a network on 'digits'"),
        ((x for x in ()), UsageError, "only once"),
    ],
    ids=["an array", "other channels", "a name", "a generator"],
)
def test_data_that_are_no_batches_of_the_network_are_named(data, error, words):
    with pytest.raises(error, match=words) as caught:
        bncli.inspect_stats(Net(nnx.Rngs(0)), data=data)
    assert caught.value.remedy
