"""The numbers are those of ``jax.random``, bit by bit."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bncli.data import threefry

SEEDS = st.integers(0, 2**32 - 1)


def of_jax(seed):
    return jax.random.key(seed, impl="threefry2x32")


@given(seed=SEEDS, data=SEEDS)
def test_keys_are_those_of_jax(seed, data):
    key = threefry.fold_in(threefry.key_of(seed), data)
    np.testing.assert_array_equal(key, jax.random.key_data(jax.random.fold_in(of_jax(seed), data)))


@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_bits_are_those_of_jax(count):
    expected = jax.random.bits(of_jax(5), (count,), "uint32")
    np.testing.assert_array_equal(threefry.random_bits(threefry.key_of(5), count), expected)


@pytest.mark.parametrize("count", [1, 2, 100, 1625, 1626, 2000])  # 1,626 and more are sorted twice
def test_permutations_are_those_of_jax(count):
    expected = jax.random.permutation(of_jax(2**32 - 1), count)
    np.testing.assert_array_equal(threefry.permutation(threefry.key_of(2**32 - 1), count), expected)
