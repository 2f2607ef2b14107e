"""What is measured of a BN layer's inputs is what NumPy finds in float64, however the examples are batched."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from folding.nets import BasicBlock, Inception, ResNet, trained
from hypothesis import given
from hypothesis import strategies as st

from bncli.errors import ModelError
from bncli.measure.moments import Moments, Observer, Pool, drift, one_ahead, record_batch_norms

X = np.random.default_rng(0).normal(size=(6, 16, 16, 3)).astype(np.float32)


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=6),
    st.integers(1, 4),
    st.floats(-1e3, 1e3),
    st.integers(0, 2**16),
)
def test_pooling_is_exact_however_the_examples_are_parted(sizes, count, offset, seed):
    values = np.random.default_rng(seed).normal(offset, 2.0, size=(sum(sizes), count, 3))
    pool = Pool()
    for part in np.split(values, np.cumsum(sizes)[:-1]):
        mean = part.mean(axis=1)
        pool.add(mean, ((part - mean[:, None]) ** 2).sum(axis=1), count=count)
    flat = values.reshape(-1, 3)
    assert pool.moments.count == len(flat)
    np.testing.assert_allclose(pool.moments.mean, flat.mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(pool.moments.var, flat.var(axis=0), rtol=1e-9, atol=1e-9)


def observed(model, variables, batches):
    observer = Observer(model.apply, variables, jax.ShapeDtypeStruct(X.shape, X.dtype))
    return observer.measure(variables, batches)


@pytest.mark.sample(1)
@pytest.mark.parametrize("model", [ResNet((1, 1), BasicBlock), Inception(post=True)], ids=["resnet", "inception"])
def test_moments_are_those_of_the_layers_inputs(model):
    variables = trained(model, X)
    inputs = record_batch_norms(model.apply, variables, X, lambda norm, given, made: np.asarray(given, np.float64))
    found = observed(model, variables, [(X, len(X))])
    assert list(found) == list(inputs)  # in the order of the forward pass
    for name, calls in inputs.items():
        flat = np.concatenate([call.reshape(-1, call.shape[-1]) for call in calls])
        np.testing.assert_allclose(found[name].mean, flat.mean(axis=0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found[name].var, flat.var(axis=0), rtol=1e-5)
        assert found[name].count == len(flat)


def test_batch_size_and_padding_do_not_show():
    model = ResNet((1, 1), BasicBlock)
    variables = trained(model, X)
    whole = observed(model, variables, [(X, 6)])
    padded = np.concatenate([X[4:], 100 * X[:2]])
    parted = observed(model, variables, [(X[:4], 4), (padded, 2)])
    for name, moments in whole.items():
        assert parted[name].count == moments.count
        deviation = np.sqrt(moments.var)
        assert np.abs(parted[name].mean - moments.mean).max() <= 1e-6 * deviation.max()
        np.testing.assert_allclose(parted[name].var, moments.var, rtol=1e-6)


def test_the_next_batch_is_under_way_before_the_host_reads_one():
    order = []
    under_way = (order.append(f"start {number}") or number for number in range(3))
    for number in one_ahead(under_way):
        order.append(f"read {number}")
    assert order == ["start 0", "start 1", "read 0", "start 2", "read 1", "read 2"]
    assert list(one_ahead(())) == []


def test_levels_part_what_depends_on_what():
    model = Inception()
    observer = Observer(model.apply, trained(model, X), jax.ShapeDtypeStruct(X.shape, X.dtype))
    assert [len(level) for level in observer.levels] == [4, 2, 1, 4, 2, 1]  # four branches, of one to three layers
    assert sorted(name for level in observer.levels for name in level) == sorted(observer.layers)


class Sequence(nn.Module):
    """Time steps merged into the batch, as in a time-distributed layer; one BN for two features axes."""

    @nn.compact
    def __call__(self, x):
        y = nn.BatchNorm(use_running_average=True)(x.reshape(-1, *x.shape[2:]))
        y = nn.BatchNorm(use_running_average=True, axis=(1, -1))(y.reshape(x.shape))
        return y.mean(axis=(1, 2))


def test_merged_time_steps_and_several_feature_axes():
    model = Sequence()
    variables = trained_like(model)
    found = observed(model, variables, [(X[:4], 4), (np.concatenate([X[4:], 9 * X[:2]]), 2)])
    np.testing.assert_allclose(found["BatchNorm_0"].mean, X.reshape(-1, 3).mean(axis=0), rtol=1e-4, atol=1e-6)
    y = record_batch_norms(model.apply, variables, X, lambda norm, given, made: given)["BatchNorm_1"][0]
    np.testing.assert_allclose(
        found["BatchNorm_1"].var, np.var(np.asarray(y), axis=(0, 2)).reshape(-1), rtol=1e-4, atol=1e-6
    )


def trained_like(model):
    variables = model.init(jax.random.key(0), X)
    return jax.tree.map(lambda leaf: leaf + 0.5, variables)


class OverTheBatch(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.BatchNorm(use_running_average=True, axis=0)(x)


class Looped(nn.Module):
    @nn.compact
    def __call__(self, x):
        class Body(nn.Module):
            @nn.compact
            def __call__(self, y, _):
                return nn.BatchNorm(use_running_average=True)(y), None

        loop = nn.scan(Body, variable_axes={"params": 0, "batch_stats": 0}, split_rngs={"params": True}, length=2)
        return loop()(x, None)[0]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (OverTheBatch(), "the first axis of its input"),
        (Looped(), "is in a loop"),
        (nn.Dense(2), "no BN layer"),
    ],
)
def test_what_cannot_be_observed_is_refused(model, message):
    variables = model.init(jax.random.key(0), X)
    with pytest.raises(ModelError, match=message) as caught:
        Observer(model.apply, variables, jax.ShapeDtypeStruct(X.shape, X.dtype))
    assert caught.value.remedy


def test_drift():
    moments = Moments(10, mean=np.array([0.0, 1.0]), var=np.array([1.0, 4.0]))
    none = drift(moments.mean, moments.var, moments, epsilon=1e-5)
    assert none.is_rounding
    assert (none.distance, none.std_ratio, none.worst_std_ratio) == (0.0, 1.0, 1.0)
    off = drift(np.array([1.0, 1.0]), np.array([1.0, 1.0]), moments, epsilon=0.0)
    assert off.distance == pytest.approx(np.sqrt(0.5))
    assert off.std_ratio == pytest.approx(np.sqrt(0.5))
    assert off.worst_std_ratio == pytest.approx(0.5)
    assert not off.is_rounding
    assert np.isnan(drift(np.array([np.nan, 0.0]), jnp.ones(2), moments, epsilon=0.0).distance)
