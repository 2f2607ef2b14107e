"""The section of the measurements on data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bncli.cli.render.html import svg
from bncli.cli.render.html.document import section
from bncli.cli.render.html.markup import NOTHING, Html, element
from bncli.cli.render.stats.html.parts import layer_link
from bncli.cli.render.stats.live import about
from bncli.cli.render.words import short
from bncli.cli.untrusted import visible
from bncli.inspection.live_report import PARTED

if TYPE_CHECKING:
    from bncli.inspection import StatsReport
    from bncli.inspection.live_report import LiveReport


def data_section(report: StatsReport) -> Html:
    """Return the accuracy in both modes, and the output gap along the network."""
    data = report.data
    if data is None:
        return NOTHING
    return section(
        "data",
        "On data",
        element("p", f"{about(data)}.", class_="about"),
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
    """Return each layer's output gap as a column, in the order of the forward pass."""
    names = [layer.name for layer in data.layers]
    first = names.index(data.first_apart) if data.first_apart in names else None
    titles = [f"{visible(layer.name)}: {short(layer.output_gap)}" for layer in data.layers]
    label = f"output gap of {len(names)} layers between train mode and eval mode"
    return element(
        "figure",
        element("figcaption", element("strong", "Output gap between train mode and eval mode, by layer")),
        svg.columns([layer.output_gap for layer in data.layers], titles, marked=first, limit=PARTED, label=label),
        element("p", element("span", visible(names[0])), element("span", visible(names[-1])), class_="ends name"),
        element("p", *_verdict(report, data), class_="below"),
        class_="gaps",
    )


def _verdict(report: StatsReport, data: LiveReport) -> tuple[str, ...]:
    line = f" The line is at {PARTED:g} standard deviations."
    if data.first_apart is None:
        return "Train mode and eval mode diverge at no layer.", line
    return "Train mode and eval mode first diverge at ", layer_link(report, data.first_apart), ".", line
