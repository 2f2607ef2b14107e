"""The first state is a function of the seed, and the streams drawn from one seed are unrelated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.tiny import MLP

from bncli.checkpoint import sha256_tree
from bncli.config.settings import ModelConfig, OptimizerConfig
from bncli.models import build_network
from bncli.training.optimizer import UpdateNumbers, create_optimizer
from bncli.training.state import create_train_state, moving_average

SHAPE = (8, 8, 1)


def state_of(seed, **model):
    network = build_network(ModelConfig(**MLP | model), num_classes=3, image_shape=SHAPE)
    optimizer = create_optimizer(OptimizerConfig(), UpdateNumbers())
    return create_train_state(network, optimizer, image_shape=SHAPE, seed_key=jax.random.key(seed))


def test_the_state_is_a_function_of_the_seed():
    first, again, other = state_of(0), state_of(0), state_of(1)
    assert sha256_tree(first) == sha256_tree(again)
    assert sha256_tree(first.params) != sha256_tree(other.params)


@pytest.mark.parametrize("seed", [2**31, 2**32 - 1])
def test_every_seed_that_the_settings_allow_is_taken(seed):
    assert sha256_tree(state_of(seed).params) != sha256_tree(state_of(0).params)


def test_it_starts_at_step_0_with_the_statistics_that_flax_starts_with():
    state = state_of(0)
    assert int(state.step) == 0
    assert int(state.metrics.num_examples) == 0
    stats = state.batch_stats["BatchNorm_0"]
    np.testing.assert_array_equal(stats["mean"], np.zeros(8))
    np.testing.assert_array_equal(stats["var"], np.ones(8))
    assert state.variables == {"params": state.params, "batch_stats": state.batch_stats}


def test_the_moving_average_forgets_the_start_and_then_moves_by_its_decay():
    values, decay = np.random.default_rng(0).normal(size=(300, 2)), 0.9
    ema, expected = {"w": jnp.full(2, 1e3)}, np.full(2, 1e3)
    for t, value in enumerate(values):
        ema = moving_average(ema, {"w": jnp.asarray(value)}, step=jnp.int32(t), decay=decay)
        weight = min(decay, (1 + t) / (10 + t))
        expected = weight * expected + (1 - weight) * value
        np.testing.assert_allclose(ema["w"], expected, rtol=1e-4, atol=1e-5)
    weights = decay ** np.arange(len(values))[::-1]
    np.testing.assert_allclose(expected, weights @ values / weights.sum(), atol=1e-6)


def test_without_bn_there_are_no_statistics():
    assert state_of(0, bn=False).batch_stats == {}
