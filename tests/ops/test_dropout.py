"""Laws of dropout: the rate, the scaling, and which settings are Flax's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bncli.ops import Dropout

KEY = jax.random.key(0)


def dropped(x, rate, key=KEY, **settings):
    return Dropout(rate, deterministic=False, **settings).apply({}, x, rngs={"dropout": key})


@pytest.mark.parametrize("rate", [0.1, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(64, 8, 8, 16), (4096, 15), (65536,)], ids=str)
def test_the_share_of_zeros_is_the_rate_and_the_mean_is_kept(rate, shape):
    y = np.asarray(dropped(jnp.ones(shape), rate))
    deviation = (rate * (1 - rate) / y.size) ** 0.5
    assert abs((y == 0).mean() - rate) < 5 * deviation
    kept = np.unique(y[y != 0])
    assert kept.size == 1
    np.testing.assert_allclose(kept, 1 / (1 - rate), rtol=1e-4)


def test_each_element_decides_for_itself():
    """Two decisions come from one random word: they must not know of each other, nor of the next key's."""
    n = 1 << 14
    halves = np.asarray(dropped(jnp.ones((n, 2)), 0.5)).astype(bool)
    other = np.asarray(dropped(jnp.ones((n, 2)), 0.5, key=jax.random.key(1))).astype(bool)
    for a, b in [(halves[:, 0], halves[:, 1]), (halves[:-1, 0], halves[1:, 0]), (halves[:, 0], other[:, 0])]:
        assert abs((a == b).mean() - 0.5) < 5 * 0.5 / n**0.5


def test_the_gradient_is_masked_as_the_value():
    x = jax.random.normal(KEY, (32, 7))
    gradient = jax.grad(lambda x: dropped(x, 0.3).sum())(x)
    np.testing.assert_allclose(gradient * x, dropped(x, 0.3), rtol=1e-6)


def test_no_dropout_leaves_the_input():
    x = jax.random.normal(KEY, (3, 4))
    np.testing.assert_array_equal(dropped(x, 0.0), x)
    np.testing.assert_array_equal(Dropout(0.5, deterministic=True).apply({}, x), x)


def test_what_it_does_not_do_itself_is_flaxs():
    x = jnp.ones((8, 5))
    np.testing.assert_array_equal(dropped(x, 1.0), jnp.zeros_like(x))
    rows = np.asarray(dropped(x, 0.5, broadcast_dims=(1,)))
    assert (rows == rows[:, :1]).all()


@pytest.mark.parametrize("shape", [(8, 3, 3, 5), (8, 6), (7,)], ids=str)
def test_the_decisions_are_those_of_words_of_the_inputs_shape(shape):
    """Of a shape, or of as many in a row: the bits are the same."""
    words = jax.random.bits(KEY, (*shape[:-1], (shape[-1] + 1) // 2), jnp.uint32)
    levels = jnp.concatenate([words >> 16, words & 0xFFFF], axis=-1)[..., : shape[-1]]
    kept = Dropout(0.25, deterministic=False).apply({}, jnp.ones(shape), rng=KEY) != 0
    np.testing.assert_array_equal(kept, levels >= 0x4000)
