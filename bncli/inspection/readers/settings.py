"""ε and momentum: from the file, else from the user, else the framework's default, with a note."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from bncli.errors import CheckpointError, UsageError
from bncli.inspection.readers.grouping import Found


@dataclass(frozen=True)
class Asked:
    """The user's options for reading a checkpoint.

    Attributes:
        step: the save to read if there are several: "best", "last" or a number.
        epsilon: for layers whose file does not store it.
        momentum: weight of the old running value, for layers whose file does not store it.
        model: the user's own model, if a checkpoint of bncli cannot find its code or may not run it.
        in_memory: True if the arrays come from Python and not from a file, so that notes name arguments, not options.
    """

    step: str = "best"
    epsilon: float | None = None
    momentum: float | None = None
    model: str | None = None
    in_memory: bool = False

    def __post_init__(self) -> None:
        """Raise UsageError if a setting is out of range."""
        if self.epsilon is not None and not 0 <= self.epsilon < math.inf:
            raise UsageError(
                f"epsilon {self.epsilon} is out of range", remedy="It is added to a variance: 1e-5, for example."
            )
        if self.momentum is not None and not 0 <= self.momentum <= 1:
            raise UsageError(
                f"momentum {self.momentum} is out of range",
                remedy="It is the weight of the old value, 0 to 1: 1 − PyTorch's.",
            )


def settle(found: Sequence[Found], asked: Asked) -> tuple[tuple[Found, ...], tuple[str, ...]]:
    """Fill in ε and momentum; return the layers, and notes on what was assumed."""
    return tuple(_settled(layer, asked) for layer in found), tuple(dict.fromkeys(_notes(found, asked)))


def _settled(layer: Found, asked: Asked) -> Found:
    return replace(
        layer,
        epsilon=_first(layer.epsilon, asked.epsilon, layer.convention.epsilon),
        momentum=_first(layer.momentum, asked.momentum, layer.convention.momentum),
    )


def _first(*values: float | None) -> float | None:
    """The first value that is not None."""
    return next((value for value in values if value is not None), None)


def _notes(found: Sequence[Found], asked: Asked) -> Iterator[str]:
    for name in ("epsilon", "momentum"):
        if getattr(asked, name) is not None and all(getattr(layer, name) is not None for layer in found):
            own = "the network has its own" if asked.in_memory else "the checkpoint stores its own"
            yield f"{name} {getattr(asked, name):g} is ignored: {own}"
    for convention in dict.fromkeys(layer.convention for layer in found):
        layers = [layer for layer in found if layer.convention is convention]
        yield from _assumed(layers, asked)
        if convention.variance is not None:
            yield convention.variance


def _assumed(layers: Sequence[Found], asked: Asked) -> Iterator[str]:
    """A note on the defaults of the convention that these layers share, if any were needed."""
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
        of_some = "" if count == len(layers) else f" for {count} of {len(layers)} layers"
        yield (
            f"{' and '.join(defaults[name] for name in names)} assumed{of_some}, {convention.title}'s "
            f"default{'s' * (len(names) > 1)}, {_remedy(names, in_memory=asked.in_memory)}"
        )


def _remedy(names: Sequence[str], *, in_memory: bool) -> str:
    """The reason for an assumption, and the way to state what is true."""
    them = "them" if len(names) > 1 else "it"
    if in_memory:
        stated = " and ".join(f"{name}=" for name in names)
        return f"because the arrays do not tell {them}; pass {stated}, or the network with data=[x, …]"
    return f"because the file does not store {them}; override with {' and '.join(f'--{name}' for name in names)}"


def non_negative(value: object, what: str) -> float | None:
    """ε or momentum from a file; None if the file lacks it.

    Raises:
        CheckpointError: the value is not a number of at least 0.
    """
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= sys.float_info.max:
        return float(value)
    raise CheckpointError(f"{what} is {str(value)[:40]!r}", remedy="Is the file damaged? Restore it from a copy.")
