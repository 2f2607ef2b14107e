"""Micro-batches: the parts of a batch that one optimizer step takes one after the other.

Letters: K micro-batches, B examples in one, D devices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from bncli.config.choices import AccumulateBn
from bncli.frameworks.linen import Variables

Tree: TypeAlias = Any  # nested containers of arrays
Carry = TypeVar("Carry")
# (logits [B, classes], labels) -> loss of each example [B]
Losses: TypeAlias = Callable[[jax.Array, Tree], jax.Array]
Normalize: TypeAlias = Callable[[jax.Array], jax.Array]


@dataclass(frozen=True, kw_only=True)
class Accumulation:
    """The division of a batch into micro-batches.

    Attributes:
        steps: K.
        bn: "exact" or "micro".
        num_devices: D; each device takes an equal share of each micro-batch.
        unrolled: True for a program that repeats its operations K times, which is faster on a CPU; else a loop.
    """

    steps: int
    bn: AccumulateBn
    num_devices: int = 1
    unrolled: bool = True


class Inputs(NamedTuple):
    """A batch as the loss takes it."""

    images: jax.Array  # augmented, [K·B, H, W, C]
    labels: Tree  # [K·B, ...]
    mask: jax.Array | None  # bool [K·B], False for padding
    dropout_key: jax.Array  # of the step


# (params, batch_stats, inputs) -> ((loss [], (logits [K·B, classes], batch_stats)), gradients)
LossAndGrads: TypeAlias = Callable[
    [Tree, Variables, Inputs], tuple[tuple[jax.Array, tuple[jax.Array, Variables]], Tree]
]


class Micro(NamedTuple):
    """One micro-batch, or K of them stacked."""

    images: jax.Array  # [B, H, W, C]
    labels: Tree  # [B, ...]
    mask: jax.Array | None  # bool [B]
    number: jax.Array  # int32 []


Micros: TypeAlias = "list[Micro] | Micro"  # a list if the program is unrolled, else stacked


@dataclass(frozen=True)
class MicroBatches:
    """Divides a batch whose examples lie on D devices, so that each keeps its own."""

    accumulation: Accumulation

    def split(self, inputs: Inputs) -> Micros:
        """The micro-batches."""
        images, labels, mask = jax.tree.map(self._stacked, (inputs.images, inputs.labels, inputs.mask))
        micros = Micro(images, labels, mask, jnp.arange(self.accumulation.steps, dtype=jnp.int32))
        if not self.accumulation.unrolled:
            return micros
        return [jax.tree.map(lambda x, k=k: x[k], micros) for k in range(self.accumulation.steps)]

    def rows(self, x: jax.Array, number: jax.Array) -> jax.Array:
        """The examples of one micro-batch, of an array over the whole batch."""
        rows: jax.Array = self._stacked(x)[number]
        return rows

    def joined(self, parts: list[jax.Array] | jax.Array) -> jax.Array:
        """The inverse of ``split``, for one array."""
        k, d = self.accumulation.steps, self.accumulation.num_devices
        x = jnp.stack(parts) if isinstance(parts, list) else parts
        return x.reshape(k, d, -1, *x.shape[2:]).swapaxes(0, 1).reshape(-1, *x.shape[2:])

    def _stacked(self, x: jax.Array) -> jax.Array:
        """[K·B, ...] as [K, B, ...]."""
        k, d = self.accumulation.steps, self.accumulation.num_devices
        return x.reshape(d, k, -1, *x.shape[1:]).swapaxes(0, 1).reshape(k, -1, *x.shape[1:])


def each(
    one: Callable[[Carry, Tree], tuple[Carry, Tree]], carry: Carry, values: Tree, *, unrolled: bool
) -> tuple[Carry, Tree]:
    """(carry, outputs) after ``one`` of each micro-batch, in turn.

    Args:
        one: (carry, values of a micro-batch) -> (carry, its outputs).
        carry: before the first.
        values: a list, one entry each, if ``unrolled``; else stacked.
        unrolled: see ``Accumulation``.
    """
    if not unrolled:
        return lax.scan(one, carry, values)
    outputs = []
    for value in values:
        # One after the other: together they would need the memory of the whole batch.
        carry, value = lax.optimization_barrier((carry, value))
        carry, output = one(carry, value)
        outputs.append(output)
    return carry, outputs


def num_real(inputs: Inputs) -> jax.Array:
    """The number of examples that count, float32 []."""
    if inputs.mask is None:
        return jnp.asarray(inputs.images.shape[0], jnp.float32)
    return jnp.sum(inputs.mask.astype(jnp.float32))


def counted_sum(losses: jax.Array, mask: jax.Array | None) -> jax.Array:
    """The sum over the examples that count, []."""
    return jnp.sum(losses if mask is None else losses * mask.astype(losses.dtype))
