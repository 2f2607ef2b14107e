"""Learning-rate schedules, and optimizers of optax."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bncli.config.settings import OptimizerConfig
from bncli.frameworks.network import CHANNELS_LAST, KernelAxes
from bncli.ops import Number
from bncli.training.tuning import Tuning, by_path, without

# A warm-up takes at most this share of the schedule, so that a run of one epoch is not all warm-up.
MAX_WARMUP_SHARE = 0.25
# "step" multiplies the rate by 0.1 at these shares of the schedule (He et al. 2015, section 4.2).
STEP_DECAY_AT = (0.5, 0.75)
# "one-cycle" rises for this share of the schedule, by this factor, and ends at this factor below its start.
_RISE_SHARE, _RISE_FACTOR, _FINAL_FACTOR = 0.3, 25.0, 1e4


# Updates done, int [n] -> learning rate or factor of each, float32 [n]; on the host, since the rate is an argument of
# the training step.
Schedule: TypeAlias = Callable[[np.ndarray], np.ndarray]


def create_learning_rate_fn(config: OptimizerConfig, *, steps_per_epoch: int, epochs: int) -> Schedule:
    """The learning rate as a function of the updates done.

    The schedule is ``schedule_epochs`` long or, if that is None, ``epochs``. After its end the rate stays at its last
    value. If a run without ``schedule_epochs`` is extended, the schedule is stretched over the new length, and the
    rate at the point of extension jumps up accordingly.

    The numbers are those of optax's schedules of the same names in a compiled program, bit by bit.
    """
    total = steps_per_epoch * (config.schedule_epochs or epochs)
    warmup = min(round(config.warmup_epochs * steps_per_epoch), int(total * MAX_WARMUP_SHARE))
    return _SCHEDULES[config.schedule](config.peak_learning_rate, warmup, total)


def _cosine(peak: float, warmup: int, total: int) -> Schedule:
    """Half a cosine from the peak to 0 (Loshchilov & Hutter 2016, arXiv 1608.03983)."""
    length = total - warmup

    def decay(done: np.ndarray) -> np.ndarray:
        return np.float32(peak) * _half_cosine(np.minimum(done, length), length)

    return _with_warmup(decay, peak, warmup)


def _one_cycle(peak: float, warmup: int, total: int) -> Schedule:
    """Up for 30 % of the schedule, which replaces the warm-up, then down (Smith & Topin 2017, arXiv 1708.07120).

    Each part is half a cosine: from a 25th of the peak to the peak, and on to 1/250,000 of it.
    """
    length = max(total, 2)
    middle = int(_RISE_SHARE * length)
    factors = np.array([peak / _RISE_FACTOR, _RISE_FACTOR, 1 / (_RISE_FACTOR * _FINAL_FACTOR)], np.float32)
    low, high, end = np.cumprod(factors, dtype=np.float32)

    def rate(done: np.ndarray) -> np.ndarray:
        rise = _between(low, high, done, max(middle, 1))
        fall = _between(high, end, done - middle, length - middle)
        return np.where(done < middle, rise, np.where(done < length, fall, end))

    return rate


def _between(start: np.float32, end: np.float32, done: np.ndarray, length: int) -> np.ndarray:
    """Half a cosine from ``start`` to ``end``. The product is rounded with its sum, as a fused multiply-add does."""
    share = done.astype(np.float32) * (np.float32(1) / np.float32(length))
    raised = np.float32(1) + np.asarray(_compiled_cosine(np.float32(np.pi) * share))
    half = float((start - end) / np.float32(2))
    between: np.ndarray = (float(end) + half * raised.astype(np.float64)).astype(np.float32)
    return between


# The triangle: it begins at this share of the peak, reaches the peak at this share of the schedule, and ends at that
# share of the peak (Jordan 2024, arXiv 2404.00498, listing 4).
TRIANGLE_START, TRIANGLE_TOP, TRIANGLE_END = 0.2, 0.23, 0.07


def _triangular(peak: float, warmup: int, total: int) -> Schedule:
    """Up in a line for 23 % of the schedule, which replaces the warm-up, then down in a line."""
    top = max(1, round(TRIANGLE_TOP * total))

    def rate(done: np.ndarray) -> np.ndarray:
        rise = _line(TRIANGLE_START * peak, peak, done, top)
        fall = _line(peak, TRIANGLE_END * peak, done - top, max(1, total - top))
        return np.where(done < top, rise, fall)

    return rate


def _step(peak: float, warmup: int, total: int) -> Schedule:
    boundaries = sorted({int(share * total) - warmup for share in STEP_DECAY_AT})

    def decay(done: np.ndarray) -> np.ndarray:
        rate = np.full(done.shape, np.float32(peak))
        for boundary in boundaries:
            rate = np.where(done < boundary, rate, np.float32(0.1) * rate)
        return rate

    return _with_warmup(decay, peak, warmup)


def _constant(peak: float, warmup: int, total: int) -> Schedule:
    return _with_warmup(lambda done: np.full(done.shape, np.float32(peak)), peak, warmup)


def _with_warmup(schedule: Schedule, peak: float, warmup: int) -> Schedule:
    if warmup == 0:
        return schedule
    return lambda done: np.where(done < warmup, _line(0.0, peak, done, warmup), schedule(done - warmup))


def _line(start: float, end: float, done: np.ndarray, length: int) -> np.ndarray:
    """The line from ``start`` to ``end``. Each product is rounded with its sum, as a fused multiply-add does."""
    inverse, descent = float(np.float32(1) / np.float32(length)), float(np.float32(start - end))
    left = (1 - np.clip(done, 0, length) * inverse).astype(np.float32)
    line: np.ndarray = (float(np.float32(end)) + descent * left.astype(np.float64)).astype(np.float32)
    return line


def _half_cosine(done: np.ndarray, length: int) -> np.ndarray:
    """(1 + cos(π · done / length)) / 2, from 1 down to 0."""
    angles = np.float32(np.pi) * done.astype(np.float32) * (np.float32(1) / np.float32(length))
    # XLA's cosine: another one rounds otherwise, and a training would take another way from its first step on.
    half: np.ndarray = np.float32(0.5) * (np.float32(1) + np.asarray(_compiled_cosine(angles)))
    return half


@jax.jit
def _compiled_cosine(angles: jax.Array) -> jax.Array:
    return jnp.cos(angles)


_SCHEDULES: Mapping[str, Callable[[float, int, int], Schedule]] = {
    "constant": _constant,
    "cosine": _cosine,
    "one-cycle": _one_cycle,
    "step": _step,
    "triangular": _triangular,
}


def create_release_fn(config: OptimizerConfig, *, steps_per_epoch: int, epochs: int, start: int) -> Schedule:
    """The factor of the learning rate of arrays that are trained from step ``start`` on: a warm-up of their own.

    It rises in a line over ``warmup_epochs``, or over a quarter of the rest of the schedule if that is shorter.
    """
    rest = max(0, steps_per_epoch * epochs - start)
    warmup = max(1, min(round(config.warmup_epochs * steps_per_epoch), int(rest * MAX_WARMUP_SHARE)))
    inverse = np.float32(1) / np.float32(warmup)
    return lambda done: np.clip((done - start + 1).astype(np.float32) * inverse, np.float32(0), np.float32(1))


@dataclass(frozen=True)
class UpdateNumbers:
    """The numbers of an update that its program gets as arguments; all float32 [].

    Attributes:
        learning_rate: of the update.
        release: factor of the learning rate of arrays that are trained later.
        weight_decay: of the kernels.
    """

    learning_rate: Number = 0.0
    release: Number = 1.0
    weight_decay: Number = 0.0

    @property
    def schedule(self) -> optax.Schedule:
        """The learning rate as optax takes it. Its state counts the updates, as in the saves of all versions."""
        return lambda step: self.learning_rate


def create_optimizer(
    config: OptimizerConfig, numbers: UpdateNumbers, kernel_axes: KernelAxes = CHANNELS_LAST
) -> optax.GradientTransformation:
    """Gradient clipping, then SGD with Nesterov momentum and L2, or AdamW, or Muon.

    Args:
        config: its learning rate, schedule and weight decay play no part.
        numbers: of the present update; they do not change the state.
        kernel_axes: where the network's convolutions have their channels.
    """
    mask = None if config.decay_all else decayed
    if config.name == "adamw":
        update = optax.adamw(numbers.schedule, weight_decay=numbers.weight_decay, mask=mask)
    elif config.name == "muon":
        direction = _direction(config, numbers, kernel_axes)
        update = optax.chain(direction, optax.scale_by_learning_rate(numbers.schedule))
    else:
        update = optax.chain(
            optax.add_decayed_weights(numbers.weight_decay, mask=mask),
            optax.sgd(numbers.schedule, momentum=config.momentum, nesterov=True),
        )
    if config.clip_norm is None:
        return update
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), update)


def create_tuned_optimizer(
    config: OptimizerConfig,
    numbers: UpdateNumbers,
    tuning: Tuning,
    *,
    released: bool,
    kernel_axes: KernelAxes = CHANNELS_LAST,
) -> optax.GradientTransformation:
    """The optimizer where some arrays are frozen, or learn at a rate of their own.

    Clipping sees the gradients of trained arrays alone. The moments of arrays that are trained later begin when their
    training does. The structure of the state does not depend on ``released``.

    Args:
        config: the settings.
        numbers: of the present update.
        tuning: the groups of arrays, and the factors of their learning rates.
        released: True from ``--unfreeze-at`` on.
        kernel_axes: where the network's convolutions have their channels.
    """
    direction = _direction(config, numbers, kernel_axes)
    groups = {"trained": direction, "later": direction if released else _waiting(direction), "frozen": _ABSENT}
    held = tuning.held(released=released)
    return optax.chain(
        optax.stateless(lambda gradients, params: without(held, gradients)),
        optax.identity() if config.clip_norm is None else optax.clip_by_global_norm(config.clip_norm),
        optax.partition(groups, tuning.groups),
        _by_learning_rates(numbers, tuning),
    )


# Haiku's BN keeps its scale and bias as [1, 1, 1, C], and a convolution of Equinox its bias as [C, 1, 1].
PER_CHANNEL = ("b", "bias", "offset", "scale")
_ABSENT = optax.set_to_zero()


# Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon): 3 iterations are enough for small images (airbench).
# Adam moves every value by about its rate, Muon a whole filter by about its own: hence the share of the rate.
MUON_ITERATIONS, MUON_ADAM_SHARE, MUON_ADAM_B2 = 3, 0.1, 0.95


def _direction(
    config: OptimizerConfig, numbers: UpdateNumbers, kernel_axes: KernelAxes
) -> optax.GradientTransformation:
    """The update of ``create_optimizer`` before its learning rate."""
    decay = optax.add_decayed_weights(numbers.weight_decay, mask=None if config.decay_all else decayed)
    if config.name == "adamw":
        return optax.chain(optax.scale_by_adam(), decay)
    if config.name == "muon":
        rest = optax.chain(optax.scale_by_adam(b2=MUON_ADAM_B2), decay, optax.scale(MUON_ADAM_SHARE))
        groups = {"filters": optax.chain(_muon(config.momentum, kernel_axes), decay), "rest": rest}
        return optax.partition(groups, partial(_muon_groups, kernel_axes=kernel_axes))
    return optax.chain(decay, optax.trace(decay=config.momentum, nesterov=True))


def _muon_groups(params: optax.Params, *, kernel_axes: KernelAxes) -> optax.Params:
    """A pytree like ``params``: "filters" for kernels of convolutions, "rest" for all others.

    The filters of a depthwise convolution see one channel each: that they be orthogonal to each other has no meaning.
    """

    def group(path: str, leaf: jax.Array) -> str:
        is_kernel = leaf.ndim > 2 and path.rpartition("/")[2] not in PER_CHANNEL
        return "filters" if is_kernel and leaf.shape[kernel_axes.inputs] > 1 else "rest"

    groups: optax.Params = by_path(group, params)
    return groups


def _muon(momentum: float, kernel_axes: KernelAxes) -> optax.GradientTransformation:
    """Momentum whose filters, seen as one matrix [inputs, filters] for each kernel, are made nearly orthogonal."""
    from optax.contrib import MuonDimensionNumbers, scale_by_muon  # for this optimizer alone: importing it takes time

    def matrices(kernels: optax.Params) -> optax.Params:
        def matrix(kernel: jax.Array) -> MuonDimensionNumbers:
            filters = kernel_axes.outputs % kernel.ndim
            return MuonDimensionNumbers(tuple(axis for axis in range(kernel.ndim) if axis != filters), filters)

        return jax.tree.map(matrix, kernels)

    return scale_by_muon(ns_steps=MUON_ITERATIONS, beta=momentum, weight_dimension_numbers=matrices)


def _waiting(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """A transformation with the state of ``inner``, which it keeps, and no update."""

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        return jax.tree.map(jnp.zeros_like, updates), state

    return optax.GradientTransformation(inner.init, update)


def _by_learning_rates(numbers: UpdateNumbers, tuning: Tuning) -> optax.GradientTransformation:
    """Multiply each update by minus its learning rate."""
    factors = dict(tuning.factors)

    def init(params: optax.Params) -> optax.ScaleByScheduleState:
        return optax.ScaleByScheduleState(count=jnp.zeros((), jnp.int32))

    def update(
        updates: optax.Updates, state: optax.ScaleByScheduleState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.ScaleByScheduleState]:
        def scaled(path: str, leaf: jax.Array) -> jax.Array:
            rise = numbers.release if path in tuning.later else 1.0
            own = numbers.learning_rate * factors.get(path, 1.0) * rise
            update: jax.Array = -own * leaf
            return update

        return by_path(scaled, updates), optax.ScaleByScheduleState(count=optax.safe_increment(state.count))

    return optax.GradientTransformation(init, update)


def decayed(params: optax.Params) -> optax.Params:
    """A pytree like ``params``: True for kernels, False for biases, and for scale and bias of BN."""

    def is_kernel(path: str, leaf: jax.Array) -> bool:
        has_one_per_channel = leaf.size == max(leaf.shape, default=1) and path.rpartition("/")[2] in PER_CHANNEL
        return leaf.ndim > 1 and not has_one_per_channel

    mask: optax.Params = by_path(is_kernel, params)
    return mask
