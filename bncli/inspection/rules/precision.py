"""Rules about what floats of 24, 11 and 8 significant bits lose of a layer.

Letters: C channels. Shift is β − mean·γ/√(var + ε).
"""

from __future__ import annotations

import numpy as np

from bncli.inspection.layers import BatchNormArrays
from bncli.inspection.rules.rule import Channels, Flags, Severity, at, of_channels

# A variance computed in one pass is off by mean²·2⁻²⁴ in float32. Beyond this share of var + ε it is wrong.
MAX_VARIANCE_ERROR = 0.01
FLOAT32_BITS = 24
BFLOAT16_BITS = 8
FLOAT16_MAX = 65504.0
FLOAT32_MAX = float(np.finfo(np.float32).max)


def rounding(layer: BatchNormArrays, *, bits: int) -> np.ndarray:
    """mean²·2^−bits, [C]: the error of E[x²] − E[x]² if E[x²] is rounded to so many bits."""
    return layer.mean**2 * 2.0**-bits


def cancellation(layer: BatchNormArrays) -> Flags:
    """Channels whose variance is lost beside their mean when float32 computes it in one pass.

    Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance": the error grows with mean²/var.
    """
    return rounding(layer, bits=FLOAT32_BITS) > MAX_VARIANCE_ERROR * (layer.var + layer.epsilon)


def cancellation_message(layer: BatchNormArrays, channels: Channels) -> str:
    """The distance of the mean from 0, and the error."""
    error = at(rounding(layer, bits=FLOAT32_BITS) / (layer.var + layer.epsilon), channels).max()
    return (
        f"{of_channels(layer, channels)}: mean up to {_in_deviations(layer, channels):.4g} standard deviations "
        f"from 0. E[x²] − E[x]² in float32, Flax's default for the variance, is off by {100 * error:.0f} % of it"
    )


def infinite_gain(layer: BatchNormArrays) -> Flags:
    """Channels whose gain or shift is infinite or NaN in float32, such as those with var + ε = 0."""
    return ~((np.abs(layer.gain) <= FLOAT32_MAX) & (np.abs(layer.shift) <= FLOAT32_MAX))


def infinite_gain_message(layer: BatchNormArrays, channels: Channels) -> str:
    """The cause, and its effect."""
    lowest = at(layer.var + layer.epsilon, channels).min()
    cause = "variance + ε is 0" if lowest == 0 else "the gain or shift exceeds float32"
    return f"{of_channels(layer, channels)}: {cause}, so the output is infinite or NaN (ε = {layer.epsilon:g})"


def coarse_in_bfloat16(layer: BatchNormArrays) -> Flags:
    """Channels where one step between bfloat16 numbers, 2⁻⁸·|mean|, is more than a standard deviation."""
    return rounding(layer, bits=2 * BFLOAT16_BITS) > layer.var + layer.epsilon


def coarse_message(layer: BatchNormArrays, channels: Channels) -> str:
    """The distance of the mean from 0."""
    return (
        f"{of_channels(layer, channels)}: mean up to {_in_deviations(layer, channels):.4g} standard deviations "
        "from 0. Adjacent bfloat16 numbers are more than a standard deviation apart there"
    )


def overflows_float16(layer: BatchNormArrays) -> Flags:
    """Channels with a value above 65504, folded or not."""
    return np.any([np.abs(array) > FLOAT16_MAX for array in _in_use(layer).values()], axis=0)


def overflow_message(layer: BatchNormArrays, channels: Channels) -> str:
    """The values that overflow."""
    largest = {name: float(np.abs(at(array, channels)).max()) for name, array in _in_use(layer).items()}
    named = ", ".join(f"{name} {value:.3g}" for name, value in largest.items() if value > FLOAT16_MAX)
    return f"{of_channels(layer, channels)}: above float16's maximum of {FLOAT16_MAX:g}: {named}"


def graver_if_float16(layer: BatchNormArrays, channels: Channels) -> Severity:
    """A warning if the layer is stored in float16 already."""
    return "warning" if layer.dtype == "float16" else "info"


def graver_if_bfloat16(layer: BatchNormArrays, channels: Channels) -> Severity:
    """A warning if the layer is stored in bfloat16 already."""
    return "warning" if layer.dtype == "bfloat16" else "info"


def _in_use(layer: BatchNormArrays) -> dict[str, np.ndarray]:
    """The stored arrays, and those that a fold computes from them."""
    return {**layer.stored(), "gain": layer.gain, "shift": layer.shift}


def _in_deviations(layer: BatchNormArrays, channels: Channels) -> float:
    return float(at(np.abs(layer.mean) / np.sqrt(layer.var + layer.epsilon), channels).max())
