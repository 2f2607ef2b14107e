"""Laws of the shared pieces: BN is its formula, each initialiser has its variance."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bncli.models.layers import INITIALIZERS, global_mean_pool, norm_and_activation, norm_for

EPSILON, MOMENTUM = 1e-2, 0.7
KEY = jax.random.key(0)


def apply_norm(x, *, train):
    """(output, statistics before, statistics after, params) of a BN layer with scale, bias and statistics at random."""
    norm = norm_for(partial(nn.BatchNorm, epsilon=EPSILON, momentum=MOMENTUM), train=train)()
    draw = np.random.default_rng(1)
    shapes = norm.init(KEY, x)
    variables = jax.tree.map(lambda leaf: jnp.asarray(draw.uniform(0.5, 2, leaf.shape), jnp.float32), shapes)
    y, updates = norm.apply(variables, x, mutable=["batch_stats"])
    return y, variables["batch_stats"], updates["batch_stats"], variables["params"]


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(1, 3, (5, 4, 3, 2)).astype(np.float32)  # [B, H, W, C]


def test_train_mode_normalises_by_the_biased_statistics_of_the_batch(x):
    y, _, _, params = apply_norm(x, train=True)
    mean, var = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
    expected = (x - mean) / np.sqrt(var + EPSILON) * params["scale"] + params["bias"]
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_momentum_is_the_weight_of_the_old_running_value(x):
    _, before, after, _ = apply_norm(x, train=True)
    batch = {"mean": x.mean(axis=(0, 1, 2)), "var": x.var(axis=(0, 1, 2))}
    for name, value in batch.items():
        np.testing.assert_allclose(after[name], MOMENTUM * before[name] + (1 - MOMENTUM) * value, rtol=1e-4)


def test_eval_mode_normalises_by_the_running_statistics_and_leaves_them(x):
    y, before, after, params = apply_norm(x, train=False)
    expected = (x - before["mean"]) / np.sqrt(before["var"] + EPSILON) * params["scale"] + params["bias"]
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, before, after)


def test_no_norm_stays_none():
    assert norm_for(None, train=True) is None


@pytest.mark.parametrize(("placement", "expected"), [("pre", [0, 0, 1]), ("post", [-1, -1, 1])])
def test_placement_is_before_or_after_the_activation(placement, expected):
    x = jnp.array([-1.0, 0.0, 2.0])

    def minus_one():
        return lambda x: x - 1

    result = norm_and_activation(x, norm=minus_one, activation=nn.relu, placement=placement)
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(norm_and_activation(x, norm=None, activation=nn.relu, placement=placement), [0, 0, 2])


def test_global_mean_pool_is_the_mean_over_positions(x):
    np.testing.assert_allclose(global_mean_pool(x), x.reshape(5, -1, 2).mean(axis=1), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "std"),
    [
        ("glorot", (2 / (9 * 32 + 9 * 64)) ** 0.5),
        ("he", (2 / (9 * 32)) ** 0.5),
        ("lecun", (1 / (9 * 32)) ** 0.5),
        ("normal", 0.01),
    ],
)
def test_initialisers_have_their_variance(name, std):
    kernel = INITIALIZERS[name](KEY, (3, 3, 32, 64), jnp.float32)  # fan-in 288, fan-out 576
    assert float(kernel.std()) == pytest.approx(std, rel=0.03)
    assert abs(float(kernel.mean())) < 0.03 * std


def test_orthogonal_columns_are_orthonormal():
    kernel = INITIALIZERS["orthogonal"](KEY, (64, 16), jnp.float32)
    np.testing.assert_allclose(kernel.T @ kernel, np.eye(16), atol=1e-5)


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 3), (3, 5), (5, 3)])
def test_dirac_hands_on_its_inputs_and_adds_random_features(inputs, outputs):
    x = np.random.default_rng(0).normal(size=(2, 6, 7, inputs)).astype(np.float32)
    kernel = INITIALIZERS["dirac"](KEY, (3, 3, inputs, outputs), jnp.float32)
    y = nn.Conv(outputs, (3, 3), use_bias=False).apply({"params": {"kernel": kernel}}, x)
    count = min(inputs, outputs)
    np.testing.assert_allclose(y[..., :count], x[..., :count], rtol=1e-5, atol=1e-5)
    others = np.asarray(kernel)[..., count:]
    assert np.all(others != 0)
    assert np.abs(others).max(initial=0) <= 1 / np.sqrt(9 * inputs)


def test_dirac_is_uniform_of_a_third_of_lecuns_variance_for_other_outputs_and_dense_layers():
    for kernel in (
        INITIALIZERS["dirac"](KEY, (3, 3, 32, 640), jnp.float32)[..., 32:],
        INITIALIZERS["dirac"](KEY, (288, 640), jnp.float32),
    ):
        assert float(kernel.std()) == pytest.approx((1 / (3 * 288)) ** 0.5, rel=0.03)


def test_every_initialiser_of_the_settings_exists():
    from typing import get_args

    from bncli.config.choices import Init

    assert sorted(get_args(Init)) == sorted(INITIALIZERS)
