"""Laws of 2×2 max-pooling: values and gradients are those of ``nn.max_pool``."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bncli.ops import max_pool_2x2


@pytest.mark.parametrize(("height", "width"), [(2, 2), (3, 3), (4, 7), (5, 2), (1, 4)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_like_flax(height, width, dtype):
    x = jax.random.normal(jax.random.key(0), (2, height, width, 3)).astype(dtype)
    pooled = max_pool_2x2(x)
    assert pooled.dtype == dtype
    np.testing.assert_array_equal(pooled, nn.max_pool(x, (2, 2), (2, 2)))


@pytest.mark.parametrize(("height", "width"), [(4, 7), (1, 4)])
def test_the_gradient_is_flaxs_ties_included(height, width):
    # Few values, so that most windows have their maximum more than once.
    x = jax.random.randint(jax.random.key(0), (3, height, width, 4), 0, 3).astype(jnp.float32)
    weights = jax.random.normal(jax.random.key(1), (3, height // 2, width // 2, 4))

    def gradient(pool):
        return jax.grad(lambda x: jnp.sum(pool(x) * weights))(x)

    np.testing.assert_array_equal(gradient(max_pool_2x2), gradient(lambda x: nn.max_pool(x, (2, 2), (2, 2))))


def test_of_equal_values_the_first_gets_the_gradient():
    x = jnp.array([[0, 1, 5, 5], [3, 2, 5, 5]], jnp.float32).reshape(1, 2, 4, 1)
    gradient = jax.grad(lambda x: max_pool_2x2(x).sum())(x)
    np.testing.assert_array_equal(gradient[0, ..., 0], [[0, 0, 1, 0], [1, 0, 0, 0]])
