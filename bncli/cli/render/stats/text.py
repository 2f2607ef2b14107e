"""A report as text for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from bncli.cli.render.stats.channels import channels_text
from bncli.cli.render.stats.findings import findings_text, notes_text, verdict
from bncli.cli.render.stats.history import history_text
from bncli.cli.render.stats.layers import layers_table
from bncli.cli.render.stats.live import live_text
from bncli.cli.render.stats.names import prefix_note, prefix_to_drop
from bncli.cli.render.stats.quantities import settings_line
from bncli.cli.render.tables import spaced
from bncli.cli.render.words import counted
from bncli.cli.untrusted import visible
from bncli.inspection.report import worst_first

if TYPE_CHECKING:
    from bncli.inspection import StatsReport
    from bncli.inspection.history import LayerHistory

# Of more layers than this only the worst are shown, so many of them.
MAX_LAYERS = 20
MAX_CHARTS = 6


def stats_text(report: StatsReport, *, everything: bool = False, by_channel: bool = False) -> RenderableType:
    """Return the layers, the measurements on data, the history, the findings and the notes.

    Args:
        report: the report.
        everything: True to show all layers, channels and findings in their order.
        by_channel: True to show each layer channel by channel in place of the table.
    """
    report = report if by_channel else _without_prefix(report)
    return spaced(_View(report, everything=everything, by_channel=by_channel).blocks())


def _without_prefix(report: StatsReport) -> StatsReport:
    """Return the report with a prefix that all names share moved to a note, if the names are long."""
    prefix = prefix_to_drop([row.name for row in report.layers])
    if not prefix:
        return report
    renamed = report.renamed({row.name: row.name.removeprefix(prefix) for row in report.layers})
    return replace(renamed, notes=(prefix_note(prefix), *renamed.notes))


@dataclass(frozen=True, kw_only=True)
class _View:
    """A report with the choices of its reader: ``stats_text`` describes them."""

    report: StatsReport = field(kw_only=False)
    everything: bool
    by_channel: bool

    def blocks(self) -> Iterator[RenderableType]:
        """Yield the blocks of the text, without empty ones."""
        report = self.report
        yield from self._layers() if report.layers else [self._no_layers()]
        if report.data is not None:
            yield live_text(report.data, limit=None if self.everything else MAX_LAYERS)
        if report.history:
            yield history_text(self._charts(), total=len(report.history))
        if report.findings:
            yield findings_text(report.findings, everything=self.everything)
        elif self.by_channel:
            yield verdict(report.count())
        if report.notes and report.layers:
            yield notes_text(report.notes)

    def _layers(self) -> Iterator[RenderableType]:
        """Yield the table, or each layer channel by channel."""
        if self.by_channel:
            for number in range(len(self.report.layers)):
                yield channels_text(self.report, number, everything=self.everything)
        else:
            yield self._table()

    def _no_layers(self) -> RenderableType:
        """Return the heading of a report without BN layers, and the notes that explain it."""
        head = Text.assemble((visible(self.report.source), "bold"), ": no BN layers")
        return Group(head, notes_text(self.report.notes))

    def _table(self) -> RenderableType:
        report, order = self.report, self._order()
        total = len(report.layers)
        head = Text.assemble((visible(report.source), "bold"), f": {counted(total, 'BN layer')}, ")
        parts: list[RenderableType] = [head + verdict(report.count()), layers_table(report, order)]
        parts.append(Text(settings_line(report.arrays), style="dim"))
        if len(order) < total:
            parts.append(Text(f"the worst {len(order)} of {total} layers, worst first; --all for all", style="dim"))
        return Group(*parts)

    def _order(self) -> tuple[int, ...]:
        """Return the numbers of the layers to show."""
        if self.everything or len(self.report.layers) <= MAX_LAYERS:
            return tuple(range(len(self.report.layers)))
        return worst_first(self.report)[:MAX_LAYERS]

    def _charts(self) -> list[LayerHistory]:
        """Return the history of all layers, or of the first few that the table shows."""
        history = list(self.report.history or ())
        if self.everything or len(history) <= MAX_CHARTS:
            return history
        named = {layer.name: layer for layer in history}
        shown = [self.report.layers[number].name for number in self._order()]
        return ([named[name] for name in shown if name in named] or history)[:MAX_CHARTS]
