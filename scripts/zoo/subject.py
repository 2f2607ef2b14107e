"""A network to fold, and numbers such as training leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import jax
import numpy as np

import bncli
from bncli.folding.folded import flatten
from bncli.frameworks.adapt import adapted, framework_of
from bncli.frameworks.adapted import MEAN, STATISTICS, VAR, Adapted, NewStatistics

Pytree: TypeAlias = Any
CLASSES = 10


@dataclass(frozen=True)
class Subject:
    """A network in the idiom of its framework.

    Attributes:
        network: the user's object, in eval mode.
        example: a batch of inputs.
        call: x -> its outputs in eval mode, by the framework itself.
        arrays: what ``bncli.fold`` takes between the network and the example.
        named: what it takes by name.
        norms: number of BN layers.
        kept: those that no exact fold exists for.
    """

    network: Pytree
    example: np.ndarray
    call: Callable[[jax.Array], Pytree]
    norms: int
    kept: tuple[str, ...] = ()
    arrays: tuple[Pytree, ...] = ()
    named: dict[str, Pytree] = field(default_factory=dict)

    def folded(self) -> bncli.folding.Folded:
        """The one call that a user makes."""
        return bncli.fold(self.network, *self.arrays, self.example, **self.named)

    def with_norms(self, kept: tuple[str, ...], norms: int) -> Subject:
        """The same with its number of BN layers and the names of those to keep."""
        return replace(self, kept=kept, norms=norms)


Build: TypeAlias = Callable[[], Subject]


def images(size: int, *, channels_first: bool = False) -> np.ndarray:
    """A batch of 8 random images, [B, H, W, C] or [B, C, H, W]."""
    batch = np.random.default_rng(0).normal(size=(8, size, size, 3)).astype(np.float32)
    return np.moveaxis(batch, -1, 1) if channels_first else batch


def scales(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """γ, of which one in ten is negative, or β."""
    if name in ("scale", "gamma", "weight"):
        sign = np.where(rng.random(shape) < 0.1, -1, 1)
        return (sign * rng.uniform(0.5, 1.5, shape)).astype(np.float32)
    return rng.normal(scale=0.3, size=shape).astype(np.float32)


def off(statistics: NewStatistics, rng: np.random.Generator) -> NewStatistics:
    """Statistics that are random, but of the size of the layer's inputs: σ is off by up to 1.4×, the mean by 0.3 σ."""
    return {
        name: (
            np.asarray(mean + rng.normal(scale=0.3, size=mean.shape) * np.sqrt(var), np.float32),
            np.asarray(var * rng.uniform(0.5, 2, var.shape), np.float32),
        )
        for name, (mean, var) in statistics.items()
    }


def statistics_of(user: Adapted) -> NewStatistics:
    """Each BN layer's mean and variance."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for (collection, *layer, name), array in flatten(user.variables):
        if collection == STATISTICS:
            found.setdefault("/".join(layer), {})[name] = np.asarray(array)
    return {layer: (arrays[MEAN], arrays[VAR]) for layer, arrays in found.items()}


def with_random_statistics(network: Pytree, given: dict[str, Pytree]) -> Pytree:
    """A network, or the state beside it that has its statistics, with random statistics.

    Args:
        network: not a linen module, whose variables are a tree that anyone can map.
        given: its arrays by name; their statistics fit its own inputs.
    """
    framework = framework_of(network)
    assert framework is not None
    user = adapted(network, framework, given, eval_mode=True)
    return user.with_statistics(off(statistics_of(user), np.random.default_rng(2)))
