"""Two checkpoints side by side: before and after a repair, two steps of a run, two runs.

Letters: C channels; a before, b after.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bncli.inspection.findings import Finding
from bncli.inspection.layers import BatchNormArrays
from bncli.inspection.report import StatsReport


@dataclass(frozen=True)
class LayerChange:
    """The change of one layer; NaN if a number of either is not finite.

    Attributes:
        name: path of the layer.
        channels: C.
        same: True if nothing differs, ε and momentum included.
        mean_shift: √(mean over channels of (μb − μa)²/(σa² + ε)): in standard deviations of a.
        var_ratio: (σb² + ε)/(σa² + ε), geometric mean over channels.
        worst_var_ratio: the ratio of the channel where it is farthest from 1.
        scale_change: √(mean of (γb − γa)²); a missing γ counts as 1.
        bias_change: √(mean of (βb − βa)²); a missing β counts as 0.
        gain_ratio: |gain b|/|gain a|, geometric mean over the channels where neither is 0.
        epsilon: a's and b's.
        momentum: a's and b's; None if unknown.
    """

    name: str
    channels: int
    same: bool
    mean_shift: float
    var_ratio: float
    worst_var_ratio: float
    scale_change: float
    bias_change: float
    gain_ratio: float
    epsilon: tuple[float, float]
    momentum: tuple[float | None, float | None]


@dataclass(frozen=True)
class Comparison:
    """The differences between the BN layers of two checkpoints.

    Attributes:
        a: the first checkpoint.
        b: the second.
        layers: the layers that both have, in the order of a.
        only_in_a: names of the layers that b lacks.
        only_in_b: names of the layers that a lacks.
        other_channels: names of the layers with different numbers of channels.
        appeared: findings in b that are not in a, by code and layer.
        went_away: findings in a that are not in b.
        remained: findings in b that are in a too.
    """

    a: StatsReport
    b: StatsReport
    layers: tuple[LayerChange, ...]
    only_in_a: tuple[str, ...]
    only_in_b: tuple[str, ...]
    other_channels: tuple[str, ...]
    appeared: tuple[Finding, ...]
    went_away: tuple[Finding, ...]
    remained: tuple[Finding, ...]

    @property
    def is_unrelated(self) -> bool:
        """True if both have BN layers, but none of the same name and size."""
        return not self.layers and bool(self.a.arrays) and bool(self.b.arrays)

    @property
    def repaired(self) -> tuple[Finding, ...]:
        """The findings that went away, without those on layers that b lacks."""
        return tuple(finding for finding in self.went_away if finding.layer not in self.only_in_a)


def compare(a: StatsReport, b: StatsReport) -> Comparison:
    """Match the layers of two reports by name, and their findings by code and layer."""
    before = {layer.name: layer for layer in a.arrays}
    after = {layer.name: layer for layer in b.arrays}
    both = [name for name in before if name in after]
    alike = [name for name in both if before[name].channels == after[name].channels]
    had, has = ({(finding.code, finding.layer) for finding in report.findings} for report in (a, b))
    return Comparison(
        a=a,
        b=b,
        layers=tuple(layer_change(before[name], after[name]) for name in alike),
        only_in_a=tuple(name for name in before if name not in after),
        only_in_b=tuple(name for name in after if name not in before),
        other_channels=tuple(name for name in both if name not in alike),
        appeared=tuple(finding for finding in b.findings if (finding.code, finding.layer) not in had),
        went_away=tuple(finding for finding in a.findings if (finding.code, finding.layer) not in has),
        remained=tuple(finding for finding in b.findings if (finding.code, finding.layer) in had),
    )


def layer_change(a: BatchNormArrays, b: BatchNormArrays) -> LayerChange:
    """The change of one layer with the same number of channels in both."""
    with np.errstate(all="ignore"):
        std = np.sqrt(a.var + a.epsilon)
        var_ratios = (b.var + b.epsilon) / (a.var + a.epsilon)
        gains = np.abs([a.gain, b.gain])
        alive = np.all(gains != 0, axis=0)
        return LayerChange(
            name=a.name,
            channels=a.channels,
            same=_is_same(a, b),
            mean_shift=_rms((b.mean - a.mean) / std),
            var_ratio=_geometric_mean(var_ratios),
            worst_var_ratio=_farthest_from_1(var_ratios),
            scale_change=_rms(b.scale_or_ones - a.scale_or_ones),
            bias_change=_rms(b.bias_or_zeros - a.bias_or_zeros),
            gain_ratio=_geometric_mean(gains[1, alive] / gains[0, alive]),
            epsilon=(a.epsilon, b.epsilon),
            momentum=(a.momentum, b.momentum),
        )


def change_size(change: LayerChange) -> float:
    """The size of a change, to sort by: in standard deviations of a, or the log of a ratio.

    Infinite if a number is not finite.
    """
    ratios = (change.worst_var_ratio, change.gain_ratio)
    sizes = [change.mean_shift, change.scale_change, change.bias_change, *(abs(np.log(ratio)) for ratio in ratios)]
    return float(max(sizes)) if np.isfinite(sizes).all() else float("inf")


def _is_same(a: BatchNormArrays, b: BatchNormArrays) -> bool:
    stored_a, stored_b = a.stored(), b.stored()
    return (
        (a.epsilon, a.momentum) == (b.epsilon, b.momentum)
        and stored_a.keys() == stored_b.keys()
        and all(np.array_equal(array, stored_b[name], equal_nan=True) for name, array in stored_a.items())
    )


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values)))) if values.size else 0.0


def _geometric_mean(ratios: np.ndarray) -> float:
    """Geometric mean; 1.0 for an empty sequence."""
    return float(np.exp(np.log(ratios).mean())) if ratios.size else 1.0


def _farthest_from_1(ratios: np.ndarray) -> float:
    """The ratio farthest from 1, where 2 and ½ are equally far; 1.0 for an empty sequence."""
    return float(ratios[np.abs(np.log(ratios)).argmax()]) if ratios.size else 1.0
