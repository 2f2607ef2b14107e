"""Laws of the training form of BN: values, statistics and gradients are those of ``nn.BatchNorm``."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bncli.ops import BatchNorm

SHAPE = (6, 5, 4, 3)  # [B, H, W, C]


def outcome(layer, variables, x, weights, mask=None):
    """(output, updated statistics, gradients of a weighted sum of both for params and input)."""

    def loss(params, x):
        y, updates = layer.apply(
            {**variables, "params": params}, x, use_running_average=False, mask=mask, mutable=["batch_stats"]
        )
        stats = updates["batch_stats"]
        return jnp.sum(y * weights) + jnp.sum(stats["mean"] * 3) + jnp.sum(stats["var"] ** 2), (y, updates)

    (_, aux), gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(variables["params"], x)
    return aux, gradients


def drawn(shape, *, mean=1.0, std=3.0):
    draw = np.random.default_rng(0)
    x = draw.normal(mean, std, shape).astype(np.float32)
    variables = nn.BatchNorm().init(jax.random.key(0), x, use_running_average=False)
    variables = jax.tree.map(lambda leaf: jnp.asarray(draw.uniform(0.5, 2, leaf.shape), jnp.float32), variables)
    return x, variables, draw.normal(size=shape).astype(np.float32)


def assert_like_flax(x, variables, weights, mask=None, *, tolerance=2e-5, **settings):
    mine = outcome(BatchNorm(**settings), variables, x, weights, mask)
    theirs = outcome(nn.BatchNorm(**settings), variables, x, weights, mask)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (variables, x, weights))
        exact = jax.tree.map(np.asarray, outcome(nn.BatchNorm(**settings, param_dtype=jnp.float64), *wide, mask))
    assert jax.tree.structure(mine) == jax.tree.structure(theirs)
    for got, flax_got, reference in zip(*map(jax.tree.leaves, (mine, theirs, exact)), strict=True):
        assert (got.shape, got.dtype) == (flax_got.shape, flax_got.dtype)
        rounding = tolerance * max(1.0, float(np.abs(reference).max()))
        flax_error = float(np.abs(np.asarray(flax_got) - reference).max())
        np.testing.assert_allclose(got, reference, rtol=0, atol=max(rounding, 4 * flax_error))


@pytest.mark.parametrize("shape", [SHAPE, (7, 4), (2, 1, 1, 3)], ids=str)
def test_like_flax(shape):
    assert_like_flax(*drawn(shape), momentum=0.7, epsilon=1e-2)


@pytest.mark.parametrize("mask_shape", [(6, 1, 1, 1), (6, 5, 4, 1)], ids=str)
def test_like_flax_with_padding(mask_shape):
    mask = np.random.default_rng(1).random(mask_shape) < 0.6
    assert_like_flax(*drawn(SHAPE), jnp.asarray(mask))


def test_a_constant_channel_has_flaxs_gradient():
    x, variables, weights = drawn(SHAPE)
    x[..., 1] = 2.0
    assert_like_flax(x, variables, weights, tolerance=1e-4, epsilon=1e-2)


def test_a_mean_far_from_zero_costs_no_more_than_in_flax():
    """Both take E[x²] − E[x]²; the hand-written gradient must not lose more to cancellation than that does."""
    x, variables, weights = drawn(SHAPE, mean=30.0, std=1.0)
    assert_like_flax(x, variables, weights, tolerance=1e-3)


def test_bfloat16_stays_bfloat16_with_float32_statistics():
    x, variables, weights = drawn(SHAPE)
    got = outcome(BatchNorm(dtype=jnp.bfloat16), variables, x.astype(jnp.bfloat16), weights)
    theirs = outcome(nn.BatchNorm(dtype=jnp.bfloat16), variables, x.astype(jnp.bfloat16), weights)
    for mine, flax in zip(jax.tree.leaves(got), jax.tree.leaves(theirs), strict=True):
        assert mine.dtype == flax.dtype
        np.testing.assert_allclose(
            np.asarray(mine, np.float32),
            np.asarray(flax, np.float32),
            rtol=0.05,
            atol=0.05 * float(jnp.abs(flax).max()),
        )


@pytest.mark.parametrize(
    "settings",
    [
        {"use_scale": False},
        {"use_bias": False},
        {"use_fast_variance": False},
        {"axis": 1},
        {"use_running_average": True},
    ],
    ids=str,
)
def test_other_settings_are_flaxs_own(settings):
    x = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    arguments = {"use_running_average": False} | settings
    mine, flax = BatchNorm(**arguments), nn.BatchNorm(**arguments)
    variables = flax.init(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, variables, mine.init(jax.random.key(0), x))
    jax.tree.map(
        np.testing.assert_array_equal,
        mine.apply(variables, x, mutable=["batch_stats"]),
        flax.apply(variables, x, mutable=["batch_stats"]),
    )


def test_its_variables_are_those_of_flax():
    x = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    made = BatchNorm(use_running_average=False).init(jax.random.key(0), x)
    jax.tree.map(
        np.testing.assert_array_equal, made, nn.BatchNorm(use_running_average=False).init(jax.random.key(0), x)
    )
