"""How each layer's pre-activation and running statistics move over the epochs: the figure of the 2015 paper.

Ioffe & Szegedy 2015 (arXiv 1502.03167), figure 1(b, c): percentiles of what one sigmoid is given, over training, with
and without BN. Here of every layer, always on the same images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bncli.frameworks.linen import Network, Variables, observing
from bncli.measure.moments import layer_statistics

# The paper's: a median, and a standard deviation to either side of it were it Gaussian.
PERCENTILES = (15.0, 50.0, 85.0)
# Images that are always looked at, and values of a layer that are sorted: a fraction of a second an epoch.
IMAGES = 64
VALUES = 2**15

Percentiles = tuple[float, float, float]


@dataclass(frozen=True)
class LayerRow:
    """One layer after one epoch.

    Attributes:
        name: path of the layer.
        output: percentiles of what it hands on over images, positions and channels, in train mode.
        mean: percentiles of its running means over channels; None where it is no BN layer.
        var: of its running variances.
    """

    name: str
    output: Percentiles
    mean: Percentiles | None = None
    var: Percentiles | None = None


class LayerObserver:
    """Looks at a network on the same images again and again.

    It sees the outputs of the BN layers, or, in a network without BN, those of its convolutions and dense layers: what
    the nonlinearities are given.
    """

    def __init__(self, network: Network, images: jax.Array) -> None:
        """Of normalised ``images`` [B, H, W, C]."""
        self._images = images
        self._percentiles = jax.jit(lambda variables, images: _outputs(network, variables, images))

    def __call__(self, variables: Variables) -> list[LayerRow]:
        """One row for each layer, in the order of the forward pass."""
        found: Mapping[str, Any] = jax.device_get(self._percentiles(variables, self._images))
        names = sorted(found, key=lambda name: found[name][0])
        return [_row(name, found[name][1], variables) for name in names]


def _row(name: str, output: np.ndarray, variables: Variables) -> LayerRow:
    if not variables.get("batch_stats"):
        return LayerRow(name, _three(output))
    mean, var = (np.percentile(np.asarray(array), PERCENTILES) for array in layer_statistics(variables, name))
    return LayerRow(name, _three(output), _three(mean), _three(var))


def _three(values: np.ndarray) -> Percentiles:
    low, middle, high = map(float, values)
    return low, middle, high


def _outputs(network: Network, variables: Variables, images: jax.Array) -> dict[str, tuple[int, jax.Array]]:
    """Layer -> (its place in the forward pass, percentiles of its output)."""
    kinds: tuple[type[nn.Module], ...] = (nn.BatchNorm,) if variables.get("batch_stats") else (nn.Conv, nn.Dense)
    found: dict[str, tuple[int, jax.Array]] = {}

    def look(module: nn.Module, given: Any, made: Any) -> None:  # noqa: ANN401 - whatever a module takes and returns
        if isinstance(module, kinds):
            found.setdefault("/".join(module.path), (len(found), _percentiles(made)))

    with observing(look):
        network.logits_by_batch_stats(variables, images, mask=None)
    return found


def _percentiles(x: jax.Array) -> jax.Array:
    """Of some of the values, evenly spaced: sorting all of a large layer would take longer than its forward pass."""
    flat = x.reshape(-1)
    stride = max(1, flat.size // VALUES)
    # An even stride would meet the same channels again and again.
    some = flat[:: stride + (stride > 1 and stride % 2 == 0)]
    return jnp.percentile(some.astype(jnp.float32), jnp.asarray(PERCENTILES))
