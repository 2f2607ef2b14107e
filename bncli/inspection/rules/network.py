"""Rules about a layer among the others of its network, and about what a fold makes of it."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

import numpy as np

from bncli.inspection.layers import BatchNormArrays
from bncli.inspection.rules.rule import Channels, Flags, Network, Severity

# Relative change of a gain from which on it matters which ε is right.
EPSILON_EFFECT = 0.1


def usual_epsilon(network: Network) -> tuple[float, int]:
    """(the ε of most layers, the number of layers that have it); ties go to the first."""
    ((epsilon, count),) = _counted(tuple(layer.epsilon for layer in network)).most_common(1)
    return epsilon, count


@lru_cache(maxsize=8)  # called once a layer: 4,096 layers took 14 s
def _counted(epsilons: tuple[float, ...]) -> Counter[float]:
    return Counter(map(_digits, epsilons))


def other_epsilon(network: Network, layer: BatchNormArrays) -> Flags:
    """True if most other layers have another ε."""
    return _digits(layer.epsilon) != usual_epsilon(network)[0]


def other_epsilon_message(network: Network, layer: BatchNormArrays, channels: Channels) -> str:
    """Both values, and the effect of the difference."""
    usual, count = usual_epsilon(network)
    return (
        f"ε = {layer.epsilon:g}, but {count} of {len(network)} layers have {usual:g}, "
        f"which would change its gains by up to {100 * epsilon_effect(layer, usual):.2g} %"
    )


def grade_epsilon(network: Network, layer: BatchNormArrays, channels: Channels) -> Severity:
    """A warning if the difference matters."""
    return "warning" if epsilon_effect(layer, usual_epsilon(network)[0]) > EPSILON_EFFECT else "info"


def epsilon_effect(layer: BatchNormArrays, epsilon: float) -> float:
    """max over channels of |√((var + ε)/(var + ε′)) − 1|, with ε′ the other one; broken variances do not count."""
    var = layer.var[np.isfinite(layer.var) & (layer.var >= 0)]
    changes = np.abs(np.sqrt((var + layer.epsilon) / (var + epsilon)) - 1)
    return float(changes[np.isfinite(changes)].max(initial=0.0))


def kept_in_a_fold(layer: BatchNormArrays) -> Flags:
    """True if a trial fold keeps the layer."""
    return layer.kept is not None


def kept_message(layer: BatchNormArrays, channels: Channels) -> str:
    """The folder's reason."""
    return f"`bncli fold` keeps it as one multiply-add, because {layer.kept}"


def _digits(epsilon: float) -> float:
    """ε without the rounding of float32, in which some formats store it: 0.001, not 0.0010000000475."""
    return float(f"{epsilon:.4g}")
