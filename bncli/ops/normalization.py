"""``nn.BatchNorm`` with a gradient that, in training on a CPU, reads its input twice instead of five times.

Letters: B batch, C channels, n = B times the positions: the values that each channel is normalized over.

With the gain s = γ/√(σ² + ε) and the shift t = β − μ s the layer is y = s x + t. Differentiated by hand, with g the
gradient of y (Ioffe & Szegedy 2015, section 3)::

    Σg, Σg x                      one pass over g and x
    dx = s g + p x + q            one pass, with p, q per channel
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax


class BatchNorm(nn.BatchNorm):
    """``nn.BatchNorm``, with the same variables, arguments and numbers.

    Only a layer over the last axis with the usual settings, in train mode on a CPU, has the cheaper gradient. It can be
    differentiated in reverse mode only.
    """

    @nn.compact
    def __call__(
        self, x: jax.Array, use_running_average: bool | None = None, *, mask: jax.Array | None = None
    ) -> jax.Array:
        """The normalized x [B, ..., C]; see ``nn.BatchNorm``."""
        by_running = nn.merge_param("use_running_average", self.use_running_average, use_running_average)
        if by_running or self.is_initializing() or not self._is_usual():
            normalized: jax.Array = super().__call__(x, use_running_average, mask=mask)
            return normalized
        shape = (x.shape[-1],)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        scale = self.param("scale", self.scale_init, shape, self.param_dtype)
        bias = self.param("bias", self.bias_init, shape, self.param_dtype)
        y, mean, var = batch_normalize(x, scale, bias, mask, self.epsilon)
        running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean
        running_var.value = self.momentum * running_var.value + (1 - self.momentum) * var
        return y.astype(self.dtype or y.dtype)

    def _is_usual(self) -> bool:
        usual: bool = self.axis == -1 and self.use_fast_variance and self.force_float32_reductions
        return usual and self.use_scale and self.use_bias and not self.axis_name and jax.default_backend() == "cpu"


def batch_normalize(
    x: jax.Array, scale: jax.Array, bias: jax.Array, mask: jax.Array | None, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(y, mean, biased variance) of x over all axes but the last, in float32 or the dtype of x if that is wider.

    Args:
        x: [B, ..., C].
        scale: γ, [C].
        bias: β, [C].
        mask: bool, broadcastable to x; False does not count in the statistics. None: everything counts.
        epsilon: added to the variance.

    Returns:
        y like x, mean [C], var [C].
    """
    if mask is None:
        return _normalize(x, scale, bias, None, epsilon)
    weights = jnp.broadcast_to(mask, (*mask.shape[:-1], 1)).astype(jnp.float32)
    return _normalize(x, scale, bias, weights, epsilon)


class _Saved(NamedTuple):
    """The values that the backward pass needs."""

    x: jax.Array  # [B, ..., C]
    scale: jax.Array  # [C]
    weights: jax.Array | None  # broadcastable to x
    num_values: jax.Array | float  # n
    mean: jax.Array  # [C]
    var: jax.Array  # [C]
    rstd: jax.Array  # [C], 1/√(σ² + ε)


@jax.custom_vjp
def _normalize(
    x: jax.Array, scale: jax.Array, bias: jax.Array, weights: jax.Array | None, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    return _forward(x, scale, bias, weights, epsilon)[0]


def _forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, weights: jax.Array | None, epsilon: float
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], _Saved]:
    wide = _wide(x)
    count = _count(x, weights)
    weighted = wide if weights is None else wide * weights
    mean = _sum(weighted) / count
    # Like nn.BatchNorm: E[x²] − E[x]², which rounding can make negative.
    var = jnp.maximum(0.0, _sum(weighted * wide) / count - mean * mean)
    rstd = lax.rsqrt(var + epsilon)
    gain = scale * rstd
    saved = _Saved(x, scale, weights, count, mean, var, rstd)
    return (wide * gain + (bias - mean * gain), mean, var), saved


def _backward(
    saved: _Saved, gradients: tuple[jax.Array, jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None, None]:
    x, scale, weights, num_values, mean, var, rstd = saved
    g, to_mean, to_var = gradients
    wide = _wide(x)
    sum_g, sum_gx = _sum(g), _sum(g * wide)
    to_scale = (sum_gx - mean * sum_g) * rstd
    gain = scale * rstd
    # Through the variance, unless it was clipped at zero, and through the mean.
    to_var = jnp.where(var > 0, to_var - 0.5 * gain * rstd * to_scale, 0.0)
    p = 2 * to_var / num_values
    q = (to_mean - gain * sum_g) / num_values - p * mean
    statistics = wide * p + q
    to_x = g * gain + (statistics if weights is None else statistics * weights)
    to_weights = None if weights is None else jnp.zeros_like(weights)
    return to_x.astype(x.dtype), to_scale.astype(scale.dtype), sum_g.astype(scale.dtype), to_weights, None


_normalize.defvjp(_forward, _backward)


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _sum(x: jax.Array) -> jax.Array:
    return jnp.sum(x, axis=tuple(range(x.ndim - 1)))


def _count(x: jax.Array, weights: jax.Array | None) -> jax.Array | float:
    """n, the number of values of each channel that count."""
    if weights is None:
        return float(x.size // x.shape[-1])
    return jnp.sum(jnp.broadcast_to(weights, (*x.shape[:-1], 1)))
