"""Built-in networks whose dropout rate and BN momentum are arguments of a program, not a part of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import flax.linen as nn

from bncli.frameworks.linen import LinenNetwork
from bncli.frameworks.network import Network
from bncli.models.custom import is_custom
from bncli.models.layers import NormFactory
from bncli.ops import GIVEN, BatchNorm, GhostBatchNorm, LayerNumbers, dropping, is_drawn


def with_given_numbers(network: Network, *, name: str) -> tuple[Network, LayerNumbers | None]:
    """(the network with ``GIVEN`` in place of its dropout rate and BN momentum, these numbers).

    A network of the user's own code keeps its numbers; its second result is None. A dropout rate of 0 stays too, since
    a program without dropout draws no random numbers.

    Args:
        network: of ``build_network``.
        name: of the model.
    """
    if is_custom(name) or not isinstance(network, LinenNetwork):
        return network, None
    module, norm = network.module, getattr(network.module, "norm", None)
    rate = getattr(module, "dropout", 0.0)
    fields: dict[str, Any] = {}  # of the module, which flax types by those of nn.Module
    if is_drawn(rate):
        fields["dropout"] = GIVEN
    momentum = _momentum(norm)
    if momentum is not None:
        assert isinstance(norm, partial)
        fields["norm"] = _with_given_momentum(norm.func, frozenset(_others(norm.keywords).items()))
    numbers = LayerNumbers(
        momentum=None if momentum is None else (momentum, 1 - momentum),
        dropout=dropping(rate) if "dropout" in fields else None,
    )
    return replace(network, module=module.clone(**fields)), numbers


def _momentum(norm: object) -> float | None:
    """The momentum of a factory of BN layers; None for other layers."""
    if not isinstance(norm, partial) or norm.func not in (BatchNorm, GhostBatchNorm):
        return None
    momentum = norm.keywords.get("momentum")
    return momentum if isinstance(momentum, float) else None


def _others(keywords: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in keywords.items() if key != "momentum"}


@lru_cache
def _with_given_momentum(kind: type[nn.BatchNorm], keywords: frozenset[tuple[str, Any]]) -> NormFactory:
    """The same factory for the same settings, so that equal networks compare equal and share compiled programs."""
    return partial(kind, momentum=GIVEN, **dict(keywords))
