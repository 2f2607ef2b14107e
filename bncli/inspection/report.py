"""What the doctor hands back: the layers in numbers, the findings, and what was added to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from bncli.inspection.findings import SEVERITIES, Finding
from bncli.inspection.history import LayerHistory
from bncli.inspection.layers import BatchNormArrays, LayerStats

if TYPE_CHECKING:  # they import JAX and a validation library, which a report on a file does not need
    from bncli.config.settings import FoldedFrom
    from bncli.inspection.live_report import LayerLive, LiveReport


@dataclass(frozen=True)
class StatsReport:
    """What a checkpoint's BN layers look like.

    Attributes:
        source: the path, or "variables".
        format: "bncli", "bncli-folded", "flax-variables", or that of another program.
        layers: one row a BN layer, in the order of the forward pass where it is known.
        findings: the gravest first.
        notes: what was assumed, and what explains an empty table.
        folded_from: what a folded checkpoint was made of.
        arrays: the layers themselves, one for each row of ``layers``.
        data: what data show; None where none were looked at.
        history: how the layers moved in training; None where it was not asked for, empty where there is none.
    """

    source: str
    format: str
    layers: tuple[LayerStats, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()
    folded_from: FoldedFrom | None = None
    arrays: tuple[BatchNormArrays, ...] = field(default=(), repr=False, compare=False)
    data: LiveReport | None = None
    history: tuple[LayerHistory, ...] | None = None

    def of_layer(self, name: str) -> tuple[Finding, ...]:
        """The findings of one layer."""
        return tuple(finding for finding in self.findings if finding.layer == name)

    def only(self, names: Collection[str]) -> StatsReport:
        """The same of these layers alone."""
        data = self.data
        return replace(
            self,
            layers=tuple(row for row in self.layers if row.name in names),
            findings=tuple(finding for finding in self.findings if finding.layer in names),
            arrays=tuple(layer for layer in self.arrays if layer.name in names),
            data=data and replace(data, layers=tuple(row for row in data.layers if row.name in names)),
            history=self.history and tuple(row for row in self.history if row.name in names),
        )

    def without(self, codes: Collection[str]) -> StatsReport:
        """The same without the findings of these codes."""
        return replace(self, findings=tuple(finding for finding in self.findings if finding.code not in codes))

    def renamed(self, names: Mapping[str, str]) -> StatsReport:
        """The same with its layers called by other names, for display."""
        data = self.data
        if data is not None:
            first = data.first_apart and names.get(data.first_apart, data.first_apart)
            data = replace(data, layers=_renamed(data.layers, names), first_apart=first)
        return replace(
            self,
            layers=_renamed(self.layers, names),
            findings=tuple(replace(row, layer=names.get(row.layer, row.layer)) for row in self.findings),
            arrays=_renamed(self.arrays, names),
            data=data,
            history=self.history and _renamed(self.history, names),
        )

    def with_data(self, data: LiveReport, findings: Iterable[Finding]) -> StatsReport:
        """The same with what data show, whose ``findings`` take their place among the others."""
        return replace(self, data=data, findings=gravest_first((*self.findings, *findings)))

    def with_history(self, history: tuple[LayerHistory, ...]) -> StatsReport:
        """The same with its history, or with a note where there is none."""
        notes = self.notes if history else (*self.notes, NO_HISTORY)
        return replace(self, history=history, notes=notes)

    def count(self) -> dict[str, int]:
        """How many findings there are of each severity, the gravest first."""
        counted = Counter(finding.severity for finding in self.findings)
        return {severity: counted[severity] for severity in SEVERITIES}


NO_HISTORY = (
    "no history: the checkpoint holds no layers.jsonl; `bncli train` writes it in versions after 0.1.0, for the epochs "
    "that it trains"
)

Row = TypeVar("Row", LayerStats, BatchNormArrays, LayerHistory, "LayerLive")


def _renamed(rows: tuple[Row, ...], names: Mapping[str, str]) -> tuple[Row, ...]:
    return tuple(replace(row, name=names.get(row.name, row.name)) for row in rows)


def gravest_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """By severity; equals stay in their order."""
    return tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))


def worst_first(report: StatsReport) -> tuple[int, ...]:
    """The numbers of the layers, those that need a look before the others.

    First by the severity of the gravest finding, then by how many findings are as grave, then by ``gain_spread``.
    """
    return tuple(sorted(range(len(report.layers)), key=lambda number: _rank(report, report.layers[number])))


def _rank(report: StatsReport, row: LayerStats) -> tuple[int, int, float]:
    levels = [SEVERITIES.index(finding.severity) for finding in report.of_layer(row.name)]
    gravest = min(levels, default=len(SEVERITIES))
    return gravest, -levels.count(gravest), -gain_spread(row)


def gain_spread(row: LayerStats) -> float:
    """max |gain| / |median gain| over the channels of a layer: how far its most amplified channel is from the rest.

    The scale of the layer's input does not matter, and it is what one scale for a quantised layer has to span.
    Infinite where numbers are not finite.
    """
    gain = row.gain
    if row.nonfinite or gain.min is None or gain.max is None or not gain.median:
        return float("inf")
    return max(abs(gain.min), abs(gain.max)) / abs(gain.median)
