"""Learning-rate schedules and optimizers, all of them optax's."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from bncli.config.settings import OptimizerConfig

# A warm-up takes at most this share of the schedule, so that a run of one epoch is not all warm-up.
MAX_WARMUP_SHARE = 0.25
# "step" multiplies the rate by 0.1 at these shares of the schedule (He et al. 2015, section 4.2).
STEP_DECAY_AT = (0.5, 0.75)


def create_learning_rate_fn(config: OptimizerConfig, *, steps_per_epoch: int, epochs: int) -> optax.Schedule:
    """The learning rate as a function of the step.

    The schedule is ``schedule_epochs`` long or, if that is None, ``epochs``. After its end the rate stays at its last
    value. If a run without ``schedule_epochs`` is extended, the schedule is stretched over the new length, and the
    rate at the point of extension jumps up accordingly.
    """
    total = steps_per_epoch * (config.schedule_epochs or epochs)
    warmup = min(round(config.warmup_epochs * steps_per_epoch), int(total * MAX_WARMUP_SHARE))
    return _SCHEDULES[config.schedule](config.peak_learning_rate, warmup, total)


def _cosine(peak: float, warmup: int, total: int) -> optax.Schedule:
    """Half a cosine from the peak to 0 (Loshchilov & Hutter 2016, arXiv 1608.03983)."""
    return _with_warmup(optax.cosine_decay_schedule(peak, total - warmup), peak, warmup)


def _one_cycle(peak: float, warmup: int, total: int) -> optax.Schedule:
    """Up for 30 % of the schedule, which replaces the warm-up, then down (Smith & Topin 2017, arXiv 1708.07120)."""
    return optax.cosine_onecycle_schedule(max(total, 2), peak)


def _step(peak: float, warmup: int, total: int) -> optax.Schedule:
    boundaries = {int(share * total) - warmup: 0.1 for share in STEP_DECAY_AT}
    return _with_warmup(optax.piecewise_constant_schedule(peak, boundaries), peak, warmup)


def _constant(peak: float, warmup: int, total: int) -> optax.Schedule:
    return _with_warmup(optax.constant_schedule(peak), peak, warmup)


def _with_warmup(schedule: optax.Schedule, peak: float, warmup: int) -> optax.Schedule:
    if warmup == 0:
        return schedule
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), schedule], [warmup])


_SCHEDULES: Mapping[str, Callable[[float, int, int], optax.Schedule]] = {
    "constant": _constant,
    "cosine": _cosine,
    "one-cycle": _one_cycle,
    "step": _step,
}


def create_optimizer(config: OptimizerConfig, learning_rate: optax.Schedule) -> optax.GradientTransformation:
    """Gradient clipping, then SGD with Nesterov momentum and L2, or AdamW."""
    mask = None if config.decay_all else decayed

    def rate(step: jax.Array) -> jax.Array:
        # Behind a barrier, or XLA computes the schedule, a cosine, in each kernel that updates an array.
        value: jax.Array = jax.lax.optimization_barrier(jnp.asarray(learning_rate(step)))
        return value

    if config.name == "adamw":
        update = optax.adamw(rate, weight_decay=config.weight_decay, mask=mask)
    else:
        update = optax.chain(
            optax.add_decayed_weights(config.weight_decay, mask=mask),
            optax.sgd(rate, momentum=config.momentum, nesterov=True),
        )
    if config.clip_norm is None:
        return update
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), update)


def decayed(params: optax.Params) -> optax.Params:
    """A pytree like ``params``: True for kernels, False for arrays of one axis (biases; scale and bias of BN)."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
