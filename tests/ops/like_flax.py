"""Comparisons of the training convolution with Flax's own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bncli.ops import train_conv_general_dilated


def layers(**settings):
    """(Flax's layer, the same layer with our convolution)."""
    return nn.Conv(**settings), nn.Conv(conv_general_dilated=train_conv_general_dilated, **settings)


def outcome(layer, variables, x, weights):
    """(output, gradients of a weighted sum of it for params and input)."""

    def loss(variables, x):
        y = layer.apply(variables, x)
        return jnp.sum(y * weights), y

    (_, y), gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(variables, x)
    return y, gradients


def assert_like_flax(x_shape, **settings):
    """In float32 the two forms agree, and the training form is as near to the float64 result as Flax's own."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=x_shape).astype(np.float32)
    flax, ours = layers(**settings)
    variables = flax.init(jax.random.key(0), x)
    weights = draw.normal(size=flax.apply(variables, x).shape).astype(np.float32)
    mine, theirs = outcome(ours, variables, x, weights), outcome(flax, variables, x, weights)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (variables, x, weights))
        exact = outcome(layers(**settings, param_dtype=jnp.float64)[0], *wide)
    for got, flax_got, reference in zip(*map(jax.tree.leaves, (mine, theirs, exact)), strict=True):
        assert got.shape == reference.shape
        assert got.dtype == flax_got.dtype
        tolerance = 1e-5 * max(1.0, float(np.abs(reference).max()))
        np.testing.assert_allclose(got, reference, rtol=0, atol=tolerance)
        np.testing.assert_allclose(got, flax_got, rtol=0, atol=tolerance)


def assert_like_float32(x_shape, **settings):
    """In bfloat16, values and gradients are those of Flax's float32 layer, but for the rounding of bfloat16.

    Without a bias, whose gradient Flax sums in bfloat16.
    """
    settings["use_bias"] = False
    draw = np.random.default_rng(0)
    x = jnp.asarray(draw.normal(size=x_shape), jnp.bfloat16)
    flax, ours = layers(**settings, dtype=jnp.float32)[0], layers(**settings, dtype=jnp.bfloat16)[1]
    variables = flax.init(jax.random.key(0), x)
    variables = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(jnp.float32), variables)
    weights = jnp.asarray(draw.normal(size=flax.apply(variables, x).shape), jnp.bfloat16)
    mine, theirs = outcome(ours, variables, x, weights), outcome(flax, variables, x, weights)
    for got, reference in zip(*map(jax.tree.leaves, (mine, theirs)), strict=True):
        assert got.shape == reference.shape
        largest = max(1.0, float(np.abs(np.asarray(reference, np.float32)).max()))
        np.testing.assert_allclose(np.asarray(got, np.float32), reference, rtol=0, atol=2**-7 * largest)
