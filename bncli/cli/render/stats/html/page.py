"""The report as one HTML page that needs nothing else: its style, script and plots are inside.

A Content-Security-Policy lets in this style and this script, by their hashes, and nothing from anywhere: whatever a
layer is called, it cannot run.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from importlib.resources import files
from typing import TYPE_CHECKING

import bncli
from bncli.cli.render.stats.blocks import visible
from bncli.cli.render.stats.findings import MARKS
from bncli.cli.render.stats.html import cards, sections, table
from bncli.cli.render.stats.html.markup import NOTHING, Html, element, join
from bncli.cli.render.stats.layers import settings_line

if TYPE_CHECKING:
    from bncli.inspection import StatsReport


def stats_html(report: StatsReport) -> str:
    """The whole page."""
    style, script = (_asset(name) for name in ("report.css", "report.js"))
    policy = f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="generator", content=f"bncli {bncli.__version__}"),
        element("title", f"BN layers of {visible(report.source)}"),
        element("style", Html(style)),
    )
    body = element(
        "body",
        element("a", "Skip to the findings", href="#findings", class_="skip"),
        _header(report),
        element("main", *(part(report) for part in _SECTIONS)),
        _footer(),
        element("script", Html(script)),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


_SECTIONS: tuple[Callable[[StatsReport], Html], ...] = (
    sections.findings_section,
    sections.data_section,
    table.layers_section,
    cards.each_layer_section,
)


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """As a Content-Security-Policy names what may be inline."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _header(report: StatsReport) -> Html:
    channels = sum(row.channels for row in report.layers)
    facts = [("format", report.format), ("BN layers", f"{len(report.layers):,}"), ("channels", f"{channels:,}")]
    if report.arrays:
        facts.append(("settings", settings_line(report.arrays)))
    terms = [element("div", element("dt", name), element("dd", visible(value))) for name, value in facts]
    return element(
        "header",
        element("p", "Batch Normalization report", class_="eyebrow"),
        element("h1", visible(report.source)),
        element("p", *_chips(report), class_="chips"),
        element("dl", *terms, class_="facts"),
        _navigation(report),
    )


def _chips(report: StatsReport) -> list[Html]:
    counted = {severity: count for severity, count in report.count().items() if count}
    if not counted:
        return [element("span", "✓ no findings", class_="chip ok")] if report.layers else []
    return [
        element("span", f"{MARKS[severity][0]} {count} {severity}{'s' * (count > 1)}", class_=f"chip {severity}")
        for severity, count in counted.items()
    ]


def _navigation(report: StatsReport) -> Html:
    wanted = [("findings", "Findings", True), ("data", "On data", report.data is not None)]
    wanted += [(anchor, title, bool(report.layers)) for anchor, title in (("layers", "Table"), ("each", "Each layer"))]
    links = [element("a", title, href=f"#{anchor}") for anchor, title, there in wanted if there]
    return element("nav", *links, aria_label="Sections") if len(links) > 1 else NOTHING


def _footer() -> Html:
    return element(
        "footer",
        element(
            "p",
            join(
                "Gain is γ/√(var + ε), the factor that BN multiplies with in inference. Momentum is Flax’s: the weight "
            ),
            join("of the old running value, 1 − PyTorch’s. Variances are drawn on a logarithmic scale."),
        ),
        element("p", f"Written by bncli {bncli.__version__} inspect-stats."),
    )
