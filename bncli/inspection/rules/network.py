"""Layers side by side, and what becomes of them in a fold."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

import numpy as np

from bncli.inspection.layers import BatchNormArrays
from bncli.inspection.rules.rule import Channels, Flags, Network, Severity

# A gain that another ε would change by so much is one where it matters which is right.
EPSILON_EFFECT = 0.1


def usual_epsilon(network: Network) -> tuple[float, int]:
    """(the ε that most layers have, how many do); of equally many, the first."""
    ((epsilon, count),) = _counted(tuple(layer.epsilon for layer in network)).most_common(1)
    return epsilon, count


@lru_cache(maxsize=8)  # asked for each layer: 4,096 of them took 14 s
def _counted(epsilons: tuple[float, ...]) -> Counter[float]:
    return Counter(map(_digits, epsilons))


def other_epsilon(network: Network, layer: BatchNormArrays) -> Flags:
    """Whether the layer's ε is not that of most others."""
    return _digits(layer.epsilon) != usual_epsilon(network)[0]


def other_epsilon_message(network: Network, layer: BatchNormArrays, channels: Channels) -> str:
    """Both, and what the other would change."""
    usual, count = usual_epsilon(network)
    return (
        f"ε = {layer.epsilon:g}, where {count} of {len(network)} layers have {usual:g}, "
        f"which would change its gains by up to {100 * epsilon_effect(layer, usual):.2g} %"
    )


def grade_epsilon(network: Network, layer: BatchNormArrays, channels: Channels) -> Severity:
    """A warning where it matters."""
    return "warning" if epsilon_effect(layer, usual_epsilon(network)[0]) > EPSILON_EFFECT else "info"


def epsilon_effect(layer: BatchNormArrays, epsilon: float) -> float:
    """max over channels of |√((var + ε)/(var + ε′)) − 1|, ε′ being the other one; of those with a variance."""
    var = layer.var[np.isfinite(layer.var) & (layer.var >= 0)]
    changes = np.abs(np.sqrt((var + layer.epsilon) / (var + epsilon)) - 1)
    return float(changes[np.isfinite(changes)].max(initial=0.0))


def kept_in_a_fold(layer: BatchNormArrays) -> Flags:
    """Whether the folder was asked and keeps the layer."""
    return layer.kept is not None


def kept_message(layer: BatchNormArrays, channels: Channels) -> str:
    """The folder's own reason."""
    return f"a fold keeps it as one multiply-add, because {layer.kept}"


def _digits(epsilon: float) -> float:
    """Without what float32, in which some formats store ε, adds to it: 0.001 and not 0.0010000000475."""
    return float(f"{epsilon:.4g}")
