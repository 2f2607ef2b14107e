"""The table of layers in the HTML report.

Letters: C channels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bncli.cli.render.html import svg
from bncli.cli.render.html.document import section
from bncli.cli.render.html.markup import NOTHING, Html, element, join
from bncli.cli.render.stats.findings import MARKS, severity_count
from bncli.cli.render.stats.html.parts import TITLES, layer_anchor
from bncli.cli.render.stats.html.rows import LayerRow, layer_rows
from bncli.cli.render.stats.names import prefix_note, prefix_to_drop
from bncli.cli.render.stats.quantities import Quantity, drawn_values, largest_gain, summary_of
from bncli.cli.render.words import short
from bncli.cli.untrusted import visible
from bncli.inspection.findings import SEVERITIES
from bncli.inspection.report import worst_first

if TYPE_CHECKING:
    from bncli.inspection import StatsReport
    from bncli.inspection.live_report import LayerLive

# More layers than this are listed with the worst first.
MANY_LAYERS = 20
# Longer names get a wider column.
LONG_NAME = 20


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of the table of layers.

    Attributes:
        title: its heading.
        cell: the content of a cell.
        value: the value to sort by; None comes last.
        detail: a second line of the heading.
        ascending: True if the first click sorts from the lowest value.
    """

    title: str
    cell: Callable[[LayerRow], str]
    value: Callable[[LayerRow], float | str | None]
    detail: str = ""
    ascending: bool = False


def layers_section(report: StatsReport) -> Html:
    """Return the table of layers; the script turns its headings into buttons that sort it."""
    if not report.layers:
        return NOTHING
    rows = layer_rows(report)
    prefix = prefix_to_drop([row.stats.name for row in rows])
    columns = _columns(prefix, with_data=report.data is not None)
    many = len(rows) > MANY_LAYERS
    order = worst_first(report) if many else range(len(rows))
    body = element("tbody", *(_table_row(rows[number], columns) for number in order))
    longest = max(len(row.stats.name) - len(prefix) for row in rows)
    table = element(
        "table",
        element("caption", "The worst layers first." if many else "In the order of the network."),
        element("thead", element("tr", *map(_head, columns))),
        body,
        class_="layers long" if longest > LONG_NAME else "layers",
        data_sortable=True,
    )
    scroll = element("div", table, class_="scroll", tabindex=0, role="region", aria_label="Table of BN layers")
    return section("layers", "Table", _prefix_line(prefix), scroll)


def _prefix_line(prefix: str) -> Html:
    """Return the sentence about the part of the names that the table leaves out."""
    note = prefix_note(visible(prefix))
    return element("p", f"{note[0].upper()}{note[1:]}", class_="about below-title") if prefix else NOTHING


def _columns(prefix: str, *, with_data: bool) -> Sequence[Column]:
    number, name, *others = _COLUMNS
    name = replace(name, cell=lambda row: _name_cell(row, prefix))
    return [number, name, *others, *(_DATA_COLUMNS if with_data else ())]


def _head(column: Column) -> Html:
    detail = (" ", element("small", column.detail)) if column.detail else ()
    order = "ascending" if column.ascending else None
    return element("th", column.title, *detail, scope="col", data_order=order)


def _table_row(row: LayerRow, columns: Sequence[Column]) -> Html:
    cells = [element("td", column.cell(row), class_="number", data_value=_sortable(column, row)) for column in columns]
    name = element("th", columns[1].cell(row), scope="row", data_value=_sortable(columns[1], row))
    return element("tr", cells[0], name, *cells[2:])


def _sortable(column: Column, row: LayerRow) -> str:
    """Return the value to sort by as text; "" for None and NaN."""
    value = column.value(row)
    return "" if value is None or value != value else visible(str(value))


def _numeric(title: str, value: Callable[[LayerRow], float | None], detail: str = "") -> Column:
    return Column(title=title, cell=lambda row: short(value(row)), value=value, detail=detail)


def _median(quantity: Quantity) -> Callable[[LayerRow], float | None]:
    def value(row: LayerRow) -> float | None:
        summary = summary_of(row.stats, quantity)
        return None if summary is None else summary.median

    return value


def _median_column(quantity: Quantity) -> Column:
    return _numeric(TITLES[quantity], _median(quantity), "median")


def _pictured(quantity: Quantity) -> Column:
    """Return the column of a median beside a small picture of the distribution."""
    value = _median(quantity)

    def cell(row: LayerRow) -> str:
        drawn = drawn_values(row.arrays, quantity)
        if drawn is None:
            return "–"
        label = f"distribution of {TITLES[quantity]}"
        picture = svg.histogram(drawn, label, bins=svg.SMALL_BINS, with_median=False)
        return element("div", picture, element("span", short(value(row))), class_="pictured")

    return Column(title=TITLES[quantity], cell=cell, value=value, detail="median")


def _findings_cell(row: LayerRow) -> str:
    """Return a chip per severity with its count; the codes are in its tooltip."""
    counted = Counter(finding.severity for finding in row.findings)
    codes = ", ".join(visible(finding.code) for finding in row.findings)
    chips = (
        element(
            "span",
            element("span", f"{MARKS[severity][0]} {count}", aria_hidden="true"),
            element("span", severity_count(severity, count), class_="unseen"),
            class_=f"chip {severity}",
            title=codes,
        )
        for severity, count in counted.items()
    )
    return join(*(join(chip, " ") for chip in chips))


def _severity_rank(row: LayerRow) -> int:
    """Return a number that grows with the severity of the worst finding, then with the number of findings."""
    worst = min((SEVERITIES.index(finding.severity) for finding in row.findings), default=len(SEVERITIES))
    return 1000 * (len(SEVERITIES) - worst) + len(row.findings)


def _name_cell(row: LayerRow, prefix: str = "") -> str:
    name, anchor = row.stats.name, layer_anchor(row.number)
    title = visible(name) if prefix else None
    return element("a", visible(name.removeprefix(prefix)), href=f"#{anchor}", class_="name", title=title)


_COLUMNS = (
    Column(title="#", cell=lambda row: str(row.number + 1), value=lambda row: row.number, ascending=True),
    Column(title="BN layer", cell=_name_cell, value=lambda row: row.stats.name, ascending=True),
    Column(title="findings", cell=_findings_cell, value=_severity_rank),
    Column(title="C", cell=lambda row: f"{row.stats.channels:,}", value=lambda row: row.stats.channels),
    _median_column("mean"),
    _pictured("var"),
    _pictured("scale"),
    _median_column("bias"),
    _numeric("|gain|", lambda row: largest_gain(row.stats), "largest"),
    _numeric("dead", lambda row: len(row.stats.dead_channels), "channels"),
)


def _live(number: Callable[[LayerLive], float]) -> Callable[[LayerRow], float | None]:
    return lambda row: None if row.live is None else number(row.live)


_DATA_COLUMNS = (
    _numeric("mean", _live(lambda live: live.drift.distance), "off by"),
    _numeric("std", _live(lambda live: live.drift.std_ratio), "running/true"),
    _numeric("output", _live(lambda live: live.output_gap), "gap"),
)
