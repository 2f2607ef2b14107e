"""Laws of the sums for BN: in a loop over blocks they are the sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bncli.ops.channel_sums import channel_sums


def terms(x, g):
    return x, x * g


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32], ids=["bfloat16", "float32"])
@pytest.mark.parametrize("shape", [(64, 3), (6, 5, 4, 3), (7, 1, 1, 5), (1, 2), (3, 9000), (97, 31, 64)], ids=str)
def test_they_are_the_sums_of_the_wide_values(shape, dtype):
    draw = np.random.default_rng(0)
    x, g = (jnp.asarray(draw.normal(1, 2, shape), dtype) for _ in range(2))
    sums = jax.jit(lambda x, g: channel_sums(terms, x, g))(x, g)
    exact = [np.asarray(term, np.float64) for term in (x, g)]
    axes = tuple(range(len(shape) - 1))
    for got, term in zip(sums, (exact[0], exact[0] * exact[1]), strict=True):
        assert (got.shape, got.dtype) == (shape[-1:], jnp.float32)
        np.testing.assert_allclose(got, term.sum(axes), rtol=1e-5, atol=1e-5 * np.abs(term).sum(axes).max())


def test_arrays_of_two_dtypes():
    x, g = jnp.full((8, 2), 3, jnp.bfloat16), jnp.full((8, 2), 1 / 3, jnp.float32)
    np.testing.assert_allclose(channel_sums(terms, x, g)[1], [8, 8], rtol=1e-6)


def test_of_each_part_under_vmap():
    x = jnp.arange(24, dtype=jnp.bfloat16).reshape(2, 4, 3)
    (sums,) = jax.vmap(lambda part: channel_sums(lambda x: (x,), part))(x)
    np.testing.assert_array_equal(sums, x.astype(jnp.float32).sum(axis=1))


def test_in_bfloat16_products_are_not_written_out():
    x = jnp.ones((64, 8, 8, 32), jnp.bfloat16)
    jaxpr = jax.make_jaxpr(lambda x, g: channel_sums(terms, x, g))(x, x)
    assert not any(
        value.aval.size == x.size and value.aval.dtype == jnp.float32 for eqn in jaxpr.eqns for value in eqn.outvars
    )
