"""What the numbers of a BN layer mean: one table of rules.

To add a finding: write a function from a layer to the channels concerned, and a row in ``RULES``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bncli.inspection.layers import BatchNormArrays, channels_where, dead_channels

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")

# Below this share of the layer's channels, dead ones are only worth knowing: pruning candidates, not a fault.
DEAD_SHARE_WARNING = 0.1


@dataclass(frozen=True)
class Finding:
    """Something about one layer that the user should know.

    Attributes:
        code: stable name of the rule.
        severity: "error": the results are wrong; "warning": they are probably worse than they could be; "info".
        layer: path of the layer.
        channels: those concerned; empty where it is the whole layer.
        message: what is the case.
        remedy: what to do about it.
    """

    code: str
    severity: Severity
    layer: str
    channels: tuple[int, ...]
    message: str
    remedy: str


@dataclass(frozen=True)
class Rule:
    """One row of the table.

    Attributes:
        code: stable name.
        severity: fixed, or from the layer and the channels concerned.
        channels: the channels of a layer that the rule objects to; all of them where it is the layer as such.
        message: with the fields ``{count}``, ``{of}`` and ``{epsilon}``.
        remedy: a command or a setting.
    """

    code: str
    severity: Severity | Callable[[BatchNormArrays, tuple[int, ...]], Severity]
    channels: Callable[[BatchNormArrays], tuple[int, ...]]
    message: str
    remedy: str


def nonfinite(layer: BatchNormArrays) -> tuple[int, ...]:
    """Channels with a NaN or infinite number: one bad batch poisons a running average for good."""
    return channels_where(~np.all([np.isfinite(array) for array in layer.stored().values()], axis=0))


def never_updated(layer: BatchNormArrays) -> tuple[int, ...]:
    """All channels, where the mean is exactly 0 and the variance exactly 1 throughout: Flax's start values."""
    untouched = np.all(layer.mean == 0) and np.all(layer.var == 1)
    return tuple(range(layer.channels)) if untouched else ()


def epsilon_dominated(layer: BatchNormArrays) -> tuple[int, ...]:
    """Channels whose variance is below ε: their gain is set by ε, and noise is amplified up to 1/√ε-fold."""
    with np.errstate(invalid="ignore"):
        return channels_where(layer.var < layer.epsilon)


def _dead_severity(layer: BatchNormArrays, channels: tuple[int, ...]) -> Severity:
    return "warning" if len(channels) >= DEAD_SHARE_WARNING * layer.channels else "info"


RULES: tuple[Rule, ...] = (
    Rule(
        "nonfinite",
        "error",
        nonfinite,
        "{count} of {of} channels hold NaN or infinite numbers",
        "Go back to an earlier save (--step N); train with a lower --learning-rate or --clip-norm 1.",
    ),
    Rule(
        "never-updated",
        "error",
        never_updated,
        "mean is 0 and variance 1 in all {of} channels, as they are initialised: the statistics were never updated",
        "Train with mutable=['batch_stats'] and keep what it returns; use the trained variables, not the initial ones.",
    ),
    Rule(
        "epsilon-dominated",
        "warning",
        epsilon_dominated,
        "{count} of {of} channels have a variance below ε = {epsilon:g}: they are almost constant, and BN amplifies "
        "their noise",
        "Look for a dead layer or constant input before it; a larger --bn-epsilon bounds the gain.",
    ),
    Rule(
        "dead-channels",
        _dead_severity,
        dead_channels,
        "{count} of {of} channels pass nothing on (γ ≈ 0, or always below the ReLU)",
        "Harmless if intended; else a lower --learning-rate. They can be pruned.",
    ),
)


def find(layers: Iterable[BatchNormArrays]) -> tuple[Finding, ...]:
    """The findings of all rules on all layers, the gravest first."""
    found = [finding for layer in layers for rule in RULES if (finding := _apply(rule, layer)) is not None]
    return tuple(sorted(found, key=lambda finding: SEVERITIES.index(finding.severity)))


def _apply(rule: Rule, layer: BatchNormArrays) -> Finding | None:
    channels = rule.channels(layer)
    if not channels:
        return None
    severity = rule.severity(layer, channels) if callable(rule.severity) else rule.severity
    message = rule.message.format(count=len(channels), of=layer.channels, epsilon=layer.epsilon)
    return Finding(rule.code, severity, layer.name, channels, message, rule.remedy)
