"""Findings with their remedies, and notes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bncli.cli.render.stats.blocks import Name, visible

if TYPE_CHECKING:
    from bncli.inspection import Finding

# Severity -> (mark, colour).
MARKS = {"error": ("✗", "red"), "warning": ("!", "yellow"), "info": ("·", "cyan")}
# Channels of a finding shown before "…".
MAX_CHANNELS = 8
# Layers of one kind of finding that are named.
MAX_LAYERS = 6


@dataclass(frozen=True)
class FindingGroup:
    """The same finding on several layers.

    Attributes:
        code: of all.
        severity: of all.
        remedy: of all.
        findings: one a layer.
    """

    code: str
    severity: str
    remedy: str
    findings: tuple[Finding, ...]


def grouped(findings: Iterable[Finding]) -> tuple[FindingGroup, ...]:
    """Findings by what they are and what is to be done, in the order of the first of each."""
    groups: dict[tuple[str, str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.code, finding.severity, finding.remedy), []).append(finding)
    return tuple(FindingGroup(*kind, tuple(found)) for kind, found in groups.items())


def alike(findings: Iterable[Finding]) -> list[tuple[Finding, ...]]:
    """Findings that say the same of several layers together, in the order of the first of each."""
    groups: dict[tuple[str, tuple[int, ...]], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.message, finding.channels), []).append(finding)
    return [tuple(found) for found in groups.values()]


def findings_text(findings: Iterable[Finding], *, everything: bool) -> RenderableType:
    """Each kind of finding once, with its layers and the remedy."""
    return Group(*(_group_text(group, everything=everything) for group in grouped(findings)))


def _group_text(group: FindingGroup, *, everything: bool) -> RenderableType:
    mark, colour = MARKS[group.severity]
    count = len(group.findings)
    layers = f" on {count} layers" if count > 1 else ""
    head = Text.assemble((f"{mark} {group.severity} ", colour), (visible(group.code), "bold"), layers)
    shown = group.findings if everything or count <= MAX_LAYERS else group.findings[: MAX_LAYERS - 1]
    rest = f"and {count - len(shown)} more" if len(shown) < count else ""
    remedy = Table.grid(padding=(0, 1))
    remedy.add_row(Text("→", style="green"), Text(visible(group.remedy), overflow="fold"))
    return Group(head, Padding(_where(alike(shown), rest), (0, 0, 0, 2)), Padding(remedy, (0, 0, 0, 2)))


def _where(rows: Sequence[tuple[Finding, ...]], rest: str) -> RenderableType:
    """What is said of which layers."""
    if len(rows) == 1 and len(rows[0]) > 1:
        names = ", ".join(visible(finding.layer) for finding in rows[0])
        return Group(Text(f"{names} {rest}".strip(), style="bold"), _what(rows[0][0]))
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, max_width=26)
    grid.add_column(overflow="fold")
    for findings in rows:
        grid.add_row(Group(*(Name(finding.layer, "bold") for finding in findings)), _what(findings[0]))
    if rest:
        grid.add_row(Text(rest, style="dim"), "")
    return grid


def _what(finding: Finding) -> Text:
    count = len(finding.channels)
    channels = f"; channel{'s' * (count > 1)} {channel_list(finding.channels)}" if count else ""
    return Text(visible(finding.message) + channels)


def channel_list(channels: Sequence[int]) -> str:
    """The first few, runs in short: "0–31, 40, 44, …"."""
    runs = _runs(channels)
    return ", ".join(runs[:MAX_CHANNELS]) + (", …" if len(runs) > MAX_CHANNELS else "")


def _runs(channels: Sequence[int]) -> list[str]:
    """Three or more in a row as one."""
    runs: list[list[int]] = []
    for channel in channels:
        if runs and channel == runs[-1][-1] + 1:
            runs[-1].append(channel)
        else:
            runs.append([channel])
    texts = []
    for run in runs:
        texts += [f"{run[0]}–{run[-1]}"] if len(run) > 2 else [str(channel) for channel in run]
    return texts


def notes_text(notes: Iterable[str]) -> RenderableType:
    """One paragraph a note."""
    return Group(*(Text(visible(note), style="dim") for note in notes))


def verdict(counts: dict[str, int]) -> Text:
    """Such as "1 error, 2 warnings"."""
    words = [(f"{count} {severity}{'s' * (count > 1)}", severity) for severity, count in counts.items() if count]
    if not words:
        return Text("no findings", style="green")
    return Text(", ").join(Text(text, style=MARKS[severity][1]) for text, severity in words)
