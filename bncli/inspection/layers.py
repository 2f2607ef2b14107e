"""BN layers in numbers.

Letters: C channels, R replicas. Gain is s = γ/√(var + ε), BN's factor in inference; shift is t = β − mean·s.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# |γ| below this share of 1 erases a normalised channel: 0.1 % of a unit standard deviation is left.
DEAD_SCALE = 1e-3
# A Gaussian channel exceeds β + 3|γ| in 0.1 % of cases: if that is below 0, a ReLU outputs only 0.
DEAD_SIGMAS = 3.0


@dataclass(frozen=True)
class BatchNormArrays:
    """One BN layer of a checkpoint.

    Attributes:
        name: path of the layer ("Block_1/BatchNorm_0").
        mean: running mean, float64 [C].
        var: running variance, float64 [C].
        scale: γ, float64 [C]; None if the layer has none.
        bias: β, float64 [C]; None if the layer has none.
        epsilon: added to the variance.
        momentum: weight of the old running value (Flax's convention, 1 − PyTorch's); None if unknown.
        relu_follows: True if only a ReLU reads the layer's output.
        updates: number of updates of the running values; None if unknown.
        dtype: of the stored statistics, such as "float32".
        replicas: running mean and variance of each replica, float64 [R, 2, C], if the file holds several;
            mean and var are then the first replica's.
        measured: True if mean and var were measured over data after training, and are not running averages.
        train_mode: True if the file normalises by the batch in this layer, and ignores its statistics.
        frozen: True if training used and kept the statistics, as inference does.
        excess: the amount by which the running variance is too large, because its start was not removed as it should
            be: Equinox's ``mode="batch"``.
        kept: why a fold would keep the layer; None if it would not, or if that is unknown.
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
    train_mode: bool = False
    frozen: bool = False
    excess: float = 0.0
    kept: str | None = None

    @property
    def channels(self) -> int:
        """C."""
        return len(self.mean)

    @property
    def gain(self) -> np.ndarray:
        """γ/√(var + ε), float64 [C]; NaN where the variance is below −ε."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.scale_or_ones / np.sqrt(self.var + self.epsilon)

    @property
    def scale_or_ones(self) -> np.ndarray:
        """γ, or 1 for a layer without one; float64 [C]."""
        return np.ones(self.channels) if self.scale is None else self.scale

    @property
    def bias_or_zeros(self) -> np.ndarray:
        """β, or 0 for a layer without one; float64 [C]."""
        return np.zeros(self.channels) if self.bias is None else self.bias

    @property
    def shift(self) -> np.ndarray:
        """β − mean·gain, float64 [C]."""
        with np.errstate(invalid="ignore", over="ignore"):
            return np.asarray(self.bias_or_zeros - self.mean * self.gain)

    def stored(self) -> dict[str, np.ndarray]:
        """The layer's arrays by name, without those it lacks."""
        arrays = {"mean": self.mean, "var": self.var, "scale": self.scale, "bias": self.bias}
        return {name: array for name, array in arrays.items() if array is not None}


@dataclass(frozen=True)
class Summary:
    """The spread of one quantity over the finite values of a layer's channels; None if no value is finite."""

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
        momentum: weight of the old running value; None if unknown.
        mean: summary of the running means.
        var: summary of the running variances.
        scale: summary of γ; None if the layer has none.
        bias: summary of β; None if the layer has none.
        gain: summary of γ/√(var + ε).
        dead_channels: channels that carry no signal.
        nonfinite: number of NaN or infinite values in all arrays of the layer.
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
    """Channels that carry no signal: γ ≈ 0, or β + 3|γ| < 0 before a ReLU."""
    if layer.scale is None:
        return ()
    dead = np.abs(layer.scale) < DEAD_SCALE
    if layer.relu_follows and layer.bias is not None:
        dead |= layer.bias + DEAD_SIGMAS * np.abs(layer.scale) < 0
    return channels_where(dead)


def channels_where(flags: np.ndarray) -> tuple[int, ...]:
    """The channels whose flag is set in bool [C] ``flags``."""
    return tuple(int(channel) for channel in np.flatnonzero(flags))
