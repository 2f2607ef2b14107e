"""Percentiles of each layer's outputs and running statistics over the epochs: the figure of the 2015 paper.

Ioffe & Szegedy 2015 (arXiv 1502.03167), figure 1(b, c): percentiles of the inputs of one sigmoid over training, with
and without BN. Here for every layer, always on the same images.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from bncli.errors import BncliWarning
from bncli.frameworks.calls import LayerCall, observing
from bncli.frameworks.network import Network, Variables
from bncli.measure.moments import layer_statistics
from bncli.process.shared_programs import shared

# The paper's: for a Gaussian, the median and one standard deviation to either side of it.
PERCENTILES = (15.0, 50.0, 85.0)
# Images that each observation uses, and values of a layer that it sorts: a fraction of a second an epoch.
IMAGES = 64
VALUES = 2**15
# Layers that a warning names.
_NAMED = 3

Percentiles: TypeAlias = tuple[float, float, float]
# Layer -> (its place in the forward pass, percentiles of its output).
Observed: TypeAlias = Mapping[str, tuple[int, jax.Array]]


@dataclass(frozen=True)
class LayerRow:
    """One layer after one epoch.

    Attributes:
        name: path of the layer.
        output: percentiles of its output over images, positions and channels, in train mode.
        mean: percentiles of its running means over channels; None if it is not a BN layer.
        var: percentiles of its running variances.
    """

    name: str
    output: Percentiles
    mean: Percentiles | None = None
    var: Percentiles | None = None


class LayerObserver:
    """Observes the layers of a network, always on the same images.

    It observes the outputs of the BN layers or, in a network without BN, of the convolutions and dense layers: in both
    cases the inputs of the nonlinearities.

    Attributes:
        network: the network.
    """

    def __init__(self, network: Network, images: jax.Array) -> None:
        """Observe with normalised ``images`` [B, H, W, C]."""
        self.network = network
        self._images = images
        self._outputs = _jitted_outputs(network)
        self._has_warned = False

    def following(self, network: Network) -> LayerObserver:
        """An observer of this network on the same images; this very one if it observes the network already."""
        if network == self.network:
            return self
        other = LayerObserver(network, self._images)
        other._has_warned = self._has_warned
        return other

    def __call__(self, variables: Variables) -> list[LayerRow]:
        """One row for each layer, in the order of the forward pass; warn once of layers that cannot be observed."""
        found = self._outputs(variables, self._images)
        if self._outputs.hidden and not self._has_warned:
            self._has_warned = True
            warnings.warn(_hidden_message(self._outputs.hidden), BncliWarning, stacklevel=2)
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


def _hidden_message(names: Sequence[str]) -> str:
    some = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    return (
        f"{some}: inside a loop or another transformation (nn.scan, nn.remat, nn.vmap), where outputs cannot be "
        "observed; layers.jsonl leaves out such layers"
    )


class _Outputs:
    """Percentiles of the outputs of a network's layers; compiled at the first call.

    Attributes:
        hidden: the layers that cannot be observed, as traced.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._jitted = jax.jit(self._percentiles)
        self.hidden: tuple[str, ...] = ()

    def __call__(self, variables: Variables, images: jax.Array) -> Mapping[str, tuple[int, np.ndarray]]:
        found: Mapping[str, tuple[int, np.ndarray]] = jax.device_get(self._jitted(variables, images))
        return found

    def _percentiles(self, variables: Variables, images: jax.Array) -> Observed:
        has_norms = bool(variables.get("batch_stats"))
        found: dict[str, tuple[int, jax.Array]] = {}
        hidden: dict[str, None] = {}

        def is_shown(call: LayerCall) -> bool:
            return call.norm is not None if has_norms else call.is_linear

        def look(call: LayerCall) -> None:
            if is_shown(call):
                assert isinstance(call.outputs, jax.Array)
                found.setdefault(call.path, (len(found), _percentiles(call.outputs)))

        def hide(call: LayerCall) -> None:
            if is_shown(call):
                hidden[call.path] = None

        with observing(look, hidden=hide):
            self._network.logits_by_batch_stats(variables, images, mask=None)
        self.hidden = tuple(hidden)
        return found


_jitted_outputs = shared(_Outputs)


def _percentiles(x: jax.Array) -> jax.Array:
    """Percentiles of evenly spaced values: sorting all of a large layer would take longer than its forward pass."""
    flat = x.reshape(-1)
    stride = max(1, flat.size // VALUES)
    # An even stride would take the same channels again and again.
    some = flat[:: stride + (stride > 1 and stride % 2 == 0)]
    return jnp.percentile(some.astype(jnp.float32), jnp.asarray(PERCENTILES))
