"""Rules about running averages that are broken, were never taken, or have not converged.

Letters: C channels, R replicas.
"""

from __future__ import annotations

import numpy as np

from bncli.inspection.layers import BatchNormArrays
from bncli.inspection.rules.rule import Channels, Flags, at, of_channels

# Share of the initial value (mean 0, variance 1) that may remain in a running average: a hundredth of a standard
# deviation, which the noise of a batch hides. 44 updates at momentum 0.9, 459 at 0.99.
MAX_RESIDUAL = 0.01
# Flax and Keras default to 0.99, PyTorch to 0.9 in this convention. Below 0.5 the last batch outweighs all before it,
# which defeats an average. The value found there in practice is PyTorch's 0.1.
MIN_MOMENTUM = 0.5
# Unsynchronised replicas differ by the noise of their batches: a batch of 8 is off by at most 0.35 standard deviations,
# and averaging at momentum 0.9 leaves 0.23 of that. Beyond 0.1 the result depends on the replica.
REPLICA_DISTANCE = 0.1
REPLICA_RATIO = 1.1
# Relative error of one multiplication in float32.
ROUNDING = 2.0**-23


def nonfinite(layer: BatchNormArrays) -> Flags:
    """Channels with a NaN or infinite value: one bad batch poisons a running average for good."""
    sound = np.all([np.isfinite(array) for array in layer.stored().values()], axis=0)
    if layer.replicas is not None:
        sound &= np.isfinite(layer.replicas).all(axis=(0, 1))
    return ~sound


def nonfinite_message(layer: BatchNormArrays, channels: Channels) -> str:
    """The arrays that hold such values."""
    names = [name for name, array in layer.stored().items() if not np.isfinite(at(array, channels)).all()]
    return f"{of_channels(layer, channels)}: NaN or infinite values in {', '.join(names) or 'another replica'}"


def negative_variance(layer: BatchNormArrays) -> Flags:
    """Channels whose variance is below 0: an average of variances cannot be negative."""
    return layer.var < 0


def negative_variance_message(layer: BatchNormArrays, channels: Channels) -> str:
    """The lowest variance and its effect."""
    lowest = at(layer.var, channels).min()
    result = "so the output is NaN" if lowest < -layer.epsilon else "but an average of variances cannot be negative"
    return f"{of_channels(layer, channels)}: variance as low as {lowest:.3g}, {result}"


def in_train_mode(layer: BatchNormArrays) -> Flags:
    """True if the file itself says that the layer normalises by the batch."""
    return layer.train_mode


def in_train_mode_message(layer: BatchNormArrays, channels: Channels) -> str:
    """The effect."""
    return (
        "normalises by its batch in this file (train mode): outputs depend on the batch, and its statistics are unused"
    )


def never_updated(layer: BatchNormArrays) -> Flags:
    """True if no data ever reached the statistics: they are the initial values, or decayed from them by zeros only.

    Every framework starts with mean 0 and variance 1. Each forward pass over zeros, such as a dummy input for
    initialisation, leaves the mean at exactly 0 and multiplies the variance by the momentum. Zeros everywhere are what
    a conversion leaves of arrays that it did not fill in.
    """
    if layer.frozen:  # training used these very values
        return False
    return zero_updates(layer) is not None or is_erased(layer)


def is_erased(layer: BatchNormArrays) -> bool:
    """True if mean and variance are exactly 0 in all channels."""
    return not layer.measured and bool(layer.channels) and not np.any(layer.mean) and not np.any(layer.var)


def zero_updates(layer: BatchNormArrays) -> int | None:
    """k if the mean is exactly 0 and the variance momentum^k in all channels; None for any other statistics."""
    if layer.measured or np.any(layer.mean != 0) or not layer.channels or np.any(layer.var != layer.var[0]):
        return None
    return _power(float(layer.var[0]), layer.momentum)


def _power(var: float, momentum: float | None) -> int | None:
    """k ≥ 0 with momentum^k = var, as far as float32 tells; None if there is none."""
    if var == 1:
        return 0
    if momentum is None or not 0 < momentum < 1 or not 0 < var < 1:
        return None
    updates = round(np.log(var) / np.log(momentum))
    exact = momentum**updates
    return updates if updates >= 1 and abs(var - exact) <= updates * ROUNDING * exact else None


def never_updated_message(layer: BatchNormArrays, channels: Channels) -> str:
    """The values, and where they come from."""
    where = f"all {layer.channels} channels" if layer.channels != 1 else "its only channel"
    if is_erased(layer):
        return f"mean and variance are 0 in {where}: the statistics were erased, or never filled in"
    updates = zero_updates(layer)
    if not updates:
        return f"mean is 0 and variance is 1 in {where}, the initial values: the statistics were never updated"
    return (
        f"mean is 0 and variance is {layer.momentum:g}^{updates} in {where}: the statistics saw only zeros, such as a "
        "dummy forward pass"
    )


def undebiased(layer: BatchNormArrays) -> Flags:
    """Channels whose variance is too large by more than a hundredth of what it should be."""
    return np.asarray(layer.excess > np.maximum(MAX_RESIDUAL * (layer.var - layer.excess + layer.epsilon), 0))


def undebiased_message(layer: BatchNormArrays, channels: Channels) -> str:
    """The amount, and the variance without it."""
    right = np.median(at(layer.var, channels)) - layer.excess
    return (
        f"{of_channels(layer, channels)}: the running variance is too large by {layer.excess:.3g}, the rest of its"
        f" start at 1, where {max(right, 0):.3g} is right in the median channel"
    )


def residual(layer: BatchNormArrays) -> float | None:
    """momentum^updates, the share of the initial value left in running averages; None if unknown or not averages.

    A counter of 0 beside statistics that are not the initial ones is unknown: a conversion did not set it.
    """
    if layer.measured or layer.momentum is None or layer.updates is None:
        return None
    if not 0 <= layer.momentum <= 1 or layer.updates <= 0:
        return None
    return float(layer.momentum**layer.updates)


def not_converged(layer: BatchNormArrays) -> Flags:
    """True if too much of the initial value is left.

    Nothing is said if the number of updates is unknown: a layer with standardised inputs also has statistics near 0
    and 1.
    """
    left = residual(layer)
    return left is not None and left > MAX_RESIDUAL


def not_converged_message(layer: BatchNormArrays, channels: Channels) -> str:
    """The share that is left, the updates and the momentum."""
    left = residual(layer) or 0.0
    updates = f"{layer.updates} update{'s' * (layer.updates != 1)}"
    return (
        f"{100 * left:.3g} % of the running averages is still the initial value after {updates} at momentum "
        f"{layer.momentum:g}"
    )


def foreign_momentum(layer: BatchNormArrays) -> Flags:
    """True if the momentum makes sense in PyTorch's convention only, and has been used."""
    return not layer.measured and not layer.frozen and layer.momentum is not None and layer.momentum < MIN_MOMENTUM


def foreign_momentum_message(layer: BatchNormArrays, channels: Channels) -> str:
    """The effect of this momentum, and the one that was probably meant."""
    momentum = layer.momentum or 0.0
    return (
        f"momentum {momentum:g} keeps {100 * momentum:g} % of the old value, so the statistics cover only the last "
        f"{1 / (1 - momentum):.2g} batches; PyTorch's {momentum:g} is {1 - momentum:g} in this convention"
    )


def replicas_disagree(layer: BatchNormArrays) -> Flags:
    """Channels whose statistics depend on the replica they are taken from."""
    if layer.replicas is None:
        return False
    distance, ratio = replica_spread(layer.replicas, layer.epsilon)
    return (distance > REPLICA_DISTANCE) | (ratio > REPLICA_RATIO)


def replicas_message(layer: BatchNormArrays, channels: Channels) -> str:
    """The largest differences between replicas."""
    assert layer.replicas is not None  # only such layers are affected
    distance, ratio = replica_spread(layer.replicas, layer.epsilon)
    return (
        f"the {len(layer.replicas)} replicas disagree in {of_channels(layer, channels)}: means differ by up to "
        f"{at(distance, channels).max():.2g} standard deviations, standard deviations by a factor of up to "
        f"{at(ratio, channels).max():.3g}"
    )


def replica_spread(replicas: np.ndarray, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    """(largest difference of two means in standard deviations, largest ratio of two standard deviations), [C] each."""
    mean, var = replicas[:, 0], replicas[:, 1] + epsilon  # [R, C]
    distance = (mean.max(axis=0) - mean.min(axis=0)) / np.sqrt(var.mean(axis=0))
    return distance, np.sqrt(var.max(axis=0) / var.min(axis=0))
