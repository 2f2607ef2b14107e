"""BN layers of a Flax variables dict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from bncli.inspection.readers.arrays import in_memory, not_looked_into
from bncli.inspection.readers.assembly import assemble, nothing_found
from bncli.inspection.readers.contents import Contents
from bncli.inspection.readers.grouping import Found, find_batch_norms
from bncli.inspection.readers.settings import Asked

if TYPE_CHECKING:  # imports JAX, which a dict of arrays does not need
    from bncli.frameworks.linen import BatchNormSettings

FORMAT = "flax-variables"


def read_variables(
    variables: Mapping[str, object],
    *,
    settings: Mapping[str, BatchNormSettings] | None = None,
    relu_follows: bool = False,
    asked: Asked | None = None,
) -> Contents:
    """Each layer in ``batch_stats`` with a mean and a var, and its scale and bias.

    Args:
        variables: {"params": …, "batch_stats": …}.
        settings: ε and momentum by layer, in the order of the forward pass, if the model is known.
        relu_follows: True if only a ReLU is known to read each layer's output.
        asked: ε and momentum if the model is not known.

    Raises:
        CheckpointError: the arrays of a layer do not fit each other.
    """
    arrays = in_memory(variables)
    found = find_batch_norms(arrays)
    if not found:
        return nothing_found(FORMAT, unread=not_looked_into(variables))
    known = _with_settings(found, settings or {}, relu_follows=relu_follows)
    return assemble(known, arrays, file_format=FORMAT, asked=asked or Asked())


def _with_settings(
    found: Iterable[Found], settings: Mapping[str, BatchNormSettings], *, relu_follows: bool
) -> list[Found]:
    order = {name: number for number, name in enumerate(settings)}
    return [
        replace(
            layer,
            epsilon=settings[layer.label].epsilon if layer.label in settings else None,
            momentum=settings[layer.label].momentum if layer.label in settings else None,
            relu_follows=relu_follows,
        )
        for layer in sorted(found, key=lambda layer: order.get(layer.label, len(order)))
    ]
