"""BN layers in numbers.

Letters: C channels. Gain is s = γ/√(var + ε), the factor BN multiplies with in inference; shift is t = β − mean·s.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# |γ| below this share of 1 leaves nothing of a normalised channel: 0.1 % of a unit variance.
DEAD_SCALE = 1e-3
# A normalised channel exceeds β + 3|γ| in 0.1 % of cases if it is Gaussian: below 0, a ReLU passes nothing on.
DEAD_SIGMAS = 3.0


@dataclass(frozen=True)
class BatchNormArrays:
    """One BN layer as it lies in a checkpoint.

    Attributes:
        name: path of the layer ("Block_1/BatchNorm_0").
        mean: running mean, float64 [C].
        var: running variance, float64 [C].
        scale: γ, float64 [C]; None where the layer has none.
        bias: β, float64 [C]; None where the layer has none.
        epsilon: added to the variance.
        momentum: weight of the old running value (Flax's convention, 1 − PyTorch's); None where unknown.
        relu_follows: whether the layer is read by a ReLU alone.
        updates: how often the running values were updated; None where unknown.
        dtype: in which the statistics are stored, such as "float32".
        replicas: running mean and variance of each replica, float64 [R, 2, C], where the file holds several;
            mean and var are then the first one's.
        measured: whether mean and var were taken over data afterwards and are no running averages.
        kept: why a fold would keep the layer; None where it would not, or where that is unknown.
    """

    name: str
    mean: np.ndarray
    var: np.ndarray
    scale: np.ndarray | None
    bias: np.ndarray | None
    epsilon: float
    momentum: float | None
    relu_follows: bool = False
    updates: int | None = None
    dtype: str = "float32"
    replicas: np.ndarray | None = None
    measured: bool = False
    kept: str | None = None

    @property
    def channels(self) -> int:
        """C."""
        return len(self.mean)

    @property
    def gain(self) -> np.ndarray:
        """γ/√(var + ε), float64 [C]; NaN where the variance is below −ε."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return (1.0 if self.scale is None else self.scale) / np.sqrt(self.var + self.epsilon)

    def stored(self) -> dict[str, np.ndarray]:
        """The arrays the layer has, by name."""
        arrays = {"mean": self.mean, "var": self.var, "scale": self.scale, "bias": self.bias}
        return {name: array for name, array in arrays.items() if array is not None}


@dataclass(frozen=True)
class Summary:
    """The spread of one quantity over a layer's channels; of the finite ones, None where there are none."""

    min: float | None
    median: float | None
    max: float | None


@dataclass(frozen=True)
class LayerStats:
    """One row of the report.

    Attributes:
        name: path of the layer.
        channels: C.
        epsilon: added to the variance.
        momentum: weight of the old running value; None where unknown.
        mean: of the running means.
        var: of the running variances.
        scale: of γ; None where the layer has none.
        bias: of β; None where the layer has none.
        gain: of γ/√(var + ε).
        dead_channels: channels that pass nothing on.
        nonfinite: NaN or infinite numbers over all arrays of the layer.
    """

    name: str
    channels: int
    epsilon: float
    momentum: float | None
    mean: Summary
    var: Summary
    scale: Summary | None
    bias: Summary | None
    gain: Summary
    dead_channels: tuple[int, ...]
    nonfinite: int


def layer_stats(layer: BatchNormArrays) -> LayerStats:
    """The numbers of one layer."""
    return LayerStats(
        name=layer.name,
        channels=layer.channels,
        epsilon=layer.epsilon,
        momentum=layer.momentum,
        mean=summarize(layer.mean),
        var=summarize(layer.var),
        scale=None if layer.scale is None else summarize(layer.scale),
        bias=None if layer.bias is None else summarize(layer.bias),
        gain=summarize(layer.gain),
        dead_channels=dead_channels(layer),
        nonfinite=sum(int(np.count_nonzero(~np.isfinite(array))) for array in layer.stored().values()),
    )


def summarize(values: np.ndarray) -> Summary:
    """Minimum, median and maximum of the finite values."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return Summary(None, None, None)
    return Summary(float(finite.min()), float(np.median(finite)), float(finite.max()))


def dead_channels(layer: BatchNormArrays) -> tuple[int, ...]:
    """Channels that pass nothing on: γ ≈ 0, or a ReLU follows and β + 3|γ| < 0."""
    if layer.scale is None:
        return ()
    dead = np.abs(layer.scale) < DEAD_SCALE
    if layer.relu_follows and layer.bias is not None:
        dead |= layer.bias + DEAD_SIGMAS * np.abs(layer.scale) < 0
    return channels_where(dead)


def channels_where(flags: np.ndarray) -> tuple[int, ...]:
    """The channels for which bool [C] ``flags`` holds."""
    return tuple(int(channel) for channel in np.flatnonzero(flags))
