"""Findings with their remedies, and notes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bncli.cli.render.tables import Name
from bncli.cli.render.words import counted
from bncli.cli.untrusted import visible

if TYPE_CHECKING:
    from bncli.inspection import Finding

# Severity -> (mark, colour).
MARKS = {"error": ("✗", "red"), "warning": ("!", "yellow"), "info": ("·", "cyan")}
_PLURALS = {"info": "info"}
# Channels of a finding shown before "…".
MAX_CHANNELS = 8
# Named layers of one kind of finding.
MAX_LAYERS = 6
_INDENT = (0, 0, 0, 2)


@dataclass(frozen=True)
class FindingGroup:
    """The same finding on several layers.

    Attributes:
        code: shared by all.
        severity: shared by all.
        remedy: shared by all.
        findings: one per layer.
    """

    code: str
    severity: str
    remedy: str
    findings: tuple[Finding, ...]


def grouped(findings: Iterable[Finding]) -> tuple[FindingGroup, ...]:
    """Group findings by code, severity and remedy, in the order of the first of each."""
    groups: dict[tuple[str, str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.code, finding.severity, finding.remedy), []).append(finding)
    return tuple(FindingGroup(*kind, tuple(found)) for kind, found in groups.items())


def with_same_message(findings: Iterable[Finding]) -> list[tuple[Finding, ...]]:
    """Group findings by message and channels, in the order of the first of each."""
    groups: dict[tuple[str, tuple[int, ...]], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.message, finding.channels), []).append(finding)
    return [tuple(found) for found in groups.values()]


def severity_count(severity: str, count: int) -> str:
    """Return the number of findings of one severity: "1 error", "2 warnings", "3 info"."""
    return counted(count, severity, _PLURALS.get(severity))


def channels_phrase(channels: Sequence[int]) -> str:
    """Return the first few channels with their noun: "channel 3", "channels 0–31, 40, 44, …"; "" for none."""
    if not channels:
        return ""
    runs = _runs(channels)
    more = ", …" if len(runs) > MAX_CHANNELS else ""
    return f"channel{'' if len(channels) == 1 else 's'} {', '.join(runs[:MAX_CHANNELS])}{more}"


def _runs(channels: Sequence[int]) -> list[str]:
    """Join three or more consecutive channels into one run: "0–31"."""
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


def verdict(counts: Mapping[str, int]) -> Text:
    """Return the number of findings by severity, such as "1 error, 2 warnings"."""
    words = [(severity_count(severity, count), severity) for severity, count in counts.items() if count]
    if not words:
        return Text("no findings", style="green")
    return Text(", ").join(Text(text, style=MARKS[severity][1]) for text, severity in words)


def findings_text(findings: Iterable[Finding], *, everything: bool) -> RenderableType:
    """Return each kind of finding once, with its layers and the remedy."""
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
    layers_and_messages = _layers_and_messages(with_same_message(shown), rest)
    return Group(head, Padding(layers_and_messages, _INDENT), Padding(remedy, _INDENT))


def _layers_and_messages(rows: Sequence[tuple[Finding, ...]], rest: str) -> RenderableType:
    """Return each message beside its layers; above it if all layers share one message."""
    if len(rows) == 1 and len(rows[0]) > 1:
        names = ", ".join(visible(finding.layer) for finding in rows[0])
        return Group(Text(f"{names} {rest}".strip(), style="bold"), _message(rows[0][0]))
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, max_width=26)
    grid.add_column(overflow="fold")
    for findings in rows:
        grid.add_row(Group(*(Name(finding.layer, "bold") for finding in findings)), _message(findings[0]))
    if rest:
        grid.add_row(Text(rest, style="dim"), "")
    return grid


def _message(finding: Finding) -> Text:
    channels = channels_phrase(finding.channels)
    return Text(visible(finding.message) + (f"; {channels}" if channels else ""))


def notes_text(notes: Iterable[str]) -> RenderableType:
    """Return one paragraph per note."""
    return Group(*(Text(visible(note), style="dim") for note in notes))
