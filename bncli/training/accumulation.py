"""Gradient accumulation: one optimizer step on K micro-batches, with the memory of less than the whole batch.

``exact`` is one batch K times as large, BN statistics included (``exact_accumulation``). ``micro`` is the usual
approximation: each micro-batch normalizes by itself, and moves the running statistics.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp

from bncli.frameworks.linen import Network, Variables
from bncli.training.exact_accumulation import make_exact
from bncli.training.micro_batches import (
    Accumulation,
    Inputs,
    LossAndGrads,
    Losses,
    Micro,
    MicroBatches,
    Normalize,
    Tree,
    counted_sum,
    each,
    num_real,
)


def make_accumulated(
    accumulation: Accumulation, network: Network, normalize: Normalize, losses: Losses
) -> LossAndGrads:
    """The mean loss over a batch and its gradient, from micro-batches.

    Args:
        accumulation: the division of the batch.
        network: in train mode.
        normalize: makes the network's input of images.
        losses: of each example.
    """
    make = {"exact": make_exact, "micro": _make_micro}[accumulation.bn]
    return make(accumulation, network, normalize, losses)


def _make_micro(accumulation: Accumulation, network: Network, normalize: Normalize, losses: Losses) -> LossAndGrads:
    micro_batches = MicroBatches(replace(accumulation, num_devices=1))

    def loss_and_grads(
        params: Tree, batch_stats: Variables, inputs: Inputs
    ) -> tuple[tuple[jax.Array, tuple[jax.Array, Variables]], Tree]:
        total = num_real(inputs)

        def loss(params: Tree, batch_stats: Variables, micro: Micro) -> tuple[jax.Array, tuple[jax.Array, Variables]]:
            logits, batch_stats = network.train_logits(
                {"params": params, "batch_stats": batch_stats},
                normalize(micro.images),
                mask=_mask_of_bn(micro.mask),
                dropout_key=jax.random.fold_in(inputs.dropout_key, micro.number),
            )
            return counted_sum(losses(logits, micro.labels), micro.mask) / total, (logits, batch_stats)

        def one(carry: Tree, micro: Micro) -> tuple[Tree, jax.Array]:
            sums, stats = carry
            (value, (logits, new)), grads = jax.value_and_grad(loss, has_aux=True)(params, stats, micro)
            # A micro-batch of padding alone has no statistics.
            if micro.mask is not None:
                new = _where(jnp.any(micro.mask), new, stats)
            return (jax.tree.map(jnp.add, sums, (value, grads)), new), logits

        zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
        ((value, grads), new), logits = each(
            one, (zero, batch_stats), micro_batches.split(inputs), unrolled=accumulation.unrolled
        )
        return (value, (micro_batches.joined(logits), new)), grads

    return loss_and_grads


def _mask_of_bn(mask: jax.Array | None) -> jax.Array | None:
    """The mask of a micro-batch, bool [B]. In one of padding alone all count: the mean of nothing would be NaN."""
    return None if mask is None else mask | ~jnp.any(mask)


def _where(condition: jax.Array, new: Tree, old: Tree) -> Tree:
    return jax.tree.map(lambda one, other: jnp.where(condition, one, other), new, old)
