"""The table of a fold: one row for each BN layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from bncli.folding.affine import Affine
from bncli.folding.report.names import operation
from bncli.folding.report.reasons import reason, statistics_reason
from bncli.folding.search.chains import statistics_readers
from bncli.folding.search.search import Direction, Plan
from bncli.folding.search.statistics import Way
from bncli.folding.verify import Verification


@dataclass(frozen=True)
class NormReport:
    """The fate of one BN layer.

    Args:
        name: the layer, as its statistics are filed: `Block_1/BatchNorm_0`.
        status: "folded" if its multiply-add is gone or is part of another, kept BN.
        direction: "backward" into the operation before it, "forward" into the one after it; None if kept.
        into: the layers that hold it now, kept BN among them.
        reason: the reason why it was kept, to be read after "kept, because"; None if folded.
        left: the part of a folded layer that stays in the network: "a sign", "a shift"; None for nothing.
    """

    name: str
    status: Literal["folded", "kept"]
    direction: Direction | None
    into: tuple[str, ...]
    reason: str | None
    left: str | None = None


@dataclass(frozen=True)
class FoldReport:
    """Every BN layer of the network, in the order in which data meets them.

    Args:
        norms: one row for each layer.
        recognised: the way in which the running statistics were told from the other variables: "by name", filed under
            `batch_stats`; "as given", by `statistics=`; or "by structure", from the operations that read them.
        verification: the comparison with the original network on random examples; None if there was none.
    """

    norms: tuple[NormReport, ...]
    recognised: Way = "by name"
    verification: Verification | None = None

    @property
    def folded(self) -> int:
        """The number of folded layers."""
        return sum(norm.status == "folded" for norm in self.norms)

    @property
    def kept(self) -> int:
        """The number of kept layers, each of them one multiply-add."""
        return sum(norm.status == "kept" for norm in self.norms)


def report_on(plan: Plan, recognised: Way = "by name") -> FoldReport:
    """One row for each BN layer of the network."""
    rows: dict[str, list[NormReport]] = {}
    for row in (*_rows(plan), *_unreachable(plan)):
        rows.setdefault(row.name, []).append(row)
    return FoldReport(tuple(merged(same) for same in rows.values()), recognised)


def merged(rows: Sequence[NormReport]) -> NormReport:
    """One row for a layer that the network uses in several places: folded if it is folded in all of them."""
    kept = [row for row in rows if row.status == "kept"]
    if kept:
        return kept[0]
    into = tuple(dict.fromkeys(name for row in rows for name in row.into))
    left = next((row.left for row in rows if row.left), None)
    return NormReport(rows[0].name, "folded", rows[0].direction, into, None, left)


def _rows(plan: Plan) -> Iterable[NormReport]:
    """One row for each use of a BN layer, in the order in which data meets them."""
    left = _left(plan)
    for index in sorted({*plan.ways, *plan.stuck, *plan.inside}):
        if index in plan.inside:
            yield from _rows_inside(plan.inside[index])
            continue
        for name in plan.network.chains[index].norms:
            if index in plan.ways:
                into = _destinations(plan, index)
                direction = next(iter(into.values()), plan.ways[index].direction)
                yield NormReport(name, "folded", direction, tuple(into), None, left.get(name))
            elif name == plan.keepers[index]:
                yield NormReport(name, "kept", None, (), reason(plan.network, index, plan.stuck[index]))
            else:
                yield _beside(plan, index, name)


def _rows_inside(plans: Sequence[Plan]) -> Iterable[NormReport]:
    """One row for each BN in the body of a loop: folded if it is folded in all iterations."""
    rows: dict[str, list[NormReport]] = {}
    for row in (row for plan in plans for row in report_on(plan).norms):
        rows.setdefault(row.name, []).append(row)
    return [merged(same) for same in rows.values()]


def _beside(plan: Plan, index: int, name: str) -> NormReport:
    """The row of a BN that is part of another one's multiply-add, with nothing between them."""
    names, keeper = plan.network.chains[index].norms, plan.keepers[index]
    direction: Direction = "backward" if names.index(keeper) < names.index(name) else "forward"
    return NormReport(name, "folded", direction, (keeper,), None)


def _destinations(plan: Plan, index: int) -> dict[str, Direction]:
    """The layers that hold a folded chain in the end, each with the direction it took."""
    way = plan.ways[index]
    found: dict[str, Direction] = {}
    for site in way.sites:
        if site in plan.ways:
            found |= _destinations(plan, site)
        else:
            name = plan.keepers[site] if site in plan.keepers else operation(plan.network, site)
            found[name] = way.direction
    return found


def _left(plan: Plan) -> dict[str, str]:
    """The leftovers in the network, by BN layer."""
    edits = plan.network.edits
    found: dict[str, str] = {}
    for affines in (edits.behind, edits.ahead):
        found |= {plan.network.owners[key]: _described(a) for key, a in affines.items() if not a.is_identity}
    for index, affine in edits.chains.items():
        if plan.network.chains[index].affine.is_scale and not affine.is_scale and index not in plan.keepers:
            found[plan.network.owners[index]] = "a shift"
    return found


def _described(affine: Affine) -> str:
    if affine.is_scale:
        return "a sign" if (abs(affine.scale) == 1).all() else "a scale"
    return "a shift" if affine.is_shift else "a scale and a shift"


def _unreachable(plan: Plan) -> Iterable[NormReport]:
    """Rows for statistics that an operation other than a multiply-add reads."""
    network = plan.network
    nodes = [node for node in network.live if node.index not in network.inside]
    for node, name in statistics_readers(nodes, network.constants, list(network.chains.values()), network.names):
        yield NormReport(name, "kept", None, (), statistics_reason(network, node.index))
