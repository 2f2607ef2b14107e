"""The report as one HTML page that loads nothing: its style, script and plots are inside.

A Content-Security-Policy admits this style and this script, by their hashes, and nothing else: whatever a layer is
called, it cannot run.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from importlib.resources import files
from typing import TYPE_CHECKING

import bncli
from bncli.cli.render.stats.html import cards, findings, on_data, table
from bncli.cli.render.stats.html.markup import NOTHING, Html, element
from bncli.cli.render.stats.html.parts import count_chip
from bncli.cli.render.stats.quantities import settings_line
from bncli.cli.untrusted import visible

if TYPE_CHECKING:
    from bncli.inspection import StatsReport


def stats_html(report: StatsReport) -> str:
    """Return the whole page."""
    style, script = (_asset(name) for name in ("report.css", "report.js"))
    body = element(
        "body",
        element("a", "Skip to the findings", href="#findings", class_="skip"),
        _header(report),
        element("main", *(part(report) for part in _SECTIONS)),
        _footer(),
        element("script", Html(script)),
    )
    return f"<!doctype html>\n{element('html', _head(report, style, script), body, lang='en')}\n"


_SECTIONS: tuple[Callable[[StatsReport], Html], ...] = (
    findings.findings_section,
    on_data.data_section,
    table.layers_section,
    cards.each_layer_section,
)


def _head(report: StatsReport, style: str, script: str) -> Html:
    policy = f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'"
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="generator", content=f"bncli {bncli.__version__}"),
        element("title", f"BN layers of {visible(report.source)}"),
        element("style", Html(style)),
    )


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return the hash by which a Content-Security-Policy admits an inline text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _header(report: StatsReport) -> Html:
    terms = [element("div", element("dt", name), element("dd", visible(value))) for name, value in _facts(report)]
    return element(
        "header",
        element("p", "Batch Normalization report", class_="eyebrow"),
        element("h1", visible(report.source)),
        element("p", *_chips(report), class_="chips") if report.layers else None,
        element("dl", *terms, class_="facts"),
        _navigation(report),
    )


def _facts(report: StatsReport) -> list[tuple[str, str]]:
    facts = [("format", report.format), ("BN layers", f"{len(report.layers):,}" if report.layers else "none")]
    if report.layers:
        facts.append(("channels in all", f"{sum(row.channels for row in report.layers):,}"))
        facts.append(("settings", settings_line(report.arrays)))
    return facts


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
