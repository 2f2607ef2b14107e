"""Each layer by itself in the HTML report: its findings and plots, folded up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bncli.cli.render.stats.blocks import short, visible
from bncli.cli.render.stats.findings import channel_list
from bncli.cli.render.stats.html import svg
from bncli.cli.render.stats.html.markup import NOTHING, Html, element, join
from bncli.cli.render.stats.html.sections import anchor, section, severity_chip
from bncli.cli.render.stats.html.table import TITLES, LayerRow, layer_rows
from bncli.cli.render.stats.layers import QUANTITIES, plotted, quantity, settings_line
from bncli.inspection.report import worst_first

if TYPE_CHECKING:
    from bncli.inspection import Finding, StatsReport
    from bncli.inspection.history import LayerHistory, Track
    from bncli.inspection.layers import BatchNormArrays
    from bncli.inspection.live_report import LayerLive

# Layers with errors or warnings that are unfolded when the page opens.
MAX_OPEN = 6


def each_layer_section(report: StatsReport) -> Html:
    """Each layer with its plots, folded up."""
    rows = layer_rows(report)
    if not rows:
        return _history_of_other_layers(report)
    grave = [number for number in worst_first(report) if _is_grave(rows[number])]
    unfolded = set(grave[:MAX_OPEN]) or {0}
    return section("each", "Each layer", *(_layer_card(row, is_open=row.number in unfolded) for row in rows))


def _is_grave(row: LayerRow) -> bool:
    return bool(row.findings) and row.findings[0].severity != "info"


def _history_of_other_layers(report: StatsReport) -> Html:
    """A network without BN has a history too."""
    layers = report.history or ()
    cards = [join(element("h3", visible(layer.name)), _history_plots(layer)) for layer in layers]
    return section("each", "History", *cards) if layers else NOTHING


def _layer_card(row: LayerRow, *, is_open: bool) -> Html:
    chips = [severity_chip(severity) for severity in dict.fromkeys(finding.severity for finding in row.findings)]
    summary = element(
        "summary",
        element("span", visible(row.stats.name), class_="name"),
        element("span", f"{row.stats.channels:,} channels", class_="size"),
        *chips,
    )
    content = element(
        "div",
        element("p", settings_line([row.arrays]), class_="about"),
        *(element("p", *_said(finding), class_="said") for finding in row.findings),
        element("div", *(_distribution(row.arrays, name) for name in QUANTITIES), class_="plots"),
        _drift(row.live) if row.live is not None else NOTHING,
        _history_plots(row.history) if row.history is not None else NOTHING,
        class_="content",
        # In the content, not on the card: a browser unfolds what holds the target of a link.
        id=anchor(row.number),
    )
    return element("details", summary, content, class_="layer", open=is_open)


def _said(finding: Finding) -> tuple[str, ...]:
    channels = f"; channels {channel_list(finding.channels)}" if finding.channels else ""
    return severity_chip(finding.severity), f" {visible(finding.message)}{channels}"


def _distribution(layer: BatchNormArrays, name: str) -> Html:
    values, drawn = quantity(layer, name), plotted(layer, name)
    if values is None or drawn is None:
        return element("figure", element("figcaption", TITLES[name]), element("p", "none", class_="below"))
    finite = values[np.isfinite(values)]
    low, median, high = (short(float(f(finite))) if finite.size else "–" for f in (np.min, np.median, np.max))
    missing = values.size - finite.size
    label = f"{TITLES[name]} of {values.size} channels: from {low} to {high}, median {median}"
    return element(
        "figure",
        element(
            "figcaption",
            element("strong", TITLES[name]),
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


def _history_plots(layer: LayerHistory) -> Html:
    tracks = (("output", layer.output), ("running mean", layer.mean), ("running var", layer.var))
    figures = [_track(title, track, layer.epochs) for title, track in tracks if track is not None]
    said = element("p", "The line is the median, the band from the 15th to the 85th percentile.", class_="about")
    return element("div", element("h4", "Over the epochs"), said, element("div", *figures, class_="plots large"))


def _track(title: str, track: Track, epochs: Sequence[int]) -> Html:
    numbers = np.array([track.p15, track.p50, track.p85])
    finite = numbers[np.isfinite(numbers)]
    low, high = (short(float(f(finite))) if finite.size else "–" for f in (np.min, np.max))
    label = f"{title} over epochs {epochs[0]} to {epochs[-1]}: 15th, 50th and 85th percentile between {low} and {high}"
    return element(
        "figure",
        element("figcaption", element("strong", title), element("span", f" {low} to {high}")),
        svg.band(track.p15, track.p50, track.p85, label),
        element("p", element("span", f"epoch {epochs[0]}"), element("span", str(epochs[-1])), class_="ends"),
    )
