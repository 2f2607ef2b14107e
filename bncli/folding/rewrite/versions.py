"""A network with several sets of numbers, and the folds made with each.

The body of a loop has other weights in each iteration, so each is folded for itself. Together they are one program:
where one iteration makes an edit and another does not, the other makes one that changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from bncli.folding.affine import Affine, Array
from bncli.folding.primitives.primitive import Shape
from bncli.folding.primitives.stuck import Slot
from bncli.folding.rewrite.edits import EditedGraph, Edits
from bncli.folding.search.search import Plan

Key = TypeVar("Key", int, Slot)


@dataclass(frozen=True)
class Versions:
    """The plans of a network, one for each set of constant values that it has.

    Args:
        plans: the plans. Their networks have the same operations and chains.
        shape: the lengths of the loops around the network with a version for each iteration; () for one version.
    """

    plans: tuple[Plan, ...]
    shape: Shape = ()

    @property
    def network(self) -> EditedGraph:
        """The network of the first version. Only its constant values and edits are its own."""
        return self.plans[0].network

    @property
    def chains(self) -> set[int]:
        """The chains that are edited or kept in some version."""
        return {index for plan in self.plans for index in (*plan.network.edits.chains, *plan.keepers)}

    @property
    def keepers(self) -> dict[int, str]:
        """Chain that is kept in some version -> the BN layer under whose name it is kept."""
        return {index: name for plan in reversed(self.plans) for index, name in plan.keepers.items()}

    @property
    def edits(self) -> list[Edits]:
        """The edits of each version."""
        return [plan.network.edits for plan in self.plans]

    @property
    def moved(self) -> frozenset[int]:
        """The values that carry an affine in some version."""
        return frozenset(value for edits in self.edits for value in edits.moved)

    def affines(self, index: int) -> list[Affine]:
        """The function of a chain in each version."""
        return [plan.network.affine(index) for plan in self.plans]

    def weights(self, slot: Slot) -> list[Array]:
        """A constant operand in each version."""
        return [plan.network.weight(*slot) for plan in self.plans]

    def biases(self, value: int) -> list[Affine]:
        """The bias behind an absorbing operation in each version."""
        return self._each((edits.biases for edits in self.edits), value, value)

    def behind(self, value: int) -> list[Affine]:
        """The multiply or add left behind the value in each version."""
        return self._each((edits.behind for edits in self.edits), value, value)

    def ahead(self, slot: Slot) -> list[Affine]:
        """The multiply or add left in front of the operand in each version."""
        value = self.network.sites[slot[0]].inputs[slot[1]]
        return self._each((edits.ahead for edits in self.edits), slot, value)

    def owner(self, key: int | Slot) -> str:
        """The BN layer whose fold made an edit."""
        return next(plan.network.owners[key] for plan in self.plans if key in plan.network.owners)

    def inside(self) -> dict[int, Versions]:
        """Scan -> the versions of its body."""
        return {index: self._inside(index) for index in self.network.inside}

    def stacked(self, arrays: Sequence[Array]) -> Array:
        """The arrays of all versions as one, with the axes of `shape` in front."""
        if not self.shape:
            return arrays[0]
        full = np.broadcast_arrays(*arrays)
        return np.stack(full).reshape(*self.shape, *full[0].shape)

    def _inside(self, index: int) -> Versions:
        body = self.network.bodies[index]
        own = (len(body.constants),) if body.is_stacked else ()
        return Versions(tuple(inner for plan in self.plans for inner in plan.inside[index]), (*self.shape, *own))

    def _each(self, edits: Iterable[Mapping[Key, Affine]], key: Key, value: int) -> list[Affine]:
        """The edit of each version, the identity where there is none."""
        identity = Affine.identity(len(self.network.graph.avals[value].shape))
        return [affines.get(key, identity) for affines in edits]


def union(edits: Iterable[Mapping[Key, object]]) -> list[Key]:
    """The keys of all, each once, in order."""
    return list(dict.fromkeys(key for some in edits for key in some))
