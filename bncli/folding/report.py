"""What became of each BN layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class NormReport:
    """One BN layer's fate.

    Args:
        name: the layer, as its statistics are filed: `Block_1/BatchNorm_0`.
        status: whether its statistics are gone from the network.
        direction: into what stands before it (backward) or after it (forward); None when kept.
        into: the layers that hold it now.
        reason: why it was kept, to be read after "kept, because"; None when folded.
    """

    name: str
    status: Literal["folded", "kept"]
    direction: Literal["backward", "forward"] | None
    into: tuple[str, ...]
    reason: str | None


@dataclass(frozen=True)
class FoldReport:
    """Every BN layer of the network, in the order in which data meets them."""

    norms: tuple[NormReport, ...]

    @property
    def folded(self) -> int:
        """How many are gone."""
        return sum(norm.status == "folded" for norm in self.norms)

    @property
    def kept(self) -> int:
        """How many are still there, each as one multiply-add."""
        return sum(norm.status == "kept" for norm in self.norms)


def merged(rows: list[NormReport]) -> NormReport:
    """One row for a layer that the network uses in several places: folded only if it is folded in all of them."""
    kept = [row for row in rows if row.status == "kept"]
    if kept:
        return kept[0]
    into = tuple(dict.fromkeys(name for row in rows for name in row.into))
    return NormReport(rows[0].name, "folded", rows[0].direction, into, None)
