"""The table of layers in the HTML report.

Letters: C channels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bncli.cli.render.stats.blocks import short, visible
from bncli.cli.render.stats.findings import MARKS
from bncli.cli.render.stats.html import svg
from bncli.cli.render.stats.html.markup import NOTHING, Html, element, join
from bncli.cli.render.stats.html.sections import anchor, section
from bncli.cli.render.stats.layers import plotted
from bncli.inspection.findings import SEVERITIES
from bncli.inspection.report import worst_first

if TYPE_CHECKING:
    from bncli.inspection import Finding, StatsReport
    from bncli.inspection.history import LayerHistory
    from bncli.inspection.layers import BatchNormArrays, LayerStats
    from bncli.inspection.live_report import LayerLive

# More layers than this come the worst first.
MANY_LAYERS = 20
# Names longer than this get a wider column.
LONG_NAME = 20
TITLES = {"bias": "β bias", "gain": "gain", "mean": "mean", "scale": "γ scale", "var": "var"}


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
    return section(
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
    return element("a", visible(row.stats.name), href=f"#{anchor(row.number)}", class_="name")


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
