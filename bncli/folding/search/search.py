"""The search for the plan that keeps the fewest BN and leaves the fewest other operations.

Each BN may go into the operations before it or after it, and one fold can spoil another: a BN that merges into the
next one may cost that one its way past a ReLU. So folds that cost nothing come first, and folds that leave a sign or
a shift in the network come last. Stuck ones are tried again in each round. Two orders are tried; the better plan wins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from bncli.folding.primitives.stuck import Cause, Slot, Stuck
from bncli.folding.rewrite.edits import EditedGraph, Edits
from bncli.folding.search.propagate import propagate_backward, propagate_forward

Direction: TypeAlias = Literal["backward", "forward"]


@dataclass(frozen=True)
class Way:
    """One way to fold a chain."""

    direction: Direction
    edits: Edits

    @property
    def cost(self) -> tuple[int, int]:
        """Multiplies and adds left behind, then BN that absorb it."""
        return self.edits.leftovers, len(self.edits.merged)

    @property
    def sites(self) -> list[int]:
        """The operations and the chains that absorb the chain, in order."""
        return sorted({site for site, _ in self.edits.weights} | set(self.edits.merged))


@dataclass(frozen=True)
class Impasse:
    """A chain that is stuck both ways.

    Args:
        before: the obstacle on the way back.
        after: the obstacle on the way forward.
        readers: all readers of the chain's output: one that is stuck is enough to keep it.
    """

    before: Stuck
    after: Stuck
    readers: tuple[Slot, ...]


@dataclass
class Plan:
    """The fate of each chain with BN in it.

    Args:
        network: the network with all edits made.
        ways: folded chain -> its way.
        stuck: kept chain -> the reason.
        keepers: kept chain -> the BN layer under whose name it is kept. The others in the chain are merged into it.
        inside: scan -> the plan of its body for each set of constant values that it has.
    """

    network: EditedGraph
    ways: dict[int, Way] = field(default_factory=dict)
    stuck: dict[int, Stuck | Impasse] = field(default_factory=dict)
    keepers: dict[int, str] = field(default_factory=dict)
    inside: dict[int, tuple[Plan, ...]] = field(default_factory=dict)

    @property
    def cost(self) -> tuple[int, int]:
        """BN kept, then multiplies and adds left of those folded."""
        return len(self.stuck), self.network.edits.leftovers


def _costs_nothing(way: Way) -> bool:
    return way.cost == (0, 0)


def _leaves_nothing(way: Way) -> bool:
    return way.edits.leftovers == 0


def _any(way: Way) -> bool:
    return True


Tier: TypeAlias = Callable[[Way], bool]
# (the tiers of ways, best first; True to begin with the last BN of the network)
ORDERS: tuple[tuple[Sequence[Tier], bool], ...] = (
    ((_leaves_nothing, _any), False),
    ((_costs_nothing, _leaves_nothing, _any), True),
)


def search_plan(network: EditedGraph, selected: Set[str]) -> Plan:
    """The better of the plans that the orders lead to; only chains whose BN are all selected are moved."""
    chains = [index for index in sorted(network.norms) if set(network.norms[index]) <= selected]
    plans = []
    for tiers, reverse in ORDERS:
        plans.append(_carried_out(network.unedited(), sorted(chains, reverse=reverse), tiers))
        if plans[-1].cost == (0, 0):
            break
    best = _with_unselected(min(plans, key=lambda plan: plan.cost), selected)
    for index, bodies in network.inside.items():
        best.inside[index] = tuple(search_plan(body, selected) for body in bodies)
    return best


def _carried_out(network: EditedGraph, chains: Sequence[int], tiers: Sequence[Tier]) -> Plan:
    """The plan that goes through the chains once per tier and folds those that have a way of that tier by then."""
    plan = Plan(network)
    for tier in tiers:
        for index in chains:
            if index not in plan.ways:
                _fold(plan, index, tier)
    return plan


def _fold(plan: Plan, index: int, tier: Tier) -> None:
    """Commit the chain's cheapest way if one is of this tier; record the reason if there is none at all."""
    plan.stuck.pop(index, None)
    ways = _ways(plan.network, index)
    if isinstance(ways, Impasse):
        plan.stuck[index] = ways
    elif any(map(tier, ways)):
        plan.ways[index] = min(ways, key=lambda way: way.cost)
        plan.network.commit(index, plan.ways[index].edits)


def _ways(network: EditedGraph, index: int) -> list[Way] | Impasse:
    """The ways that are open to a chain now."""
    if network.affine(index).is_identity:
        return [Way("backward", Edits())]
    before = propagate_backward(network, index)
    if isinstance(before, Edits) and _costs_nothing(Way("backward", before)):
        return [Way("backward", before)]
    after = propagate_forward(network, index)
    if isinstance(before, Stuck) and isinstance(after, Stuck):
        return Impasse(before, after, tuple(network.readers.get(network.chains[index].output, ())))
    ways = [Way("backward", before)] if isinstance(before, Edits) else []
    return ways + ([Way("forward", after)] if isinstance(after, Edits) else [])


def _with_unselected(plan: Plan, selected: Set[str]) -> Plan:
    """The plan with a keeper for each kept chain: the first BN in it that the user keeps, else the first."""
    for index, names in plan.network.norms.items():
        unselected = [name for name in names if name not in selected]
        if unselected:
            plan.stuck[index] = Stuck(Cause.NOT_SELECTED)
        plan.keepers[index] = [*unselected, *names][0]
    return plan
