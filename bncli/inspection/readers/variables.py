"""BN layers in a Flax variables dict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from bncli.inspection.layers import BatchNormArrays
from bncli.models import BatchNormSettings

# Flax's default, assumed where the model is not at hand: no variables dict stores ε.
ASSUMED_EPSILON = 1e-5


def read_variables(
    variables: Mapping[str, Any],
    *,
    settings: Mapping[str, BatchNormSettings] | None = None,
    relu_follows: bool = False,
) -> tuple[tuple[BatchNormArrays, ...], tuple[str, ...]]:
    """(layers, notes): each place in ``batch_stats`` that holds a mean and a var, with its scale and bias.

    Args:
        variables: {"params": …, "batch_stats": …}.
        settings: ε and momentum by layer, in the order of the forward pass, where the model is known.
        relu_follows: whether each layer is known to be read by a ReLU alone.
    """
    found = dict(_batch_norms(variables.get("batch_stats", {})))
    order = [name for name in settings or {} if name in found]
    order += [name for name in found if name not in order]
    layers = tuple(_layer(name, found[name], variables.get("params", {}), settings, relu_follows) for name in order)
    notes = []
    if not layers:
        notes.append("no BN layer: batch_stats holds no mean and var")
    elif settings is None:
        notes.append(f"ε is not stored in variables: {ASSUMED_EPSILON:g}, Flax's default, is assumed")
    return layers, tuple(notes)


def _batch_norms(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if "mean" in tree and "var" in tree and not isinstance(tree["mean"], Mapping):
        yield "/".join(path), tree
        return
    for name, child in tree.items():
        if isinstance(child, Mapping):
            yield from _batch_norms(child, (*path, name))


def _layer(
    name: str,
    stats: Mapping[str, Any],
    params: Mapping[str, Any],
    settings: Mapping[str, BatchNormSettings] | None,
    relu_follows: bool,
) -> BatchNormArrays:
    own: Mapping[str, Any] = params
    for part in name.split("/") if name else ():
        own = own.get(part, {})
    known = (settings or {}).get(name)
    return BatchNormArrays(
        name=name,
        mean=_flat(stats["mean"]),
        var=_flat(stats["var"]),
        scale=_flat(own["scale"]) if "scale" in own else None,
        bias=_flat(own["bias"]) if "bias" in own else None,
        epsilon=known.epsilon if known else ASSUMED_EPSILON,
        momentum=known.momentum if known else None,
        relu_follows=relu_follows,
    )


def _flat(array: Any) -> np.ndarray:  # noqa: ANN401 - a JAX or NumPy array
    return np.asarray(array).astype(np.float64).reshape(-1)
