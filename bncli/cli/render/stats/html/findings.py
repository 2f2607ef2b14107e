"""The section of the findings and notes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bncli.cli.render.html.document import section, with_options
from bncli.cli.render.html.markup import NOTHING, Html, element, join
from bncli.cli.render.stats.findings import FindingGroup, channels_phrase, grouped, with_same_message
from bncli.cli.render.stats.html.parts import layer_link, severity_chip
from bncli.cli.untrusted import visible

if TYPE_CHECKING:
    from bncli.inspection import Finding, StatsReport

# Layers of one kind of finding that are visible without unfolding the others.
MAX_FINDINGS = 6


def findings_section(report: StatsReport) -> Html:
    """Return each kind of finding with its layers and the remedy, and the notes."""
    cards = [_finding_card(report, group) for group in grouped(report.findings)]
    if not cards and report.layers:
        cards = [element("p", "No findings in any layer.", class_="none")]
    notes = element("ul", *(element("li", visible(note)) for note in report.notes), class_="notes")
    title = "Findings" if cards else "Notes"
    return section("findings", title, *cards, notes if report.notes else NOTHING)


def _finding_card(report: StatsReport, group: FindingGroup) -> Html:
    rows = [_finding_row(report, findings) for findings in with_same_message(group.findings)]
    shown = [element("ul", *rows[:MAX_FINDINGS], class_="where")]
    if len(rows) > MAX_FINDINGS:
        more = element("summary", f"{len(rows) - MAX_FINDINGS} more")
        shown.append(element("details", more, element("ul", *rows[MAX_FINDINGS:], class_="where")))
    return element(
        "article",
        element("h3", severity_chip(group.severity), " ", element("code", visible(group.code))),
        *shown,
        element("p", element("strong", "What to do"), " ", *with_options(group.remedy), class_="remedy"),
        class_=f"finding {group.severity}",
    )


def _finding_row(report: StatsReport, findings: Sequence[Finding]) -> Html:
    """Return the message that these layers share, behind their names."""
    first = findings[0]
    channels = channels_phrase(first.channels)
    return element(
        "li",
        *(join(layer_link(report, finding.layer), " ") for finding in findings),
        visible(first.message),
        element("span", channels, class_="channels") if channels else None,
    )
