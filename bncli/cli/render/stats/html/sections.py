"""The sections of the HTML report: findings, data, the table of layers, each layer.

Letters: C channels.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bncli.cli.render.stats.blocks import short, visible
from bncli.cli.render.stats.findings import MARKS, FindingGroup, alike, channel_list, grouped
from bncli.cli.render.stats.html import svg
from bncli.cli.render.stats.html.markup import NOTHING, Html, element, join
from bncli.cli.render.stats.layers import QUANTITIES, plotted, quantity, settings_line
from bncli.inspection.findings import SEVERITIES
from bncli.inspection.report import worst_first

if TYPE_CHECKING:
    from bncli.inspection import Finding, StatsReport
    from bncli.inspection.history import LayerHistory, Track
    from bncli.inspection.layers import BatchNormArrays, LayerStats
    from bncli.inspection.live import LayerLive, LiveReport

# More layers than this come the worst first.
MANY_LAYERS = 20
# Layers with errors or warnings that are unfolded when the page opens.
MAX_OPEN = 6
# Layers of one kind of finding that are seen without unfolding the others.
MAX_FINDINGS = 6
# Names longer than this get a wider column.
LONG_NAME = 20
# As inspection.live.PARTED, which cannot be imported without JAX.
PARTED = 0.5
_OPTION = re.compile(r"(--[a-z][a-z-]+)")
TITLES = {"bias": "β bias", "gain": "gain", "mean": "mean", "scale": "γ scale", "var": "var"}


def findings_section(report: StatsReport) -> Html:
    """Each kind of finding with its layers and the remedy, and the notes."""
    cards = [_finding_card(report, group) for group in grouped(report.findings)]
    if not cards and report.layers:
        cards = [element("p", "No rule objects to any layer.", class_="none")]
    notes = element("ul", *(element("li", visible(note)) for note in report.notes), class_="notes")
    return _section("findings", "Findings", *cards, notes if report.notes else NOTHING)


def _section(anchor: str, title: str, *children: str) -> Html:
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
        *(join(_layer_link(report, finding.layer), " ") for finding in findings),
        visible(said.message),
        element("span", channels, class_="channels") if channels else None,
    )


def _layer_link(report: StatsReport, name: str) -> Html:
    """To the layer's plots, where it has some."""
    for number, row in enumerate(report.layers):
        if row.name == name:
            return element("a", visible(name), href=f"#{_anchor(number)}", class_="name")
    return element("span", visible(name), class_="name")


def _anchor(number: int) -> str:
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
    return _section(
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
        said = ("Train mode and eval mode part first at ", _layer_link(report, data.first_apart), ".")
    label = f"output gap of {len(names)} layers between train mode and eval mode"
    return element(
        "figure",
        element("figcaption", element("strong", "Output gap, train mode against eval mode, layer by layer")),
        svg.columns([layer.output_gap for layer in data.layers], titles, first, PARTED, label),
        element("p", element("span", visible(names[0])), element("span", visible(names[-1])), class_="ends name"),
        element("p", *said, f" The line is at {PARTED:g} standard deviations.", class_="below"),
        class_="gaps",
    )


@dataclass(frozen=True)
class Column:
    """One column of the table of layers.

    Attributes:
        title: its head.
        cell: what stands in it.
        value: what it is sorted by; None comes last.
        ascending: whether the least is the first thing to look for.
    """

    title: str
    cell: Callable[[LayerRow], str]
    value: Callable[[LayerRow], float | str | None]
    ascending: bool = False


@dataclass(frozen=True)
class LayerRow:
    """All that is known of one layer.

    Attributes:
        number: its place in the network.
        stats: its summary.
        arrays: its numbers.
        findings: on it, the gravest first.
        live: on data.
        history: over the epochs.
    """

    number: int
    stats: LayerStats
    arrays: BatchNormArrays
    findings: tuple[Finding, ...]
    live: LayerLive | None
    history: LayerHistory | None


def layer_rows(report: StatsReport) -> list[LayerRow]:
    """In the order of the network."""
    live = {layer.name: layer for layer in report.data.layers} if report.data is not None else {}
    history = {layer.name: layer for layer in report.history or ()}
    pairs = zip(report.layers, report.arrays, strict=True)
    return [
        LayerRow(number, row, arrays, report.of_layer(row.name), live.get(row.name), history.get(row.name))
        for number, (row, arrays) in enumerate(pairs)
    ]


def layers_section(report: StatsReport) -> Html:
    """The table of layers; the script makes its heads buttons that sort it."""
    if not report.layers:
        return NOTHING
    rows = layer_rows(report)
    many = len(rows) > MANY_LAYERS
    order = worst_first(report) if many else range(len(rows))
    columns = [*_COLUMNS, *(_DATA_COLUMNS if report.data is not None else ())]
    head = element("tr", *map(_head, columns))
    body = element("tbody", *(_table_row(rows[number], columns) for number in order))
    caption = element("caption", "The worst layers first." if many else "In the order of the network.")
    longest = max(len(row.stats.name) for row in rows)
    kind = "layers long" if longest > LONG_NAME else "layers"
    table = element("table", caption, element("thead", head), body, class_=kind, data_sortable=True)
    return _section(
        "layers",
        "Table",
        element("div", table, class_="scroll", tabindex=0, role="region", aria_label="Table of BN layers"),
    )


def _head(column: Column) -> Html:
    return element("th", column.title, scope="col", data_order="ascending" if column.ascending else None)


def _table_row(row: LayerRow, columns: Sequence[Column]) -> Html:
    cells = [element("td", column.cell(row), class_="number", data_value=_sortable(column, row)) for column in columns]
    name = element("th", columns[1].cell(row), scope="row", data_value=_sortable(columns[1], row))
    return element("tr", cells[0], name, *cells[2:])


def _sortable(column: Column, row: LayerRow) -> str:
    value = column.value(row)
    return "" if value is None or value != value else visible(str(value))


def _median(name: str) -> Callable[[LayerRow], float | None]:
    def value(row: LayerRow) -> float | None:
        summary = getattr(row.stats, name)
        return None if summary is None else summary.median

    return value


def _numeric(title: str, value: Callable[[LayerRow], float | None]) -> Column:
    return Column(title, lambda row: short(value(row)), value)


def _pictured(name: str) -> Column:
    """The median beside a small picture of the distribution."""
    value = _median(name)

    def cell(row: LayerRow) -> str:
        drawn = plotted(row.arrays, name)
        if drawn is None:
            return "–"
        label = f"distribution of {TITLES[name]}"
        picture = svg.histogram(drawn, label, bins=svg.SMALL_BINS, with_median=False)
        return element("div", picture, element("span", short(value(row))), class_="pictured")

    return Column(TITLES[name], cell, value)


def _largest_gain(row: LayerRow) -> float | None:
    low, high = row.stats.gain.min, row.stats.gain.max
    return None if low is None or high is None else max(abs(low), abs(high))


def _findings_cell(row: LayerRow) -> str:
    """A chip for each severity with its count; which findings, the layer's plots say."""
    counted = Counter(finding.severity for finding in row.findings)
    codes = ", ".join(visible(finding.code) for finding in row.findings)
    chips = (
        element(
            "span",
            element("span", f"{MARKS[severity][0]} {count}", aria_hidden="true"),
            element("span", f"{count} {severity}{'s' * (count > 1)}", class_="unseen"),
            class_=f"chip {severity}",
            title=codes,
        )
        for severity, count in counted.items()
    )
    return join(*(join(chip, " ") for chip in chips))


def _gravity(row: LayerRow) -> int:
    """Greater for a graver finding, then for more of them."""
    gravest = min((SEVERITIES.index(finding.severity) for finding in row.findings), default=len(SEVERITIES))
    return 1000 * (len(SEVERITIES) - gravest) + len(row.findings)


def _name_cell(row: LayerRow) -> str:
    return element("a", visible(row.stats.name), href=f"#{_anchor(row.number)}", class_="name")


_COLUMNS = (
    Column("#", lambda row: str(row.number + 1), lambda row: row.number, ascending=True),
    Column("BN layer", _name_cell, lambda row: row.stats.name, ascending=True),
    Column("findings", _findings_cell, _gravity),
    Column("C", lambda row: f"{row.stats.channels:,}", lambda row: row.stats.channels),
    _numeric("mean", _median("mean")),
    _pictured("var"),
    _pictured("scale"),
    _numeric("β bias", _median("bias")),
    _numeric("gain ≤", _largest_gain),
    _numeric("dead", lambda row: len(row.stats.dead_channels)),
)


def _live(number: Callable[[LayerLive], float]) -> Callable[[LayerRow], float | None]:
    return lambda row: None if row.live is None else number(row.live)


_DATA_COLUMNS = (
    _numeric("mean off by", _live(lambda live: live.drift.distance)),
    _numeric("std ratio", _live(lambda live: live.drift.std_ratio)),
    _numeric("output gap", _live(lambda live: live.output_gap)),
)


def each_layer_section(report: StatsReport) -> Html:
    """Each layer with its plots, folded up."""
    rows = layer_rows(report)
    if not rows:
        return _history_of_other_layers(report)
    grave = [number for number in worst_first(report) if _is_grave(rows[number])]
    unfolded = set(grave[:MAX_OPEN]) or {0}
    return _section("each", "Each layer", *(_layer_card(row, is_open=row.number in unfolded) for row in rows))


def _is_grave(row: LayerRow) -> bool:
    return bool(row.findings) and row.findings[0].severity != "info"


def _history_of_other_layers(report: StatsReport) -> Html:
    """A network without BN has a history too."""
    layers = report.history or ()
    cards = [join(element("h3", visible(layer.name)), _history_plots(layer)) for layer in layers]
    return _section("each", "History", *cards) if layers else NOTHING


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
        id=_anchor(row.number),
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
