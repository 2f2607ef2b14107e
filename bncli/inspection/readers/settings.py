"""ε and momentum: what the file says, else what the user says, else the framework's default, with a note."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from bncli.errors import CheckpointError, UsageError
from bncli.inspection.readers.grouping import Found


@dataclass(frozen=True)
class Asked:
    """What the user says of a checkpoint.

    Attributes:
        step: which save, where there are several: "best", "last" or a number.
        epsilon: of the layers for which the file does not say it.
        momentum: weight of the old running value, of the layers for which the file does not say it.
        model: the user's own model, where a checkpoint of bncli does not find its code or may not run it.
    """

    step: str = "best"
    epsilon: float | None = None
    momentum: float | None = None
    model: str | None = None

    def __post_init__(self) -> None:
        """Raises UsageError where a setting is out of range."""
        if self.epsilon is not None and not 0 <= self.epsilon < math.inf:
            raise UsageError(f"epsilon is {self.epsilon}", remedy="It is added to a variance: 1e-5, for example.")
        if self.momentum is not None and not 0 <= self.momentum <= 1:
            raise UsageError(
                f"momentum is {self.momentum}", remedy="It is the weight of the old value, 0 to 1: 1 − PyTorch's."
            )


def settle(found: Sequence[Found], asked: Asked) -> tuple[tuple[Found, ...], tuple[str, ...]]:
    """(the layers with ε and momentum, notes on what was assumed)."""
    return tuple(_settled(layer, asked) for layer in found), tuple(_notes(found, asked))


def _settled(layer: Found, asked: Asked) -> Found:
    return replace(
        layer,
        epsilon=_first(layer.epsilon, asked.epsilon, layer.convention.epsilon),
        momentum=_first(layer.momentum, asked.momentum, layer.convention.momentum),
    )


def _first(*values: float | None) -> float | None:
    """The first that is known."""
    return next((value for value in values if value is not None), None)


def _notes(found: Sequence[Found], asked: Asked) -> Iterator[str]:
    for name in ("epsilon", "momentum"):
        if getattr(asked, name) is not None and all(getattr(layer, name) is not None for layer in found):
            yield f"{name} {getattr(asked, name):g} is not used: the checkpoint has its own"
    for convention in dict.fromkeys(layer.convention for layer in found):
        layers = [layer for layer in found if layer.convention is convention]
        yield from _assumed(layers, asked)
        if convention.variance is not None:
            yield convention.variance


def _assumed(layers: Sequence[Found], asked: Asked) -> Iterator[str]:
    """What is taken from the convention that these layers share."""
    convention = layers[0].convention
    unknown = {name: sum(getattr(layer, name) is None for layer in layers) for name in ("epsilon", "momentum")}
    defaults = {"epsilon": f"ε = {convention.epsilon:g}", "momentum": f"momentum {convention.momentum or 0:g}"}
    names = [
        name
        for name, count in unknown.items()
        if count and getattr(asked, name) is None and getattr(convention, name) is not None
    ]
    if names:
        count = max(unknown[name] for name in names)
        of_some = "" if count == len(layers) else f" of {count} of {len(layers)} layers"
        yield (
            f"not stored, and assumed to be {convention.title}'s default: "
            f"{' and '.join(defaults[name] for name in names)}{of_some}; "
            f"{' and '.join(f'--{name}' for name in names)} say{'s' * (len(names) == 1)} otherwise"
        )


def non_negative(value: object, what: str) -> float | None:
    """ε or momentum as a file has it; None where it has none.

    Raises:
        CheckpointError: it is no such number.
    """
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= sys.float_info.max:
        return float(value)
    raise CheckpointError(f"{what} is {str(value)[:40]!r}", remedy="Is the file damaged? Restore it from a copy.")
