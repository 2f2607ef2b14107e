"""A report as text for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.text import Text

from bncli.cli.render.stats.blocks import spaced, visible
from bncli.cli.render.stats.findings import findings_text, notes_text, verdict
from bncli.cli.render.stats.history import history_text
from bncli.cli.render.stats.layers import LayersTable, channels_text, settings_line
from bncli.cli.render.stats.live import live_text
from bncli.inspection.names import common_prefix
from bncli.inspection.report import worst_first

if TYPE_CHECKING:
    from bncli.inspection import StatsReport
    from bncli.inspection.history import LayerHistory

# More layers than this are shown the worst first, and only so many.
MAX_LAYERS = 20
MAX_CHARTS = 6
# Names longer than this have no room beside the numbers on 80 columns.
LONG_NAME = 18


def stats_text(report: StatsReport, *, everything: bool = False, by_channel: bool = False) -> RenderableType:
    """The layers, what data and history show of them, the findings and the notes.

    Args:
        report: the result.
        everything: all layers in their order, where there are many.
        by_channel: each layer channel by channel instead of the table.
    """
    prefix = "" if by_channel else _prefix_to_drop(report)
    if prefix:
        report = report.renamed({row.name: row.name.removeprefix(prefix) for row in report.layers})
        report = replace(report, notes=(f"all names begin with {prefix}", *report.notes))
    return spaced(_blocks(report, everything=everything, by_channel=by_channel))


def _prefix_to_drop(report: StatsReport) -> str:
    """What all names have in common, where they would be too long for the table with it."""
    names = [row.name for row in report.layers]
    return common_prefix(names) if max(map(cell_len, names), default=0) > LONG_NAME else ""


def _blocks(report: StatsReport, *, everything: bool, by_channel: bool) -> Iterator[RenderableType]:
    """What is shown, with a blank line between one and the next."""
    order = _layers_to_show(report, everything=everything)
    if by_channel:
        for number in range(len(report.layers)):
            yield channels_text(report, number, everything=everything)
    elif report.layers:
        yield _table(report, order)
    if report.data is not None:
        yield live_text(report.data, limit=None if everything else MAX_LAYERS)
    if report.history:
        yield history_text(_charts(report, order, everything=everything), total=len(report.history))
    if report.findings:
        yield findings_text(report.findings, everything=everything)
    if by_channel and not report.findings:
        yield verdict(report.count())
    if report.notes:
        yield notes_text(report.notes)


def _layers_to_show(report: StatsReport, *, everything: bool) -> tuple[int, ...]:
    if everything or len(report.layers) <= MAX_LAYERS:
        return tuple(range(len(report.layers)))
    return worst_first(report)[:MAX_LAYERS]


def _table(report: StatsReport, order: tuple[int, ...]) -> RenderableType:
    total = len(report.layers)
    head = Text.assemble((visible(report.source), "bold"), f": {total} BN layers, " if total > 1 else ": 1 BN layer, ")
    parts: list[RenderableType] = [head + verdict(report.count()), LayersTable(report, order)]
    parts.append(Text(settings_line(report.arrays), style="dim"))
    if len(order) < total:
        parts.append(Text(f"the worst {len(order)} of {total} layers, the worst first; --all for all", style="dim"))
    return Group(*parts)


def _charts(report: StatsReport, order: tuple[int, ...], *, everything: bool) -> list[LayerHistory]:
    """The history of all layers, or of the first few that the table shows."""
    history = list(report.history or ())
    if everything or len(history) <= MAX_CHARTS:
        return history
    named = {layer.name: layer for layer in history}
    shown = [named[report.layers[number].name] for number in order if report.layers[number].name in named]
    return (shown or history)[:MAX_CHARTS]
