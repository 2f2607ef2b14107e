"""A network of any framework as a pure function of named arrays, which folding and recalibration take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import jax
import numpy as np

from bncli.folding import Folded
from bncli.folding.folded import nested
from bncli.folding.trace.graph import ApplyFn, Pytree
from bncli.frameworks.linen import BatchNormSettings, Variables

Array: TypeAlias = "jax.Array | np.ndarray"
ArrayPath: TypeAlias = tuple[str, ...]
# Layer -> its running mean and its biased running variance, [C] each.
NewStatistics: TypeAlias = Mapping[str, tuple[np.ndarray, np.ndarray]]

# The names that every adapter gives to a BN layer's arrays; other arrays keep their framework's names.
MEAN, VAR, SCALE, BIAS = "mean", "var", "scale", "bias"
STATISTICS, PARAMETERS, OTHERS = "batch_stats", "params", "others"


@dataclass(frozen=True)
class Adapted:
    """A user's network.

    Attributes:
        framework: its framework, as the remedies of findings name it.
        apply_fn: ``(variables, x) -> outputs`` in eval mode; it raises FoldError if the network is in train mode.
        variables: {"params": …, "batch_stats": …, "others": …} in nested dicts under the user's own names.
        norms: BN layer -> its settings, where the layers themselves tell them.
        norms_on: example -> the same, where only a call with an example tells them; nothing is computed.
        again: the same for another object of the framework: one without BN.
        updates: BN layer -> the number of updates of its statistics, where the framework counts them.
        excess: BN layer -> the amount by which its variance is too large in eval mode, where that is known.
        train_mode: the BN layers that normalise by the batch in the mode that the user left the network in.
        with_statistics: the user's object with new statistics.
        module: the user's module for a folded network; None if the framework has no such thing.
    """

    framework: str
    apply_fn: ApplyFn = field(repr=False)
    variables: Variables = field(repr=False)
    norms: Mapping[str, BatchNormSettings]
    with_statistics: Callable[[NewStatistics], object] = field(repr=False)
    again: Callable[[Pytree], Adapted] = field(repr=False)
    updates: Mapping[str, int] = field(default_factory=dict)
    excess: Mapping[str, float] = field(default_factory=dict)
    train_mode: tuple[str, ...] = ()
    norms_on: Callable[[Pytree], Mapping[str, BatchNormSettings]] | None = field(default=None, repr=False)
    module: Callable[[Folded], object] | None = field(default=None, repr=False)


def arguments(x: Pytree) -> tuple[Pytree, ...]:
    """The positional arguments of a call: a tuple holds several, anything else is one."""
    return x if isinstance(x, tuple) else (x,)


def filed(arrays: Mapping[ArrayPath, Array]) -> dict[str, Pytree]:
    """The arrays in nested dicts, each part of a name with slashes on a level of its own."""
    return nested({tuple(part for name in path for part in name.split("/")): array for path, array in arrays.items()})


def at(variables: Variables, path: ArrayPath) -> Array:
    """The array that ``filed`` put at this path."""
    node: Pytree = variables
    for name in path:
        for part in name.split("/"):
            node = node[part]
    array: Array = node
    return array
