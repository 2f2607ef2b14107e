"""``nn.BatchNorm`` with a gradient that, in training on a CPU, reads its input twice instead of five times.

Ghost batch norm and group norm stand beside it.

Letters: B batch, C channels, n = B times the positions: the values that each channel is normalized over.

With the gain s = γ/√(σ² + ε) and the shift t = β − μ s the layer is y = s x + t. Differentiated by hand, with g the
gradient of y (Ioffe & Szegedy 2015, section 3)::

    Σg, Σg x                      one pass over g and x
    dx = s g + p x + q            one pass, with p, q per channel
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from bncli.ops.channel_sums import channel_sums, wide
from bncli.ops.given import Given, LayerNumbers, Number


class BatchNorm(nn.BatchNorm):
    """``nn.BatchNorm``, with the same variables, arguments and numbers.

    Only a layer over the last axis with the usual settings, in train mode on a CPU, has the cheaper gradient. It can be
    differentiated in reverse mode only. With a ``Given`` momentum a call in train mode brings the numbers.

    Attributes:
        parts: of the batch that are normalized by themselves in training, as devices do that share no statistics.
    """

    parts: int = 1

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        use_running_average: bool | None = None,
        *,
        mask: jax.Array | None = None,
        given: LayerNumbers | None = None,
    ) -> jax.Array:
        """The normalized x [B, ..., C]; see ``nn.BatchNorm``."""
        by_running = nn.merge_param("use_running_average", self.use_running_average, use_running_average)
        old_weight, new_weight = momentum_pair(self.momentum, given)
        if by_running or self.is_initializing() or not self._is_usual():
            with _moving_by(self, old_weight, new_weight):
                normalized: jax.Array = super().__call__(x, use_running_average, mask=mask)
            return normalized
        shape = (x.shape[-1],)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        scale = self.param("scale", self.scale_init, shape, self.param_dtype)
        bias = self.param("bias", self.bias_init, shape, self.param_dtype)
        y, mean, var = self._normalized(x, scale, bias, mask)
        running_mean.value = old_weight * running_mean.value + new_weight * mean
        running_var.value = old_weight * running_var.value + new_weight * var
        return y.astype(self.dtype or y.dtype)

    def _normalized(
        self, x: jax.Array, scale: jax.Array, bias: jax.Array, mask: jax.Array | None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(y, mean, biased variance), as ``batch_normalize`` returns them."""
        return normalize_by_parts(x, scale, bias, mask, self.epsilon, parts=self.parts)

    def _is_usual(self) -> bool:
        if self.parts > 1:
            return True
        usual: bool = self.axis == -1 and self.use_fast_variance and self.force_float32_reductions
        return usual and self.use_scale and self.use_bias and not self.axis_name and jax.default_backend() == "cpu"


def momentum_pair(momentum: float, given: LayerNumbers | None) -> tuple[Number, Number]:
    """(m, 1 − m), the weights of the old and the new statistics: those of the call for a ``Given`` momentum."""
    if isinstance(momentum, Given) and given is not None and given.momentum is not None:
        return given.momentum
    return float(momentum), 1 - float(momentum)


@dataclass(frozen=True)
class _Weights:
    """A momentum m as ``nn.BatchNorm`` computes with it, where m and 1 − m are numbers of the call.

    1 − m computed in float32 would differ from the rounded 1 − m of a fixed momentum.
    """

    old: Number
    new: Number

    def __mul__(self, statistics: jax.Array) -> jax.Array:
        return self.old * statistics

    def __rsub__(self, one: float) -> Number:
        return self.new


@contextmanager
def _moving_by(norm: nn.BatchNorm, old_weight: Number, new_weight: Number) -> Iterator[None]:
    """Let a bound BN layer with a ``Given`` momentum move its statistics by these weights inside."""
    built_with = norm.momentum
    if isinstance(built_with, Given):
        object.__setattr__(norm, "momentum", _Weights(old_weight, new_weight))  # a module is a frozen dataclass
    try:
        yield
    finally:
        object.__setattr__(norm, "momentum", built_with)


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


class GhostBatchNorm(BatchNorm):
    """BN whose statistics in training are those of ghost batches, parts of the batch; in eval mode it is BN.

    Source: Hoffer, Hubara & Soudry 2017 (arXiv 1705.08741), section 4. The running statistics take one step towards
    the mean over the ghost batches, as when replicas average theirs.

    Attributes:
        ghost_size: examples in a ghost batch; see ``ghost_batch_normalize``.
    """

    ghost_size: int = 32

    def _normalized(
        self, x: jax.Array, scale: jax.Array, bias: jax.Array, mask: jax.Array | None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        return ghost_batch_normalize(x, scale, bias, mask, self.epsilon, ghost_size=self.ghost_size)

    def _is_usual(self) -> bool:
        return True


def normalize_by_parts(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    mask: jax.Array | None,
    epsilon: float,
    *,
    parts: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """``batch_normalize`` of each part of the batch by itself, with the mean and variance averaged over the parts.

    Args:
        x: [B, ..., C]; a part is B / parts examples in a row, as a device has them.
        scale: γ, [C].
        bias: β, [C].
        mask: as in ``batch_normalize``. A part of padding alone is left out of the averages.
        epsilon: added to the variance.
        parts: divides B; else the batch is one part.
    """
    if parts == 1 or x.shape[0] % parts:
        return batch_normalize(x, scale, bias, mask, epsilon)
    shape = (parts, -1, *x.shape[1:])
    if mask is None:
        y, means, variances = jax.vmap(lambda part: batch_normalize(part, scale, bias, None, epsilon))(x.reshape(shape))
        return y.reshape(x.shape), jnp.mean(means, axis=0), jnp.mean(variances, axis=0)
    masks = jnp.broadcast_to(mask, (*x.shape[:-1], 1)).reshape(*shape[:-1], 1)
    return _weighted_by_parts(x.reshape(shape), scale, bias, masks, epsilon, shape=x.shape)


def _weighted_by_parts(
    parts: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    masks: jax.Array,
    epsilon: float,
    *,
    shape: tuple[int, ...],
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Each part [parts, B, ..., C] normalized by itself; parts of padding alone are left out of the averages."""
    is_real = jnp.any(masks, axis=tuple(range(1, masks.ndim)))  # [parts]
    counted = masks | ~is_real.reshape(-1, *[1] * (masks.ndim - 1))
    y, means, variances = jax.vmap(lambda part, mask: batch_normalize(part, scale, bias, mask, epsilon))(parts, counted)
    weights = is_real / jnp.maximum(1, jnp.sum(is_real))
    return y.reshape(shape), weights @ means, weights @ variances


def ghost_batch_normalize(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    mask: jax.Array | None,
    epsilon: float,
    *,
    ghost_size: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """``batch_normalize`` of each ghost batch by itself, with the mean and variance averaged over the ghost batches.

    The batch is dealt out like cards to G = ⌈B / ghost_size⌉ ghost batches: example i goes to number i mod G. So
    padding at the end of a batch is shared by all, and their sizes differ by one at most. The split is that of the
    whole batch: the number of devices plays no part.

    Args:
        x: [B, ..., C].
        scale: γ, [C].
        bias: β, [C].
        mask: as in ``batch_normalize``. A ghost batch of padding alone is left out of the averages.
        epsilon: added to the variance.
        ghost_size: the most examples that share statistics.
    """
    batch_size = x.shape[0]
    num_ghosts = -(-batch_size // ghost_size)
    if num_ghosts <= 1:
        return batch_normalize(x, scale, bias, mask, epsilon)
    if mask is None and batch_size % num_ghosts == 0:
        y, means, variances = jax.vmap(lambda ghost: batch_normalize(ghost, scale, bias, None, epsilon))(
            _dealt(x, num_ghosts)
        )
        return _gathered(y, batch_size), jnp.mean(means, axis=0), jnp.mean(variances, axis=0)
    counted = jnp.broadcast_to(True if mask is None else mask, (*x.shape[:-1], 1))
    masks = _dealt(counted, num_ghosts)  # [G, size, ..., 1]
    is_real = jnp.any(masks, axis=tuple(range(1, masks.ndim)))  # [G]
    masks = masks | ~is_real.reshape(-1, *[1] * (masks.ndim - 1))
    y, means, variances = jax.vmap(lambda ghost, mask: batch_normalize(ghost, scale, bias, mask, epsilon))(
        _dealt(x, num_ghosts), masks
    )
    weights = is_real / jnp.maximum(1, jnp.sum(is_real))
    return _gathered(y, batch_size), weights @ means, weights @ variances


def _dealt(x: jax.Array, num_ghosts: int) -> jax.Array:
    """[B, ...] as [G, ⌈B / G⌉, ...], with zeros at the end."""
    size = -(-x.shape[0] // num_ghosts)
    padded = jnp.pad(x, [(0, size * num_ghosts - x.shape[0]), *[(0, 0)] * (x.ndim - 1)])
    return jnp.swapaxes(padded.reshape(size, num_ghosts, *x.shape[1:]), 0, 1)


def _gathered(y: jax.Array, batch_size: int) -> jax.Array:
    """The inverse of ``_dealt``."""
    return jnp.swapaxes(y, 0, 1).reshape(-1, *y.shape[2:])[:batch_size]


# Wu & He 2018 take 32 groups, and find any number of groups good that leaves a few channels to each.
_MAX_GROUPS = 32
_LEAST_CHANNELS = 4


def num_groups(channels: int) -> int:
    """The number of groups for so many channels: the largest divisor up to 32 that leaves 4 channels to each."""
    most = min(_MAX_GROUPS, channels // _LEAST_CHANNELS)
    return max((count for count in range(1, most + 1) if channels % count == 0), default=1)


def group_normalize(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, *, groups: int) -> jax.Array:
    """Each example normalized over its positions and the channels of a group, then scaled and shifted per channel.

    With one group this is layer normalization over positions and channels. Train and eval mode are the same.

    Source: Wu & He 2018 (arXiv 1803.08494), equations 1 and 7.

    Args:
        x: [B, ..., C].
        scale: γ, [C].
        bias: β, [C].
        epsilon: added to the variance.
        groups: number of groups; divides C.
    """
    grouped = wide(x).reshape(x.shape[0], -1, groups, x.shape[-1] // groups)  # [B, positions, groups, C / groups]
    mean = jnp.mean(grouped, axis=(1, 3), keepdims=True)
    var = jnp.var(grouped, axis=(1, 3), keepdims=True)
    return ((grouped - mean) * lax.rsqrt(var + epsilon)).reshape(x.shape) * scale + bias


class GroupNorm(nn.Module):
    """Group normalization over the last axis; see ``group_normalize``.

    Attributes:
        groups: number of groups; None takes ``num_groups`` of the channels.
        epsilon: added to the variance.
        dtype: of the output; None keeps that of the input.
        scale_init: initializer of γ.
        bias_init: initializer of β.
    """

    groups: int | None = None
    epsilon: float = 1e-5
    dtype: DTypeLike | None = None
    scale_init: Callable[..., jax.Array] = nn.initializers.ones
    bias_init: Callable[..., jax.Array] = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """The normalized x [B, ..., C]."""
        channels = x.shape[-1]
        scale = self.param("scale", self.scale_init, (channels,), jnp.float32)
        bias = self.param("bias", self.bias_init, (channels,), jnp.float32)
        groups = num_groups(channels) if self.groups is None else self.groups
        return group_normalize(x, scale, bias, self.epsilon, groups=groups).astype(self.dtype or x.dtype)


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
    count = _count(x, weights)
    if weights is None:
        total, squares = channel_sums(lambda x: (x, x * x), x)
    else:
        weights_of_all = jnp.broadcast_to(weights, x.shape)
        total, squares = channel_sums(lambda x, weights: (x * weights, x * weights * x), x, weights_of_all)
    mean = total / count
    # Like nn.BatchNorm: E[x²] − E[x]², which rounding can make negative.
    var = jnp.maximum(0.0, squares / count - mean * mean)
    rstd = lax.rsqrt(var + epsilon)
    gain = scale * rstd
    saved = _Saved(x, scale, weights, count, mean, var, rstd)
    return (wide(x) * gain + (bias - mean * gain), mean, var), saved


def _backward(
    saved: _Saved, gradients: tuple[jax.Array, jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None, None]:
    x, scale, weights, num_values, mean, var, rstd = saved
    g, to_mean, to_var = gradients
    sum_g, sum_gx = channel_sums(lambda g, x: (g, g * x), g, x)
    to_scale = (sum_gx - mean * sum_g) * rstd
    gain = scale * rstd
    # Through the variance, unless it was clipped at zero, and through the mean.
    to_var = jnp.where(var > 0, to_var - 0.5 * gain * rstd * to_scale, 0.0)
    p = 2 * to_var / num_values
    q = (to_mean - gain * sum_g) / num_values - p * mean
    statistics = wide(x) * p + q
    to_x = g * gain + (statistics if weights is None else statistics * weights)
    to_weights = None if weights is None else jnp.zeros_like(weights)
    return to_x.astype(x.dtype), to_scale.astype(scale.dtype), sum_g.astype(scale.dtype), to_weights, None


_normalize.defvjp(_forward, _backward)


def _count(x: jax.Array, weights: jax.Array | None) -> jax.Array | float:
    """n, the number of values of each channel that count."""
    if weights is None:
        return float(x.size // x.shape[-1])
    return jnp.sum(jnp.broadcast_to(weights, (*x.shape[:-1], 1)))
