"""Several runs as one page: curves with common scales, scores, and the settings in which they differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bncli.cli.render.html.chart import sample
from bncli.cli.render.html.document import document, section, with_options
from bncli.cli.render.html.markup import NOTHING, Html, element
from bncli.cli.render.report.curves import common_curves
from bncli.cli.render.report.page import footer, style
from bncli.cli.render.report.words import about_split, run_names, scored_on, value_text
from bncli.cli.render.stats.html.parts import count_chip
from bncli.cli.untrusted import visible

if TYPE_CHECKING:
    from bncli.jobs.report import Difference, RunReport


def comparison_html(runs: Sequence[RunReport], differences: Sequence[Difference]) -> str:
    """Return the whole page."""
    names = run_names(runs)
    return document(
        f"Runs {', '.join(names)}",
        element("a", "Skip to the results", href="#results", class_="skip"),
        element(
            "header",
            element("p", "Comparison of runs", class_="eyebrow"),
            element("h1", f"{len(runs)} runs"),
            _navigation(runs),
        ),
        element(
            "main",
            _results(runs, names),
            common_curves(runs, names),
            _differences(differences, names),
            _classes(runs, names),
        ),
        footer(),
        style=style(),
    )


def _navigation(runs: Sequence[RunReport]) -> Html:
    wanted = [
        ("results", "Results", True),
        ("curves", "Curves", any(run.history for run in runs)),
        ("differences", "Settings", True),
        ("classes", "Classes", _class_names(runs) is not None),
    ]
    links = [element("a", title, href=f"#{anchor}") for anchor, title, there in wanted if there]
    return element("nav", *links, aria_label="Sections")


def _results(runs: Sequence[RunReport], names: Sequence[str]) -> Html:
    titles = ("run", "epochs", "best", "val accuracy", "val loss", "accuracy", "loss", "wrong", "findings")
    head = element("tr", *(element("th", title, scope="col", class_=_kind(title)) for title in titles))
    rows = [_result_row(run, name, number) for number, (run, name) in enumerate(zip(runs, names, strict=True))]
    table = element("table", element("thead", head), element("tbody", *rows), class_="plain runs")
    return section("results", "Results", *_about_scores(runs, names), _in_scroll(table, "Results of the runs"))


def _kind(title: str) -> str | None:
    return None if title in ("run", "findings") else "number"


def _about_scores(runs: Sequence[RunReport], names: Sequence[str]) -> list[Html]:
    """Return one sentence for each kind of scored images, and one for each run without scores."""
    about = dict.fromkeys(
        f"Accuracy and loss on {scored_on(run.scored)}. {about_split(run.scored)}" for run in runs if run.scored
    )
    missing = [f"{name}: {run.unscored}" for run, name in zip(runs, names, strict=True) if run.scored is None]
    return [element("p", *with_options(text), class_="about below-title") for text in (*about, *missing)]


def _result_row(run: RunReport, name: str, number: int) -> Html:
    best, scored = run.best, run.scored
    values = [
        f"{len(run.history)}" if run.history else "–",
        *((f"{best.epoch}", f"{best.val_accuracy:.4f}", f"{best.val_loss:.4f}") if best else ("–", "–", "–")),
    ]
    if scored is None:
        values += ["–", "–", "–"]
    else:
        result = scored.mistakes.result
        values += [f"{result.accuracy:.4f}", f"{result.loss:.4f}", f"{scored.mistakes.count:,}"]
    chips = [count_chip(severity, count) for severity, count in run.stats.count().items() if count]
    return element(
        "tr",
        element("th", sample(number), element("span", name, class_="name"), scope="row"),
        *(element("td", value, class_="number") for value in values),
        element("td", *(chips or [element("span", "none", class_="default")]), class_="value"),
    )


def _differences(differences: Sequence[Difference], names: Sequence[str]) -> Html:
    if not differences:
        about = element("p", "The runs have the same settings, data and versions.", class_="none")
        return section("differences", "Settings that differ", about)
    head = element("tr", element("th", "setting", scope="col"), *(element("th", name, scope="col") for name in names))
    rows = [
        element(
            "tr",
            element("th", element("code", row.key, class_="option"), scope="row"),
            *(element("td", visible(value_text(value)), class_="value") for value in row.values),
        )
        for row in differences
    ]
    table = element("table", element("thead", head), element("tbody", *rows), class_="plain")
    return section("differences", "Settings that differ", _in_scroll(table, "Settings that differ"))


def _class_names(runs: Sequence[RunReport]) -> tuple[str, ...] | None:
    """Return the classes if all scored runs have the same, and there are two runs or more."""
    found = {run.scored.mistakes.class_names for run in runs if run.scored}
    scored = [run for run in runs if run.scored]
    return next(iter(found)) if len(found) == 1 and len(scored) > 1 else None


def _classes(runs: Sequence[RunReport], names: Sequence[str]) -> Html:
    """Return the accuracy of each class in each run, the classes in which they differ most first."""
    classes = _class_names(runs)
    if classes is None:
        return NOTHING
    scored = [(run.scored.mistakes.result, name) for run, name in zip(runs, names, strict=True) if run.scored]
    rows = []
    for k, name in enumerate(classes):
        values = [result.per_class[k].accuracy for result, _ in scored]
        known = [value for value in values if value is not None]
        rows.append((max(known) - min(known) if known else -1.0, name, values))
    rows.sort(key=lambda row: -row[0])
    body = [
        element(
            "tr",
            element("th", visible(name), scope="row"),
            *(element("td", "–" if value is None else f"{value:.3f}", class_="number") for value in values),
        )
        for _, name, values in rows
    ]
    head = element(
        "tr",
        element("th", "class", scope="col"),
        *(element("th", name, scope="col", class_="number") for _, name in scored),
    )
    table = element("table", element("thead", head), element("tbody", *body), class_="plain")
    about = element("p", "Accuracy by class, the largest differences first.", class_="about below-title")
    return section("classes", "Classes", about, _in_scroll(table, "Accuracy by class"))


def _in_scroll(table: Html, label: str) -> Html:
    return element("div", table, class_="scroll", tabindex=0, role="region", aria_label=label)
