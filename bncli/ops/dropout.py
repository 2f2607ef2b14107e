"""``nn.Dropout`` that draws two decisions from each random word: random bits are 7 % of the `cnn`'s step on a CPU."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from bncli.ops.given import Given, LayerNumbers, Number

_LEVELS = 1 << 16


class Dropout(nn.Dropout):
    """``nn.Dropout`` whose rate is rounded to a multiple of 2⁻¹⁶; kept values are scaled by the rounded rate.

    With a ``Given`` rate the call must bring its numbers in train mode.
    """

    @nn.compact
    def __call__(
        self,
        inputs: jax.Array,
        deterministic: bool | None = None,
        rng: jax.Array | None = None,
        *,
        given: LayerNumbers | None = None,
    ) -> jax.Array:
        """The inputs with zeros at random places; see ``nn.Dropout``."""
        off = nn.merge_param("deterministic", self.deterministic, deterministic)
        if off or not is_drawn(self.rate) or self.broadcast_dims or inputs.ndim == 0:
            unchanged: jax.Array = super().__call__(inputs, deterministic, rng)
            return unchanged
        threshold, scale = self._numbers(given)
        key = self.make_rng(self.rng_collection) if rng is None else rng
        # Only the decisions stay for the backward pass: one byte each, instead of the words that they were drawn from.
        kept = lax.optimization_barrier(_random_levels(key, inputs.shape) >= threshold)
        return jnp.where(kept, inputs * jnp.asarray(scale, inputs.dtype), jnp.zeros_like(inputs))

    def _numbers(self, given: LayerNumbers | None) -> tuple[Number, Number]:
        if isinstance(self.rate, Given) and given is not None and given.dropout is not None:
            return given.dropout
        return dropping(self.rate)


def is_drawn(rate: float) -> bool:
    """True if a layer with this rate draws numbers here; ``nn.Dropout`` treats a rate that is rounded to 0 or 1."""
    return round(rate * _LEVELS) not in (0, _LEVELS)


def dropping(rate: float) -> tuple[int, float]:
    """(the level below which a value is dropped, the factor of those that are kept) for a rate that is drawn."""
    threshold = round(rate * _LEVELS)
    return threshold, _LEVELS / (_LEVELS - threshold)


def _random_levels(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Uniform integers below 2¹⁶, uint32 of ``shape``; pairs share a word of the last axis, never of two examples."""
    last = shape[-1]
    words_shape = (*shape[:-1], (last + 1) // 2)
    # Drawn flat, the bits are the same. XLA unrolls the generator's loop for each axis: a third of the machine code of
    # the `cnn`'s step on 8×8 images.
    words = jax.random.bits(key, (math.prod(words_shape),), jnp.uint32).reshape(words_shape)
    return jnp.concatenate([words >> 16, words & (_LEVELS - 1)], axis=-1)[..., :last]
