"""Channels that are multiplied with too much, or with nothing.

Letters: C channels. Gain is γ/√(var + ε).
"""

from __future__ import annotations

import numpy as np

from bncli.inspection.layers import DEAD_SCALE, BatchNormArrays, dead_channels
from bncli.inspection.rules.precision import FLOAT32_BITS, rounding
from bncli.inspection.rules.rule import Channels, Flags, Severity, at, of_channels

# Below half a layer dead channels are a fact of healthy networks: sparsity emerges from weight decay, up to 80 % of the
# filters without loss (Mehta et al. 2019, arXiv 1811.12495), and 22 % of the inputs of a layer of EfficientNet-Lite0's
# ImageNet weights are constant 0.
DEAD_SHARE_WARNING = 0.5
# A gain both large and far from the layer's own: what is 1 % of a unit elsewhere is a standard deviation there. A ReLU
# channel that is seldom active has it in healthy networks (104 in a digits cnn with BN behind the ReLU, 75 in
# EfficientNet-Lite0's ImageNet weights), so that this alone is no fault.
LARGE_GAIN = 100.0
LARGE_GAIN_RATIO = 100.0
# No variance leads to this one with |γ| ≤ 3 and ε = 1e-5, which allows 316·|γ|: γ has exploded, or ε bounds nothing.
MAX_GAIN = 1000.0
# One scale for 8 bits has 255 steps; a channel 16 times the median leaves 4 bits to half of the channels. The largest
# ratio is 10 in EfficientNet-Lite0's ImageNet weights, 7 in a digits resnet20.
MAX_SCALE_RATIO = 16.0


def dead(layer: BatchNormArrays) -> np.ndarray:
    """Channels that pass nothing on: γ ≈ 0, or always below the ReLU."""
    flags = np.zeros(layer.channels, bool)
    flags[list(dead_channels(layer))] = True
    return flags


def dead_message(layer: BatchNormArrays, channels: Channels) -> str:
    """How many for which reason."""
    assert layer.scale is not None  # a layer without γ has no dead channels
    zero = int(np.count_nonzero(np.abs(at(layer.scale, channels)) < DEAD_SCALE))
    counts = {"with γ ≈ 0": zero, "always below the ReLU": len(channels) - zero}
    reasons = ", ".join(f"{count} {reason}" for reason, count in counts.items() if count)
    return f"{of_channels(layer, channels)}: nothing is passed on, {reasons}"


def by_share(layer: BatchNormArrays, channels: Channels) -> Severity:
    """A warning from half of the layer on."""
    return "warning" if len(channels) >= DEAD_SHARE_WARNING * layer.channels else "info"


def dead_inputs(layer: BatchNormArrays) -> Flags:
    """Channels whose mean² and variance are both below ε: nothing arrives there."""
    return (layer.var < layer.epsilon) & (layer.mean**2 < layer.epsilon)


def dead_inputs_message(layer: BatchNormArrays, channels: Channels) -> str:
    """With the gain that awaits what may still come."""
    return (
        f"{of_channels(layer, channels)}: almost nothing but 0 comes in. mean² and variance are below ε = "
        f"{layer.epsilon:g}, which sets the gain for what may still come: up to "
        f"{np.abs(at(layer.gain, channels)).max():.3g}"
    )


def epsilon_dominated(layer: BatchNormArrays) -> Flags:
    """Channels almost constant at something other than 0: their gain is set by ε, and noise is amplified up to 1/√ε.

    Where the mean is so large that a variance of ε could not have been seen beside it in float32, it is not known that
    they are constant: that is a cancellation.
    """
    return (layer.var < layer.epsilon) & (rounding(layer, bits=FLOAT32_BITS) < layer.epsilon)


def epsilon_dominated_message(layer: BatchNormArrays, channels: Channels) -> str:
    """With the gain that results."""
    return (
        f"{of_channels(layer, channels)}: variance below ε = {layer.epsilon:g}. Almost constant, and noise is "
        f"amplified up to {np.abs(at(layer.gain, channels)).max():.3g}-fold"
    )


def exploding_gain(layer: BatchNormArrays) -> Flags:
    """Channels whose gain is large in itself and far from that of the others."""
    gain = np.abs(layer.gain)
    return (gain > LARGE_GAIN) & (gain > LARGE_GAIN_RATIO * typical(gain, ~dead(layer)))


def exploding_gain_message(layer: BatchNormArrays, channels: Channels) -> str:
    """Against the median."""
    gain = np.abs(layer.gain)
    return (
        f"{of_channels(layer, channels)}: amplified up to {at(gain, channels).max():.4g}-fold, where the median "
        f"gain is {typical(gain, ~dead(layer)):.3g} (variance down to {at(layer.var, channels).min():.2g}, |γ| up to "
        f"{np.abs(at(_scale(layer), channels)).max():.3g})"
    )


def by_gain(layer: BatchNormArrays, channels: Channels) -> Severity:
    """A warning where no sound γ and ε lead to it."""
    return "warning" if np.abs(at(layer.gain, channels)).max() > MAX_GAIN else "info"


def scale_outlier(layer: BatchNormArrays) -> Flags:
    """Channels whose |γ| is far above that of the others.

    γ and not the gain, which makes up for kernels of another size: γ is the spread of what the layer hands on, and of
    what a backward fold leaves.
    """
    scale = np.abs(_scale(layer))
    return scale > MAX_SCALE_RATIO * typical(scale, ~dead(layer))


def scale_outlier_message(layer: BatchNormArrays, channels: Channels) -> str:
    """Against the median."""
    scale = np.abs(_scale(layer))
    median = typical(scale, ~dead(layer))
    return (
        f"{of_channels(layer, channels)}: |γ| up to {at(scale, channels).max():.3g}, "
        f"{at(scale, channels).max() / median:.3g} times the median. One scale for the layer leaves the others few "
        "steps of 8 bits"
    )


def typical(values: np.ndarray, counted: np.ndarray) -> float:
    """The median of the finite values that count; infinity where none does, to which nothing is large."""
    values = values[np.isfinite(values) & counted]
    return float(np.median(values)) if values.size else float("inf")


def _scale(layer: BatchNormArrays) -> np.ndarray:
    return np.ones(layer.channels) if layer.scale is None else layer.scale
