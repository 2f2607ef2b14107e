"""Laws of the training form of BN: values, statistics and gradients are those of ``nn.BatchNorm``."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bncli.ops import BatchNorm, GhostBatchNorm, GroupNorm
from bncli.ops.normalization import ghost_batch_normalize, num_groups

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


@pytest.mark.sample(1)
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


def ghost_reference(x, scale, bias, size, epsilon, real=None):
    """(y, mean, var) in float64: the ghost batches one by one, in plain NumPy."""
    real = np.ones(len(x), bool) if real is None else real
    count = -(-len(x) // size)
    y, means, variances = np.zeros(x.shape), [], []
    for ghost in range(count):
        members = np.arange(ghost, len(x), count)
        counted = [i for i in members if real[i]]
        values = x[counted or members].astype(np.float64)
        axes = tuple(range(values.ndim - 1))
        mean, var = values.mean(axes), values.var(axes)
        y[members] = (x[members] - mean) / np.sqrt(var + epsilon) * scale + bias
        if counted:
            means.append(mean)
            variances.append(var)
    return y, np.mean(means, 0), np.mean(variances, 0)


@pytest.mark.sample(3)
@pytest.mark.parametrize(("shape", "size"), [((12, 3, 2, 4), 4), ((12, 5), 3), ((11, 5), 4), ((5, 4), 2)], ids=str)
@pytest.mark.parametrize("num_padding", [0, 3])
def test_ghost_batches_are_normalized_each_by_itself(shape, size, num_padding):
    x, variables, _ = drawn(shape)
    scale, bias = variables["params"]["scale"], variables["params"]["bias"]
    real = np.arange(shape[0]) < shape[0] - num_padding
    mask = jnp.asarray(real.reshape(-1, *[1] * (x.ndim - 1))) if num_padding else None
    got = ghost_batch_normalize(x, scale, bias, mask, 1e-3, ghost_size=size)
    expected = ghost_reference(x, scale, bias, size, 1e-3, real)
    for mine, reference in zip((got[0][real], *got[1:]), (expected[0][real], *expected[1:]), strict=True):
        np.testing.assert_allclose(mine, reference, rtol=1e-4, atol=1e-4)
    assert np.isfinite(got[0]).all()


def test_one_ghost_batch_is_bn_to_the_bit():
    x, variables, weights = drawn(SHAPE)
    got = outcome(GhostBatchNorm(ghost_size=SHAPE[0]), variables, x, weights)
    assert_identical(got, outcome(BatchNorm(), variables, x, weights))


def assert_identical(left, right):
    for one, other in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(one, other)


def test_ghost_bn_is_bn_in_eval_mode():
    x, variables, _ = drawn(SHAPE)
    calls = [
        layer.apply(variables, x, use_running_average=True) for layer in (GhostBatchNorm(ghost_size=2), BatchNorm())
    ]
    assert_identical(*calls)


@pytest.mark.parametrize(("shape", "groups"), [((3, 4, 4, 8), 2), ((3, 12), 3), ((2, 5, 5, 6), 1)], ids=str)
def test_group_norm_is_pytorchs_formula(shape, groups):
    """y = (x − E[x]) / √(Var[x] + ε) · γ + β over (C / groups, H, W), with the biased variance: torch.nn.GroupNorm."""
    x, variables, _ = drawn(shape)
    scale, bias = (np.asarray(variables["params"][name], np.float64) for name in ("scale", "bias"))
    channels_first = np.moveaxis(x, -1, 1).astype(np.float64).reshape(shape[0], groups, -1)
    mean, var = channels_first.mean(2, keepdims=True), channels_first.var(2, keepdims=True)
    normalized = ((channels_first - mean) / np.sqrt(var + 1e-5)).reshape(shape[0], shape[-1], *shape[1:-1])
    expected = np.moveaxis(normalized, 1, -1) * scale + bias
    layer = GroupNorm(groups=groups)
    got = layer.apply({"params": variables["params"]}, x)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_the_number_of_groups_divides_the_channels_and_leaves_four_to_each():
    found = [num_groups(channels) for channels in (1, 3, 16, 24, 32, 64, 100, 128, 256, 1280)]
    assert found == [1, 1, 4, 6, 8, 16, 25, 32, 32, 32]
