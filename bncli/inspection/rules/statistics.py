"""Running averages that are none, or not yet.

Letters: C channels, R replicas.
"""

from __future__ import annotations

import numpy as np

from bncli.inspection.layers import BatchNormArrays
from bncli.inspection.rules.rule import Channels, Flags, at, of_channels

# Share of the start (mean 0, variance 1) in a running average that is as good as gone: a hundredth of a standard
# deviation, which the noise of a batch hides. 44 updates at momentum 0.9, 459 at 0.99.
MAX_RESIDUAL = 0.01
# Flax's and Keras' default is 0.99, PyTorch's 0.9 in this convention. Below 0.5 the last batch alone outweighs all
# before it, which nobody wants of an average; PyTorch's 0.1 is what is found there.
MIN_MOMENTUM = 0.5
# Unsynchronised replicas differ by the noise of their batches: a batch of 8 is off by 0.35 standard deviations at most,
# and averaging at momentum 0.9 leaves 0.23 of that. Beyond 0.1 it matters which replica's are used.
REPLICA_DISTANCE = 0.1
REPLICA_RATIO = 1.1


def nonfinite(layer: BatchNormArrays) -> Flags:
    """Channels with a NaN or infinite number: one bad batch poisons a running average for good."""
    sound = np.all([np.isfinite(array) for array in layer.stored().values()], axis=0)
    if layer.replicas is not None:
        sound &= np.isfinite(layer.replicas).all(axis=(0, 1))
    return ~sound


def nonfinite_message(layer: BatchNormArrays, channels: Channels) -> str:
    """Which of the arrays."""
    names = [name for name, array in layer.stored().items() if not np.isfinite(at(array, channels)).all()]
    return f"{of_channels(layer, channels)}: NaN or infinite numbers in {', '.join(names) or 'another replica'}"


def negative_variance(layer: BatchNormArrays) -> Flags:
    """Channels whose variance is below 0, which an average of variances cannot be."""
    return layer.var < 0


def negative_variance_message(layer: BatchNormArrays, channels: Channels) -> str:
    """How far below."""
    lowest = at(layer.var, channels).min()
    result = "which makes the output NaN" if lowest < -layer.epsilon else "which no average of variances can be"
    return f"{of_channels(layer, channels)}: variance down to {lowest:.3g}, {result}"


def never_updated(layer: BatchNormArrays) -> Flags:
    """Whether the mean is exactly 0 and the variance exactly 1 throughout: where every framework starts."""
    return bool(np.all(layer.mean == 0) and np.all(layer.var == 1))


def never_updated_message(layer: BatchNormArrays, channels: Channels) -> str:
    """The same for each layer."""
    return f"mean is 0 and variance 1 in all {layer.channels} channels, as they start: they were never updated"


def residual(layer: BatchNormArrays) -> float | None:
    """momentum^updates, the share of their start in running averages; None where it is not known, or they are none.

    A counter at 0 beside statistics that are not the start's is one that a conversion did not set.
    """
    if layer.measured or layer.momentum is None or layer.updates is None:
        return None
    if not 0 <= layer.momentum <= 1 or layer.updates <= 0:
        return None
    return float(layer.momentum**layer.updates)


def not_converged(layer: BatchNormArrays) -> Flags:
    """Whether too much of the start is left.

    Where the number of updates is unknown nothing is said: statistics near 0 and 1 are also those of a layer whose
    inputs are standardised already.
    """
    left = residual(layer)
    return left is not None and left > MAX_RESIDUAL


def not_converged_message(layer: BatchNormArrays, channels: Channels) -> str:
    """How much is left, of what."""
    left = residual(layer) or 0.0
    return (
        f"{100 * left:.3g} % of the running averages is still their start: {layer.updates} updates at momentum "
        f"{layer.momentum:g}"
    )


def foreign_momentum(layer: BatchNormArrays) -> Flags:
    """Whether the momentum is one that only makes sense in PyTorch's convention."""
    return not layer.measured and layer.momentum is not None and layer.momentum < MIN_MOMENTUM


def foreign_momentum_message(layer: BatchNormArrays, channels: Channels) -> str:
    """What it does here, and what may have been meant."""
    momentum = layer.momentum or 0.0
    return (
        f"momentum {momentum:g} keeps {100 * momentum:g} % of the old value: the statistics are those of the last "
        f"{1 / (1 - momentum):.2g} batches; PyTorch's {momentum:g} is {1 - momentum:g} here"
    )


def replicas_disagree(layer: BatchNormArrays) -> Flags:
    """Channels whose statistics depend on which replica they are taken from."""
    if layer.replicas is None:
        return False
    distance, ratio = replica_spread(layer)
    return (distance > REPLICA_DISTANCE) | (ratio > REPLICA_RATIO)


def replicas_message(layer: BatchNormArrays, channels: Channels) -> str:
    """How far apart."""
    assert layer.replicas is not None  # the rule has seen to that
    distance, ratio = replica_spread(layer)
    return (
        f"the {len(layer.replicas)} replicas disagree in {of_channels(layer, channels)}: means by up to "
        f"{at(distance, channels).max():.2g} standard deviations, standard deviations up to "
        f"{at(ratio, channels).max():.3g}-fold"
    )


def replica_spread(layer: BatchNormArrays) -> tuple[np.ndarray, np.ndarray]:
    """(largest difference of two means in standard deviations, largest ratio of two standard deviations), [C] each."""
    assert layer.replicas is not None  # the caller has seen to that
    mean, var = layer.replicas[:, 0], layer.replicas[:, 1] + layer.epsilon  # [R, C]
    distance = (mean.max(axis=0) - mean.min(axis=0)) / np.sqrt(var.mean(axis=0))
    return distance, np.sqrt(var.max(axis=0) / var.min(axis=0))
