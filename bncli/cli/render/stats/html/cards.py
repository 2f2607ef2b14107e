"""The section of each layer by itself: its findings and plots, folded up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bncli.cli.render.html import svg
from bncli.cli.render.html.document import section
from bncli.cli.render.html.markup import NOTHING, Html, element
from bncli.cli.render.stats.findings import channels_phrase
from bncli.cli.render.stats.html.history import layer_plots, outputs_section
from bncli.cli.render.stats.html.parts import TITLES, layer_anchor, severity_chip
from bncli.cli.render.stats.html.rows import LayerRow, layer_rows
from bncli.cli.render.stats.quantities import QUANTITIES, Quantity, drawn_values, ends, settings_line, values_of
from bncli.cli.render.words import counted, short
from bncli.cli.untrusted import visible
from bncli.inspection.report import worst_first

if TYPE_CHECKING:
    from bncli.inspection import Finding, StatsReport
    from bncli.inspection.layers import BatchNormArrays
    from bncli.inspection.live_report import LayerLive

# Layers with errors or warnings that are unfolded when the page opens.
MAX_OPEN = 6


def each_layer_section(report: StatsReport) -> Html:
    """Return each layer with its plots, folded up; the history alone if there is no BN layer."""
    rows = layer_rows(report)
    if not rows:
        return outputs_section(report.history) if report.history else NOTHING
    severe = [number for number in worst_first(report) if _is_severe(rows[number])]
    unfolded = set(severe[:MAX_OPEN]) or {0}
    return section("each", "Each layer", *(_layer_card(row, is_open=row.number in unfolded) for row in rows))


def _is_severe(row: LayerRow) -> bool:
    return bool(row.findings) and row.findings[0].severity != "info"


def _layer_card(row: LayerRow, *, is_open: bool) -> Html:
    chips = [severity_chip(severity) for severity in dict.fromkeys(finding.severity for finding in row.findings)]
    summary = element(
        "summary",
        element("span", visible(row.stats.name), class_="name"),
        element("span", counted(row.stats.channels, "channel"), class_="size"),
        *chips,
    )
    content = element(
        "div",
        element("p", settings_line([row.arrays]), class_="about"),
        *(_message(finding) for finding in row.findings),
        element("div", *(_distribution(row.arrays, quantity) for quantity in QUANTITIES), class_="plots"),
        _drift(row.live) if row.live is not None else NOTHING,
        layer_plots(row.history) if row.history is not None else NOTHING,
        class_="content",
        # In the content, not on the card: a browser unfolds the element that holds the target of a link.
        id=layer_anchor(row.number),
    )
    return element("details", summary, content, class_="layer", open=is_open)


def _message(finding: Finding) -> Html:
    channels = channels_phrase(finding.channels)
    text = visible(finding.message) + (f"; {channels}" if channels else "")
    return element("p", severity_chip(finding.severity), f" {text}", class_="said")


def _distribution(layer: BatchNormArrays, quantity: Quantity) -> Html:
    title = TITLES[quantity]
    values, drawn = values_of(layer, quantity), drawn_values(layer, quantity)
    if values is None or drawn is None:
        return element("figure", element("figcaption", title), element("p", "none", class_="below"))
    low, median, high = ends(values)
    missing = values.size - np.count_nonzero(np.isfinite(values))
    label = f"{title} of {counted(values.size, 'channel')}: from {low} to {high}, median {median}"
    return element(
        "figure",
        element(
            "figcaption",
            element("strong", title),
            element("span", f" median {median}"),
            element("span", f" {missing} not finite", class_="missing") if missing else None,
        ),
        svg.histogram(drawn, label),
        element("p", element("span", low), element("span", high), class_="ends"),
    )


def _drift(live: LayerLive) -> Html:
    drift = live.drift
    numbers = (
        ("means off by", f"{short(drift.distance)} standard deviations"),
        ("running std / true std", f"{short(drift.std_ratio)}, worst channel {short(drift.worst_std_ratio)}"),
        ("output gap", f"{short(live.output_gap)} standard deviations"),
    )
    return element(
        "div",
        element("h4", "On data"),
        element("dl", *(element("div", element("dt", a), element("dd", b)) for a, b in numbers), class_="facts"),
    )
