"""The report of a study: one page that loads nothing, with the table of claims first."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import bncli
from bncli.cli.render.html.document import asset, document, facts
from bncli.cli.render.html.markup import Html, element
from bncli.cli.render.study.text import comparison_line, duration, number
from bncli.cli.render.words import counted
from bncli.cli.untrusted import visible

if TYPE_CHECKING:
    from bncli.studies.experiment import Figure
    from bncli.studies.report import Outcome, StudyReport

# Colours of a drawing -> those of the page, which follow the reader's light or dark mode.
_COLOURS = {
    "#0072b2": "var(--one)",
    "#d55e00": "var(--two)",
    "#009e73": "var(--three)",
    "#cc79a7": "var(--four)",
    "#1d2024": "var(--ink)",
    "#d3d5d9": "var(--line)",
    "#fefefe": "none",
}
_CHIPS = {"supported": "ok", "not supported": "error", "mixed": "warning"}
_LINK = re.compile(r"arXiv (\d{4}\.\d{4,5})")
# A style attribute, which the page's policy does not admit; presentation attributes say the same.
_STYLE = re.compile(r' style="([^"]*)"')
_POINTS_SHOWN = 60


def study_page(report: StudyReport) -> str:
    """Return the page."""
    title = f"Batch Normalization, claim by claim: {visible(report.data.name)}"
    return document(
        title,
        element("a", "Skip to the claims", href="#claims", class_="skip"),
        _header(report, title),
        element("main", _table(report), *(_section(report, outcome) for outcome in report.outcomes), _about(report)),
        element("footer", f"bncli {bncli.__version__}"),
        style=asset("report.css") + asset("study.css", __package__),
    )


def _header(report: StudyReport, title: str) -> Html:
    data, runs = report.data, sum(outcome.num_runs for outcome in report.outcomes)
    quick = " (quick: fewer steps and coarser grids)" if report.plan.quick else ""
    return element(
        "header",
        element("p", "bncli study", class_="eyebrow"),
        element("h1", title),
        facts(
            [
                ("images", f"{data.num_train:,} train, {data.num_val:,} val, {data.num_test:,} test"),
                ("seeds", f"{report.plan.seeds}{quick}"),
                ("trainings", f"{runs:,}, {sum(outcome.num_diverged for outcome in report.outcomes)} diverged"),
                ("time", f"{duration(report.seconds)} on {report.hardware.cores} cores"),
            ]
        ),
    )


def _table(report: StudyReport) -> Html:
    rows = [
        element(
            "tr",
            element("th", element("a", outcome.experiment.claim, href=f"#{outcome.experiment.name}"), scope="row"),
            element("td", _chip(outcome)),
            element("td", outcome.conclusion.sentence),
        )
        for outcome in report.outcomes
    ]
    head = element("tr", *(element("th", name, scope="col") for name in ("Claim", "Verdict", "Measured")))
    return element("section", element("table", element("thead", head), element("tbody", *rows)), id="claims")


def _chip(outcome: Outcome) -> Html:
    return element("span", outcome.conclusion.verdict, class_=f"chip {_CHIPS[outcome.conclusion.verdict]}")


def _section(report: StudyReport, outcome: Outcome) -> Html:
    experiment, conclusion = outcome.experiment, outcome.conclusion
    return element(
        "section",
        element("h2", experiment.claim, " ", _chip(outcome)),
        element("p", conclusion.sentence),
        element("div", *(_figure(report, figure) for figure in conclusion.figures), class_="figures"),
        element(
            "table",
            element("caption", "95 % intervals: Student t over the seeds, of the logarithm for ratios"),
            element(
                "thead",
                element("tr", *(element("th", name) for name in ("Quantity", "Mean", "Interval", "Margin", "Verdict"))),
            ),
            element("tbody", *_rows(outcome)),
            class_="comparisons",
        ),
        element(
            "dl",
            element("dt", "Rule, fixed before this study ran"),
            element("dd", experiment.rule),
            element("dt", "Source"),
            element("dd", *_linked(experiment.source)),
            element("dt", "Runs"),
            element(
                "dd",
                f"{counted(report.plan.seeds, 'seed')}, {counted(outcome.num_runs, 'training')}, "
                f"{outcome.num_diverged} diverged. ",
                element("code", _command(report, experiment.name)),
            ),
            class_="about-claim",
        ),
        id=experiment.name,
    )


def _rows(outcome: Outcome) -> Iterator[Html]:
    for comparison in outcome.conclusion.comparisons:
        shown = comparison.shown
        unit = " points" if comparison.unit == "points" else ""
        cells = {
            "mean": f"{number(shown.mean)}{unit}",
            "interval": f"{number(shown.low)} to {number(shown.high)}",
            "margin": number(comparison.in_unit(comparison.margin)),
        }
        yield element(
            "tr",
            element("th", comparison.name, scope="row"),
            *(element("td", cell, class_="number", data_label=name) for name, cell in cells.items()),
            element("td", comparison.verdict),
            title=comparison_line(comparison),
        )


def _figure(report: StudyReport, figure: Figure) -> Html:
    """The drawing, if there is one, with its data."""
    path = report.out / f"{figure.name}.svg"
    drawing = _themed(path.read_text(encoding="utf-8"), figure) if report.has_pictures else None
    return element(
        "figure",
        drawing,
        element("figcaption", element("strong", figure.title, "."), " ", figure.note),
        element(
            "details", element("summary", "Data"), _data(figure), element("p", element("code", path.stem + ".csv"))
        ),
    )


def _themed(svg: str, figure: Figure) -> Html:
    """The drawing as part of the page: in its colours, scaled to the room that there is.

    The text is Matplotlib's own, in which all labels are escaped.
    """
    drawing = svg[svg.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", drawing, count=1)
    drawing = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", drawing, count=1)
    drawing = drawing.replace("<svg", f'<svg role="img" aria-label="{element("i", figure.title)[3:-4]}"', 1)
    drawing = re.sub(r'id="([^"]+)"', rf'id="{figure.name}-\1"', drawing)
    drawing = re.sub(r'(url\(|href=")#', rf"\1#{figure.name}-", drawing)
    drawing = _STYLE.sub(lambda found: "".join(_attributes(found.group(1))), drawing)
    for colour, variable in _COLOURS.items():
        drawing = drawing.replace(colour, variable)
    return Html(drawing)


def _attributes(style: str) -> Iterator[str]:
    """``fill: none; stroke-width: 2`` as attributes."""
    for declaration in filter(None, map(str.strip, style.split(";"))):
        name, _, value = declaration.partition(":")
        if name.strip() == "font":  # "11px sans-serif"
            size = re.search(r"[\d.]+px", value)
            yield f' font-size="{size.group() if size else "10px"}" font-family="inherit"'
        else:
            yield f' {name.strip()}="{value.strip()}"'


def _data(figure: Figure) -> Html:
    """The points of a figure, or every so many of them."""
    rows = []
    for series in figure.series:
        every = -(-len(series.x) // _POINTS_SHOWN)
        ends = [end or (None,) * len(series.x) for end in (series.low, series.high)]
        for x, y, low, high in list(zip(series.x, series.y, *ends, strict=True))[::every]:
            band = "" if low is None or high is None else f"{number(low)} to {number(high)}"
            diverged = " ×" if x in series.crosses else ""
            cells = (element("td", text, class_="number") for text in (number(x), number(y) + diverged, band))
            rows.append(element("tr", element("th", series.label, scope="row"), *cells))
    head = element("tr", *(element("th", name) for name in ("", figure.x, figure.y, "band")))
    return element("div", element("table", element("thead", head), element("tbody", *rows)), class_="scroll")


def _linked(source: str) -> Iterator[Html | str]:
    """The source with links to arXiv."""
    for place, part in enumerate(_LINK.split(source)):
        yield part if place % 2 == 0 else element("a", f"arXiv {part}", href=f"https://arxiv.org/abs/{part}")


def _command(report: StudyReport, names: str) -> str:
    """The call that measures these experiments."""
    quick = " --quick" if report.plan.quick else ""
    return f"bncli study {names} --data {report.data.name} --seeds {report.plan.seeds}{quick}"


def _about(report: StudyReport) -> Html:
    """The machine and the versions."""
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    names = " ".join(outcome.experiment.name for outcome in report.outcomes)
    return element(
        "section",
        element("h2", "How it was measured"),
        facts(
            [
                ("command", _command(report, names)),
                ("data SHA-256", report.data.sha256),
                ("CPU", f"{report.hardware.cpu}, {report.hardware.cores} cores"),
                ("devices", ", ".join(report.hardware.devices)),
                ("versions", versions),
            ]
        ),
        element(
            "p",
            "SGD with momentum 0.9, a constant learning rate, no weight decay and no augmentation. Learning rates are "
            "chosen by the validation images, and accuracies are those of the test images. A run that diverged counts "
            "with the accuracy of guessing.",
            class_="about",
        ),
        id="how",
    )
