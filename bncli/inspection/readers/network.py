"""BN layers of a live network: an NNX module, an Equinox model, a transformed function of Haiku, a Keras model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bncli.frameworks.adapt import Framework, adapted
from bncli.frameworks.adapted import Adapted
from bncli.frameworks.network import BatchNormSettings
from bncli.inspection.readers.contents import Contents, named
from bncli.inspection.readers.settings import Asked
from bncli.inspection.readers.variables import read_variables
from bncli.measure.population import Batches, applied_to, first_of


def read_network(
    network: object,
    framework: Framework,
    given: Mapping[str, object],
    *,
    asked: Asked,
    batches: Batches | None = None,
) -> Contents:
    """The layers of a network with its arrays, under the user's own names.

    Args:
        given: the arrays, where the network does not hold them.
        asked: ε and momentum for layers whose framework does not tell them.
        batches: inputs, with which a linen module or a function of Haiku tells ε and momentum.

    Raises:
        CheckpointError: the arrays of a layer do not fit each other.
        FoldError: the network lacks its state.
    """
    user = adapted(network, framework, given, eval_mode=True)
    settings = user.norms or _settings_on(user, batches)
    if framework.adapter == "haiku":  # whose state has arrays that only its own convention names
        return replace(read_variables(dict(given), settings=settings, asked=asked), format="haiku")
    contents = read_variables(user.variables, settings=settings, asked=asked)
    layers = tuple(
        replace(layer, excess=user.excess.get(layer.name, 0.0), updates=user.updates.get(layer.name))
        for layer in contents.layers
    )
    notes = (*contents.notes, *_mode(user))
    return replace(contents, format=user.framework, framework=user.framework, layers=layers, notes=notes)


def _settings_on(user: Adapted, batches: Batches | None) -> Mapping[str, BatchNormSettings]:
    """The settings of the BN layers that a call tells; empty without batches."""
    if batches is None or user.norms_on is None:
        return {}
    first = first_of(batches)
    with applied_to(first):
        return user.norms_on(first)


def _mode(user: Adapted) -> tuple[str, ...]:
    if not user.train_mode:
        return ()
    return (f"in train mode, where the statistics are not used: {named(user.train_mode)}",)
