"""Learning-rate schedules and optimizers, all of them optax's."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from bncli.config.settings import OptimizerConfig
from bncli.training.tuning import Tuning, by_path, without

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


# The triangle: it begins at this share of the peak, reaches the peak at this share of the schedule, and ends at that
# share of the peak (Jordan 2024, arXiv 2404.00498, listing 4).
TRIANGLE_START, TRIANGLE_TOP, TRIANGLE_END = 0.2, 0.23, 0.07


def _triangular(peak: float, warmup: int, total: int) -> optax.Schedule:
    """Up in a line for 23 % of the schedule, which replaces the warm-up, then down in a line."""
    top = max(1, round(TRIANGLE_TOP * total))
    rise = optax.linear_schedule(TRIANGLE_START * peak, peak, top)
    fall = optax.linear_schedule(peak, TRIANGLE_END * peak, max(1, total - top))
    return optax.join_schedules([rise, fall], [top])


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
    "triangular": _triangular,
}


def create_release_fn(config: OptimizerConfig, *, steps_per_epoch: int, epochs: int, start: int) -> optax.Schedule:
    """The factor of the learning rate of arrays that are trained from step ``start`` on: a warm-up of their own.

    It rises in a line over ``warmup_epochs``, or over a quarter of the rest of the schedule if that is shorter.
    """
    rest = max(0, steps_per_epoch * epochs - start)
    warmup = max(1, min(round(config.warmup_epochs * steps_per_epoch), int(rest * MAX_WARMUP_SHARE)))
    return lambda step: jnp.clip((step - start + 1) / warmup, 0.0, 1.0)


def create_optimizer(config: OptimizerConfig, learning_rate: optax.Schedule) -> optax.GradientTransformation:
    """Gradient clipping, then SGD with Nesterov momentum and L2, or AdamW."""
    mask = None if config.decay_all else decayed
    rate = _computed_once(learning_rate)
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


def create_tuned_optimizer(
    config: OptimizerConfig,
    learning_rate: optax.Schedule,
    tuning: Tuning,
    *,
    released: bool,
    release: optax.Schedule,
) -> optax.GradientTransformation:
    """The optimizer where some arrays are frozen, or learn at a rate of their own.

    Clipping sees the gradients of trained arrays alone. The moments of arrays that are trained later begin when their
    training does. The structure of the state does not depend on ``released``.

    Args:
        config: the settings.
        learning_rate: by step.
        tuning: the groups of arrays, and the factors of their learning rates.
        released: True from ``--unfreeze-at`` on.
        release: factor of the learning rate of arrays that are trained later, by step.
    """
    direction = _direction(config)
    groups = {"trained": direction, "later": direction if released else _waiting(direction), "frozen": _ABSENT}
    held = tuning.held(released=released)
    return optax.chain(
        optax.stateless(lambda gradients, params: without(held, gradients)),
        optax.identity() if config.clip_norm is None else optax.clip_by_global_norm(config.clip_norm),
        optax.partition(groups, tuning.groups),
        _by_learning_rates(_computed_once(learning_rate), tuning, release),
    )


# Haiku's BN keeps its scale and bias as [1, 1, 1, C], and a convolution of Equinox its bias as [C, 1, 1].
PER_CHANNEL = ("b", "bias", "offset", "scale")
_ABSENT = optax.set_to_zero()


def _direction(config: OptimizerConfig) -> optax.GradientTransformation:
    """The update of ``create_optimizer`` before its learning rate."""
    decay = optax.add_decayed_weights(config.weight_decay, mask=None if config.decay_all else decayed)
    if config.name == "adamw":
        return optax.chain(optax.scale_by_adam(), decay)
    return optax.chain(decay, optax.trace(decay=config.momentum, nesterov=True))


def _waiting(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """A transformation with the state of ``inner``, which it keeps, and no update."""

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        return jax.tree.map(jnp.zeros_like, updates), state

    return optax.GradientTransformation(inner.init, update)


def _by_learning_rates(rate: optax.Schedule, tuning: Tuning, release: optax.Schedule) -> optax.GradientTransformation:
    """Multiply each update by minus its learning rate."""
    factors = dict(tuning.factors)

    def init(params: optax.Params) -> optax.ScaleByScheduleState:
        return optax.ScaleByScheduleState(count=jnp.zeros((), jnp.int32))

    def update(
        updates: optax.Updates, state: optax.ScaleByScheduleState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.ScaleByScheduleState]:
        now, rise = rate(state.count), release(state.count)

        def scaled(path: str, leaf: jax.Array) -> jax.Array:
            own = now * factors.get(path, 1.0) * (rise if path in tuning.later else 1.0)
            update: jax.Array = -own * leaf
            return update

        return by_path(scaled, updates), optax.ScaleByScheduleState(count=optax.safe_increment(state.count))

    return optax.GradientTransformation(init, update)


def _computed_once(learning_rate: optax.Schedule) -> optax.Schedule:
    """The schedule behind a barrier, or XLA computes it, a cosine, in each kernel that updates an array."""

    def rate(step: jax.Array) -> jax.Array:
        value: jax.Array = jax.lax.optimization_barrier(jnp.asarray(learning_rate(step)))
        return value

    return rate


def decayed(params: optax.Params) -> optax.Params:
    """A pytree like ``params``: True for kernels, False for biases, and for scale and bias of BN."""

    def is_kernel(path: str, leaf: jax.Array) -> bool:
        has_one_per_channel = leaf.size == max(leaf.shape, default=1) and path.rpartition("/")[2] in PER_CHANNEL
        return leaf.ndim > 1 and not has_one_per_channel

    mask: optax.Params = by_path(is_kernel, params)
    return mask
