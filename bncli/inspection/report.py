"""The report of an inspection: the layers in numbers, the findings, and what ``--data`` and ``--history`` add."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from bncli.inspection.findings import SEVERITIES, Finding, find, most_severe_first
from bncli.inspection.history import LayerHistory
from bncli.inspection.layers import BatchNormArrays, LayerStats, layer_stats
from bncli.inspection.live_report import LayerLive, LiveReport

if TYPE_CHECKING:  # a validation library, which a report on a file does not need
    from bncli.config.document import FoldedFrom
    from bncli.inspection.readers.contents import Contents


@dataclass(frozen=True)
class StatsReport:
    """The state of a checkpoint's BN layers.

    Attributes:
        source: the path, or "variables".
        format: "bncli", "bncli-folded", "flax-variables", or another program's.
        layers: one row a BN layer, in the order of the forward pass if it is known.
        findings: most severe first.
        notes: assumptions, parts that were not read, and the reason for an empty table.
        folded_from: the original of a folded checkpoint.
        arrays: the layers themselves, one for each row of ``layers``.
        data: the measurements of ``--data``; None without it.
        history: the layers over the epochs; None if it was not asked for, empty if none was recorded.
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
        """The findings about one layer."""
        return tuple(finding for finding in self.findings if finding.layer == name)

    def only(self, names: Collection[str]) -> StatsReport:
        """The report restricted to these layers."""
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
        """The report without the findings of these codes."""
        return replace(self, findings=tuple(finding for finding in self.findings if finding.code not in codes))

    def renamed(self, names: Mapping[str, str]) -> StatsReport:
        """The report with other names for its layers, for display."""
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
        """The report with the measurements of ``--data``, and their findings sorted in."""
        return replace(self, data=data, findings=most_severe_first((*self.findings, *findings)))

    def with_history(self, history: tuple[LayerHistory, ...]) -> StatsReport:
        """The report with its history, or with a note if there is none."""
        notes = self.notes if history else (*self.notes, NO_HISTORY)
        return replace(self, history=history, notes=notes)

    def count(self) -> dict[str, int]:
        """The number of findings of each severity, most severe first."""
        counted = Counter(finding.severity for finding in self.findings)
        return {severity: counted[severity] for severity in SEVERITIES}


def report_of(source: str, contents: Contents, *, step: str) -> StatsReport:
    """The report on what a reader found.

    Args:
        source: the path, or the words for what was read.
        contents: its layers.
        step: the save, as asked for.
    """
    framework = contents.framework or contents.format
    return StatsReport(
        source=source,
        format=contents.format,
        layers=tuple(layer_stats(layer) for layer in contents.layers),
        findings=find(contents.layers, file_format=framework, path=source, step=step, options=contents.options),
        notes=contents.notes,
        folded_from=contents.folded_from,
        arrays=contents.layers,
    )


NO_HISTORY = (
    "no history: the checkpoint has no layers.jsonl, which `bncli train` of versions after 0.1.0 writes for each epoch "
    "it trains"
)

Row = TypeVar("Row", LayerStats, BatchNormArrays, LayerHistory, LayerLive)


def _renamed(rows: tuple[Row, ...], names: Mapping[str, str]) -> tuple[Row, ...]:
    return tuple(replace(row, name=names.get(row.name, row.name)) for row in rows)


def worst_first(report: StatsReport) -> tuple[int, ...]:
    """The indices of the layers, those that need attention first.

    Sorted by the highest severity among a layer's findings, then by the number of findings that have it, then by
    ``gain_spread``.
    """
    return tuple(sorted(range(len(report.layers)), key=lambda number: _rank(report, report.layers[number])))


def _rank(report: StatsReport, row: LayerStats) -> tuple[int, int, float]:
    levels = [SEVERITIES.index(finding.severity) for finding in report.of_layer(row.name)]
    highest = min(levels, default=len(SEVERITIES))
    return highest, -levels.count(highest), -gain_spread(row)


def gain_spread(row: LayerStats) -> float:
    """max |gain| / |median gain| over the channels of a layer: the distance of its most amplified channel to the rest.

    Independent of the scale of the layer's input. It is the range that one scale for a quantised layer has to span.
    Infinite if a value is not finite.
    """
    gain = row.gain
    if row.nonfinite or gain.min is None or gain.max is None or not gain.median:
        return float("inf")
    return max(abs(gain.min), abs(gain.max)) / abs(gain.median)
