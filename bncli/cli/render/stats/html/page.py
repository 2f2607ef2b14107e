"""The report as one HTML page that loads nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import bncli
from bncli.cli.render.html.document import asset, document, facts
from bncli.cli.render.html.markup import NOTHING, Html, element
from bncli.cli.render.stats.html import cards, findings, on_data, table
from bncli.cli.render.stats.html.parts import count_chip
from bncli.cli.render.stats.quantities import settings_line
from bncli.cli.untrusted import visible

if TYPE_CHECKING:
    from bncli.inspection import StatsReport


def stats_html(report: StatsReport) -> str:
    """Return the whole page."""
    return document(
        f"BN layers of {report.source}",
        element("a", "Skip to the findings", href="#findings", class_="skip"),
        _header(report),
        element("main", *(part(report) for part in _SECTIONS)),
        _footer(),
        style=asset("report.css"),
        script=asset("report.js", __package__),
    )


_SECTIONS: tuple[Callable[[StatsReport], Html], ...] = (
    findings.findings_section,
    on_data.data_section,
    table.layers_section,
    cards.each_layer_section,
)


def _header(report: StatsReport) -> Html:
    return element(
        "header",
        element("p", "Batch Normalization report", class_="eyebrow"),
        element("h1", visible(report.source)),
        element("p", *_chips(report), class_="chips") if report.layers else None,
        facts(_facts(report)),
        _navigation(report),
    )


def _facts(report: StatsReport) -> list[tuple[str, str]]:
    found = [("format", report.format), ("BN layers", f"{len(report.layers):,}" if report.layers else "none")]
    if report.layers:
        found.append(("channels in all", f"{sum(row.channels for row in report.layers):,}"))
        found.append(("settings", settings_line(report.arrays)))
    return found


def _chips(report: StatsReport) -> list[Html]:
    chips = [count_chip(severity, count) for severity, count in report.count().items() if count]
    return chips or [element("span", "✓ no findings", class_="chip ok")]


def _navigation(report: StatsReport) -> Html:
    wanted = [("findings", "Findings", True), ("data", "On data", report.data is not None)]
    wanted += [(anchor, title, bool(report.layers)) for anchor, title in (("layers", "Table"), ("each", "Each layer"))]
    links = [element("a", title, href=f"#{anchor}") for anchor, title, there in wanted if there]
    return element("nav", *links, aria_label="Sections") if len(links) > 1 else NOTHING


def _footer() -> Html:
    explained = (
        "Gain is γ/√(var + ε), BN’s factor in inference. Momentum is Flax’s: the weight of the old running value, "
        "1 − PyTorch’s. Variances are drawn on a logarithmic scale."
    )
    return element(
        "footer",
        element("p", explained),
        element("p", f"Written by bncli {bncli.__version__} inspect-stats."),
    )
