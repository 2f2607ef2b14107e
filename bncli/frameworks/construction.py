"""The user's own network as it is constructed: a class, a function or an object of a framework, and its arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bncli.errors import ModelError

REMEDY = "Run the model's code by itself to see the error in full."


@dataclass(frozen=True)
class Construction:
    """The makings of a network; equal ones make equal networks.

    Attributes:
        name: of the model, for messages.
        target: a class, or a function that returns a network.
        arguments: its keyword arguments by name.
    """

    name: str
    target: Callable[..., object]
    arguments: tuple[tuple[str, object], ...] = ()

    def __call__(self, **more: object) -> object:
        """The network.

        Args:
            more: further keyword arguments: where its random numbers come from.
        """
        return self.target(**dict(self.arguments), **more)

    @property
    def parameters(self) -> frozenset[str]:
        """The names of the arguments that the target takes."""
        return frozenset(parameters_of(self.target))

    def failed(self, error: Exception) -> ModelError:
        """The error that the network cannot be built."""
        given = ", ".join(f"{name}={value!r}" for name, value in self.arguments)
        return ModelError(f"{self.name} cannot be built with ({given}): {error}", remedy=REMEDY)


def parameters_of(target: object) -> Mapping[str, inspect.Parameter]:
    """The arguments that a class or a function takes; none of an object that is not called.

    A class is read by its ``__init__``, because a metaclass with a ``__call__`` of its own hides it.
    """
    if not callable(target):
        return {}
    if not isinstance(target, type):
        return inspect.signature(target).parameters
    constructor: Callable[..., object] = getattr(target, "__init__")  # noqa: B009 - of the class, which mypy doubts
    _, *others = inspect.signature(constructor).parameters.items()
    return dict(others)


def cannot_apply(name: str, shape: tuple[int, ...], error: Exception, *, remedy: str) -> ModelError:
    """The error that a network cannot be applied to images.

    Args:
        name: of the model.
        shape: [B, H, W, C].
        error: the reason.
        remedy: the way in which its framework's networks are called.
    """
    return ModelError(f"{name} cannot be applied to images [B, H, W, C] = {shape}: {error}", remedy=remedy)
