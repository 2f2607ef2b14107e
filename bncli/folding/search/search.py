"""Which BN goes which way: a plan that leaves as few of them as possible, and as little else.

Each BN may go into what stands before it or after it, and one fold can spoil another: a BN that merges into the next
one may take from it what let it pass a ReLU. So folds that cost nothing come first and those that leave a sign or a
shift in the network last, with all that are stuck tried again. Two orders are tried; the better plan wins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from bncli.folding.primitives import Stuck
from bncli.folding.rewrite.edits import Draft, Edits
from bncli.folding.search.propagate import push_down, push_up

Direction: TypeAlias = Literal["backward", "forward"]


@dataclass(frozen=True)
class Way:
    """One way to fold a chain."""

    direction: Direction
    edits: Edits

    @property
    def cost(self) -> tuple[int, int]:
        """Multiplies and adds left behind, then BN that it is merged into."""
        return self.edits.leftovers, len(self.edits.merged)

    @property
    def sites(self) -> list[int]:
        """The operations and the chains that take the chain in, in order."""
        return sorted({site for site, _ in self.edits.weights} | set(self.edits.merged))


@dataclass(frozen=True)
class Plan:
    """What became of each chain with BN in it.

    Args:
        draft: the network with all edits made.
        ways: folded chain -> how.
        stuck: kept chain -> why.
        keepers: kept chain -> the BN layer under whose name it is kept; the others in it are merged into that one.
    """

    draft: Draft
    ways: dict[int, Way] = field(default_factory=dict)
    stuck: dict[int, Stuck] = field(default_factory=dict)
    keepers: dict[int, str] = field(default_factory=dict)

    @property
    def cost(self) -> tuple[int, int]:
        """BN kept, then multiplies and adds left of those folded."""
        return len(self.stuck), self.draft.edits.leftovers


def _costs_nothing(way: Way) -> bool:
    return way.cost == (0, 0)


def _leaves_nothing(way: Way) -> bool:
    return way.edits.leftovers == 0


def _any(way: Way) -> bool:
    return True


Tier: TypeAlias = Callable[[Way], bool]
# (which ways are taken first, whether the last BN of the network comes first)
ORDERS: tuple[tuple[Sequence[Tier], bool], ...] = (
    ((_leaves_nothing, _any), False),
    ((_costs_nothing, _leaves_nothing, _any), True),
)


def make_plan(draft: Draft, selected: Set[str]) -> Plan:
    """The better of the plans that the orders lead to; only chains whose BN are all selected are moved."""
    chains = [index for index in sorted(draft.norms) if set(draft.norms[index]) <= selected]
    plans = []
    for tiers, reverse in ORDERS:
        plans.append(_carried_out(draft.unedited(), sorted(chains, reverse=reverse), tiers))
        if plans[-1].cost == (0, 0):
            break
    return _with_unselected(min(plans, key=lambda plan: plan.cost), selected)


def _carried_out(draft: Draft, chains: Sequence[int], tiers: Sequence[Tier]) -> Plan:
    """Goes through the chains once for each tier, and folds those that can go a way of that tier by then."""
    plan = Plan(draft)
    for tier in tiers:
        for index in chains:
            if index not in plan.ways:
                _fold(plan, index, tier)
    return plan


def _fold(plan: Plan, index: int, tier: Tier) -> None:
    """Commits the chain's cheapest way of this tier, or notes why there is none at all."""
    plan.stuck.pop(index, None)
    ways = _ways(plan.draft, index)
    if isinstance(ways, Stuck):
        plan.stuck[index] = ways
    elif any(map(tier, ways)):
        plan.ways[index] = min(ways, key=lambda way: way.cost)
        plan.draft.commit(index, plan.ways[index].edits)


def _ways(draft: Draft, index: int) -> list[Way] | Stuck:
    """The ways that a chain can go by now."""
    if draft.affine(index).is_identity:
        return [Way("backward", Edits())]
    up = push_up(draft, index)
    if isinstance(up, Edits) and _costs_nothing(Way("backward", up)):
        return [Way("backward", up)]
    down = push_down(draft, index)
    if isinstance(up, Stuck) and isinstance(down, Stuck):
        return Stuck(f"before it, {up.reason}; after it, {down.reason}")
    ways = [Way("backward", up)] if isinstance(up, Edits) else []
    return ways + ([Way("forward", down)] if isinstance(down, Edits) else [])


def _with_unselected(plan: Plan, selected: Set[str]) -> Plan:
    """Every chain that is still there has a reason and a keeper: the first BN in it that was to stay, if any was."""
    for index, names in plan.draft.norms.items():
        unselected = [name for name in names if name not in selected]
        if unselected:
            plan.stuck[index] = Stuck("it was not selected")
        plan.keepers[index] = [*unselected, *names][0]
    return plan
