"""One run as a page that loads nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import bncli
from bncli.cli.render.html.document import asset, document, facts
from bncli.cli.render.html.markup import NOTHING, Html, element
from bncli.cli.render.report.curves import curves_section
from bncli.cli.render.report.mistakes import mistakes_sections
from bncli.cli.render.report.record import fold_section, settings_section, versions_section
from bncli.cli.render.report.words import scored_on
from bncli.cli.render.stats.html.cards import each_layer_section
from bncli.cli.render.stats.html.findings import findings_section
from bncli.cli.render.stats.html.parts import count_chip
from bncli.cli.render.words import counted, norm_words
from bncli.cli.untrusted import visible

if TYPE_CHECKING:
    from bncli.jobs.report import RunReport


def report_html(run: RunReport) -> str:
    """Return the whole page."""
    return document(
        f"Run {run.checkpoint}",
        element("a", "Skip to the curves", href="#curves", class_="skip"),
        _header(run),
        element("main", *(part(run) for part in _SECTIONS)),
        footer(),
        style=style(),
        images=True,
    )


def style() -> str:
    """Return the style sheet of the pages of runs."""
    return asset("report.css") + asset("run.css", __package__)


def footer() -> Html:
    """Return the end of a page of runs."""
    return element("footer", element("p", f"Written by bncli {bncli.__version__} report."))


_SECTIONS: tuple[Callable[[RunReport], Html], ...] = (
    curves_section,
    mistakes_sections,
    fold_section,
    lambda run: findings_section(run.stats),
    lambda run: each_layer_section(run.stats),
    settings_section,
    versions_section,
)


def _header(run: RunReport) -> Html:
    return element(
        "header",
        element("p", "Report of a run", class_="eyebrow"),
        element("h1", visible(str(run.checkpoint))),
        element("p", *_chips(run), class_="chips"),
        facts(_facts(run)),
        _navigation(run),
    )


def _chips(run: RunReport) -> list[Html]:
    chips = [count_chip(severity, count) for severity, count in run.stats.count().items() if count]
    if not chips and run.stats.layers:
        chips = [element("span", "✓ no findings", class_="chip ok")]
    if run.config.folded_from is not None:
        chips.append(element("span", "folded", class_="chip info"))
    if run.config.recalibrated is not None:
        chips.append(element("span", "recalibrated", class_="chip info"))
    return chips


def _facts(run: RunReport) -> list[tuple[str, str]]:
    config, data, best = run.config, run.config.dataset, run.best
    size = "×".join(map(str, config.preprocessing.image_shape))
    found = [("network", f"{config.run.model.name}, {norm_words(config.run.model.normalization)}")]
    if data is not None:
        found.append(("data", f"{data.name}, {counted(len(data.class_names), 'class', 'classes')}, {size}"))
        found.append(("images", f"{data.num_train:,} train, {data.num_val:,} val, {data.num_test:,} test"))
    if best is not None:
        found.append(("best epoch", f"{best.epoch} of {len(run.history)}, val accuracy {best.val_accuracy:.4f}"))
    if run.scored is not None:
        result = run.scored.mistakes.result
        found.append((f"on {scored_on(run.scored)}", f"accuracy {result.accuracy:.4f}, loss {result.loss:.4f}"))
    if run.test is not None:
        found.append((f"on {run.test.num_examples:,} test images", f"accuracy {run.test.accuracy:.4f}"))
    found.append(("save", f"step {run.step}"))
    return found


def _navigation(run: RunReport) -> Html:
    has_mistakes = run.scored is not None and run.scored.mistakes.count > 0
    wanted = [
        ("curves", "Curves", True),
        ("confusion", "Confusion", run.scored is not None),
        ("pairs", "Pairs", has_mistakes),
        ("worst", "Images", run.scored is not None),
        ("fold", "Fold", run.fold is not None),
        ("findings", "Findings", True),
        ("each", "Each layer", bool(run.stats.layers or run.stats.history)),
        ("settings", "Settings", True),
        ("versions", "Versions", True),
    ]
    links = [element("a", title, href=f"#{anchor}") for anchor, title, there in wanted if there]
    return element("nav", *links, aria_label="Sections") if links else NOTHING
