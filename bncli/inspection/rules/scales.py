"""Rules about channels that are amplified too much, or carry no signal.

Letters: C channels. Gain is γ/√(var + ε).
"""

from __future__ import annotations

import numpy as np

from bncli.inspection.layers import DEAD_SCALE, BatchNormArrays, dead_channels
from bncli.inspection.rules.precision import FLOAT32_BITS, rounding
from bncli.inspection.rules.rule import Channels, Flags, Severity, at, of_channels

# Below half of a layer, dead channels are normal in healthy networks: weight decay makes up to 80 % of the filters
# sparse without loss (Mehta et al. 2019, arXiv 1811.12495), and 22 % of the inputs of one layer of EfficientNet-Lite0's
# ImageNet weights are constantly 0.
DEAD_SHARE_WARNING = 0.5
# A gain both large and far from the rest of the layer turns 1 % of a unit into a standard deviation. A ReLU channel
# that is seldom active has such a gain in healthy networks (104 in a digits cnn with BN behind the ReLU, 75 in
# EfficientNet-Lite0's ImageNet weights), so the gain alone is not a fault.
LARGE_GAIN = 100.0
LARGE_GAIN_RATIO = 100.0
# With |γ| ≤ 3 and ε = 1e-5 no variance leads to this gain, since ε allows 316·|γ|: γ has exploded, or ε bounds nothing.
MAX_GAIN = 1000.0
# One 8-bit scale has 255 steps. A channel at 16 times the median leaves half of the channels 4 bits. The largest ratio
# is 10 in EfficientNet-Lite0's ImageNet weights, 7 in a digits resnet20.
MAX_SCALE_RATIO = 16.0


def dead(layer: BatchNormArrays) -> np.ndarray:
    """Channels that carry no signal: γ ≈ 0, or always negative before the ReLU."""
    flags = np.zeros(layer.channels, bool)
    flags[list(dead_channels(layer))] = True
    return flags


def dead_message(layer: BatchNormArrays, channels: Channels) -> str:
    """The number of channels for each reason."""
    assert layer.scale is not None  # a layer without γ has no dead channels
    zero = int(np.count_nonzero(np.abs(at(layer.scale, channels)) < DEAD_SCALE))
    counts = {"with γ ≈ 0": zero, "always negative before the ReLU": len(channels) - zero}
    reasons = ", ".join(f"{count} {reason}" for reason, count in counts.items() if count)
    return f"{of_channels(layer, channels)}: no signal passes, {reasons}"


def by_share(layer: BatchNormArrays, channels: Channels) -> Severity:
    """A warning from half of the layer on."""
    return "warning" if len(channels) >= DEAD_SHARE_WARNING * layer.channels else "info"


def dead_inputs(layer: BatchNormArrays) -> Flags:
    """Channels whose mean² and variance are both below ε: nothing arrives there."""
    return (layer.var < layer.epsilon) & (layer.mean**2 < layer.epsilon)


def dead_inputs_message(layer: BatchNormArrays, channels: Channels) -> str:
    """The gain that applies to whatever still arrives."""
    return (
        f"{of_channels(layer, channels)}: the input is almost always 0, with mean² and variance below ε = "
        f"{layer.epsilon:g}. ε sets the gain of whatever still arrives: up to "
        f"{np.abs(at(layer.gain, channels)).max():.3g}"
    )


def epsilon_dominated(layer: BatchNormArrays) -> Flags:
    """Channels almost constant at a value other than 0: ε sets their gain, and amplifies noise by up to 1/√ε.

    A channel with a mean so large that float32 could not resolve a variance of ε beside it is not known to be
    constant. That is cancellation.
    """
    return (layer.var < layer.epsilon) & (rounding(layer, bits=FLOAT32_BITS) < layer.epsilon)


def epsilon_dominated_message(layer: BatchNormArrays, channels: Channels) -> str:
    """The resulting gain."""
    return (
        f"{of_channels(layer, channels)}: variance below ε = {layer.epsilon:g}. The input is almost constant, and its "
        f"noise is amplified by up to {np.abs(at(layer.gain, channels)).max():.3g}×"
    )


def exploding_gain(layer: BatchNormArrays) -> Flags:
    """Channels whose gain is large in itself and far above the others'."""
    gain = np.abs(layer.gain)
    return (gain > LARGE_GAIN) & (gain > LARGE_GAIN_RATIO * typical(gain, ~dead(layer)))


def exploding_gain_message(layer: BatchNormArrays, channels: Channels) -> str:
    """The largest gain against the median."""
    gain = np.abs(layer.gain)
    return (
        f"{of_channels(layer, channels)}: amplified by up to {at(gain, channels).max():.4g}×, while the median gain "
        f"is {typical(gain, ~dead(layer)):.3g} (variance as low as {at(layer.var, channels).min():.2g}, |γ| up to "
        f"{np.abs(at(layer.scale_or_ones, channels)).max():.3g})"
    )


def by_gain(layer: BatchNormArrays, channels: Channels) -> Severity:
    """A warning if no sound γ and ε lead to this gain."""
    return "warning" if np.abs(at(layer.gain, channels)).max() > MAX_GAIN else "info"


def scale_outlier(layer: BatchNormArrays) -> Flags:
    """Channels whose |γ| is far above the others'.

    The rule looks at γ, not at the gain, which compensates for kernels of another size: γ is the spread of the layer's
    output, and of the output after a backward fold.
    """
    scale = np.abs(layer.scale_or_ones)
    return scale > MAX_SCALE_RATIO * typical(scale, ~dead(layer))


def scale_outlier_message(layer: BatchNormArrays, channels: Channels) -> str:
    """The largest |γ| against the median."""
    scale = np.abs(layer.scale_or_ones)
    median = typical(scale, ~dead(layer))
    return (
        f"{of_channels(layer, channels)}: |γ| up to {at(scale, channels).max():.3g}, "
        f"{at(scale, channels).max() / median:.3g} times the median. One scale for the layer leaves the other channels "
        "few of the steps of 8 bits"
    )


def typical(values: np.ndarray, counted: np.ndarray) -> float:
    """The median of the finite values that count; infinity if there are none, so that nothing is large beside it."""
    values = values[np.isfinite(values) & counted]
    return float(np.median(values)) if values.size else float("inf")
