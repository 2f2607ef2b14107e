"""What the HTML report says first: the findings, and what data show."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bncli.cli.render.stats.blocks import short, visible
from bncli.cli.render.stats.findings import MARKS, FindingGroup, alike, channel_list, grouped
from bncli.cli.render.stats.html import svg
from bncli.cli.render.stats.html.markup import NOTHING, Html, element, join
from bncli.inspection.live_report import PARTED

if TYPE_CHECKING:
    from bncli.inspection import Finding, StatsReport
    from bncli.inspection.live_report import LiveReport

# Layers of one kind of finding that are seen without unfolding the others.
MAX_FINDINGS = 6
_OPTION = re.compile(r"(--[a-z][a-z-]+)")


def findings_section(report: StatsReport) -> Html:
    """Each kind of finding with its layers and the remedy, and the notes."""
    cards = [_finding_card(report, group) for group in grouped(report.findings)]
    if not cards and report.layers:
        cards = [element("p", "No rule objects to any layer.", class_="none")]
    notes = element("ul", *(element("li", visible(note)) for note in report.notes), class_="notes")
    return section("findings", "Findings", *cards, notes if report.notes else NOTHING)


def section(anchor: str, title: str, *children: str) -> Html:
    return element("section", element("h2", title), *children, id=anchor)


def _finding_card(report: StatsReport, group: FindingGroup) -> Html:
    rows = [_finding_row(report, findings) for findings in alike(group.findings)]
    shown = [element("ul", *rows[:MAX_FINDINGS], class_="where")]
    if len(rows) > MAX_FINDINGS:
        more = element("summary", f"{len(rows) - MAX_FINDINGS} more")
        shown.append(element("details", more, element("ul", *rows[MAX_FINDINGS:], class_="where")))
    return element(
        "article",
        element("h3", severity_chip(group.severity), " ", element("code", visible(group.code))),
        *shown,
        element("p", element("strong", "What to do"), " ", *_with_options(group.remedy), class_="remedy"),
        class_=f"finding {group.severity}",
    )


def _with_options(text: str) -> list[str]:
    """The text with options of commands as code, which does not break after their hyphens."""
    parts = _OPTION.split(visible(text))
    return [element("code", part, class_="option") if _OPTION.fullmatch(part) else part for part in parts]


def severity_chip(severity: str) -> Html:
    """The severity as a word with its mark: colour alone would not tell everyone."""
    return element("span", f"{MARKS[severity][0]} {severity}", class_=f"chip {severity}")


def _finding_row(report: StatsReport, findings: Sequence[Finding]) -> Html:
    """What is said of these layers alike."""
    said = findings[0]
    channels = f"channels {channel_list(said.channels)}" if said.channels else ""
    return element(
        "li",
        *(join(layer_link(report, finding.layer), " ") for finding in findings),
        visible(said.message),
        element("span", channels, class_="channels") if channels else None,
    )


def layer_link(report: StatsReport, name: str) -> Html:
    """To the layer's plots, where it has some."""
    for number, row in enumerate(report.layers):
        if row.name == name:
            return element("a", visible(name), href=f"#{anchor(number)}", class_="name")
    return element("span", visible(name), class_="name")


def anchor(number: int) -> str:
    """Numbers make anchors that no name can break."""
    return f"layer-{number}"


def data_section(report: StatsReport) -> Html:
    """Accuracy in both modes, and the output gap along the network."""
    data = report.data
    if data is None:
        return NOTHING
    about = (
        f"{visible(data.dataset)}: statistics against {data.num_examples:,} training images, scores on "
        f"{data.num_val:,} validation images."
    )
    return section(
        "data",
        "On data",
        element("p", about, class_="about"),
        element("div", _scores(data), _gaps(report, data), class_="pair"),
    )


def _scores(data: LiveReport) -> Html:
    rows = [("running statistics", data.running.accuracy, data.running.loss)]
    rows += [(f"batches of {score.batch_size}", score.accuracy, score.loss) for score in data.by_batch_size]
    titles = (("normalised by", None), ("accuracy", "number"), (NOTHING, None), ("loss", "number"))
    head = element("tr", *(element("th", title, scope="col", class_=kind) for title, kind in titles))
    body = [
        element(
            "tr",
            element("th", name, scope="row"),
            element("td", f"{accuracy:.4f}", class_="number"),
            element("td", svg.share_bar(accuracy, f"accuracy {accuracy:.4f}"), class_="wide"),
            element("td", f"{loss:.4f}", class_="number"),
        )
        for name, accuracy, loss in rows
    ]
    caption = element("caption", "Accuracy with running and with batch statistics")
    return element("table", caption, element("thead", head), element("tbody", *body), class_="scores")


def _gaps(report: StatsReport, data: LiveReport) -> Html:
    """Each layer's output gap as a column, in the order of the forward pass."""
    names = [layer.name for layer in data.layers]
    first = names.index(data.first_apart) if data.first_apart in names else None
    titles = [f"{visible(layer.name)}: {short(layer.output_gap)}" for layer in data.layers]
    if data.first_apart is None:
        said: tuple[str, ...] = ("Train mode and eval mode part nowhere.",)
    else:
        said = ("Train mode and eval mode part first at ", layer_link(report, data.first_apart), ".")
    label = f"output gap of {len(names)} layers between train mode and eval mode"
    return element(
        "figure",
        element("figcaption", element("strong", "Output gap, train mode against eval mode, layer by layer")),
        svg.columns([layer.output_gap for layer in data.layers], titles, first, PARTED, label),
        element("p", element("span", visible(names[0])), element("span", visible(names[-1])), class_="ends name"),
        element("p", *said, f" The line is at {PARTED:g} standard deviations.", class_="below"),
        class_="gaps",
    )
