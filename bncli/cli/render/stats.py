"""What ``bncli inspect-stats`` shows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from bncli.cli.render.base import jsonable, plain_table

if TYPE_CHECKING:
    from bncli.inspection import Finding, StatsReport
    from bncli.inspection.layers import Summary

SEVERITY_STYLE = {"error": "bold red", "info": "cyan", "warning": "yellow"}
# Channels of a finding shown before "…".
MAX_CHANNELS = 8


def stats_json(report: StatsReport) -> dict[str, Any]:
    """The ``bncli.inspect-stats/1`` document."""
    return {
        "schema": "bncli.inspect-stats/1",
        "source": report.source,
        "format": report.format,
        "layers": [asdict(row) for row in report.layers],
        "findings": [asdict(finding) for finding in report.findings],
        "notes": list(report.notes),
        "folded_from": None if report.folded_from is None else jsonable(report.folded_from),
    }


def stats_text(report: StatsReport) -> RenderableType:
    """The table of layers, the findings and the notes."""
    parts: list[RenderableType] = []
    if report.layers:
        parts.append(_layers_table(report))
    parts += [Text.from_markup(f"[dim]{escape(note)}[/]") for note in report.notes]
    parts += [_finding_text(finding) for finding in report.findings]
    if report.layers and not report.findings:
        parts.append(Text.from_markup("[green]no findings[/]"))
    return Group(*parts)


def _layers_table(report: StatsReport) -> Table:
    columns = ("mean", "var", "γ scale", "β bias", "gain")
    table = plain_table(
        "BN layer", "C", *columns, "dead", title=f"{escape(report.source)}: min / median / max per layer"
    )
    for row in report.layers:
        cells = [_summary(value) for value in (row.mean, row.var, row.scale, row.bias, row.gain)]
        dead = f"[yellow]{len(row.dead_channels)}[/]" if row.dead_channels else "0"
        table.add_row(escape(row.name), str(row.channels), *cells, dead)
    settings = sorted({(row.epsilon, row.momentum) for row in report.layers}, key=str)
    table.caption = "; ".join(f"ε = {eps:g}, momentum {'unknown' if m is None else f'{m:g}'}" for eps, m in settings)
    return table


def _summary(value: Summary | None) -> str:
    """Minimum, median and maximum in three lines, narrow enough for five columns."""
    if value is None:
        return "–"
    return "\n".join("–" if number is None else f"{number:.2g}" for number in (value.min, value.median, value.max))


def _finding_text(finding: Finding) -> Text:
    channels = f" channels {_channels(finding.channels)}" if finding.channels else ""
    return Text.from_markup(
        f"[{SEVERITY_STYLE[finding.severity]}]{finding.severity}[/] [bold]{escape(finding.layer)}[/] {finding.code}: "
        f"{escape(finding.message)};{channels}\n    [dim]{escape(finding.remedy)}[/]"
    )


def _channels(channels: Iterable[int]) -> str:
    numbers = [str(channel) for channel in channels]
    return ", ".join(numbers[:MAX_CHANNELS]) + (", …" if len(numbers) > MAX_CHANNELS else "")
