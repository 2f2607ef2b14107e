"""The table of BN layers for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from bncli.cli.render.stats.findings import MARKS
from bncli.cli.render.stats.pictures import histogram
from bncli.cli.render.stats.quantities import QUANTITIES, Quantity, drawn_values, ends, largest_gain, values_of
from bncli.cli.render.tables import FirstFitting, Name, plain_table
from bncli.cli.render.words import distinct_width, short

if TYPE_CHECKING:
    from bncli.inspection import StatsReport
    from bncli.inspection.layers import BatchNormArrays

# From the widest form of the table to the narrowest: the quantities that break first stay the longest.
FORMS: tuple[tuple[Quantity, ...], ...] = (
    QUANTITIES,
    ("mean", "var", "scale", "bias"),
    ("var", "scale"),
    ("var",),
    (),
)
TITLES: dict[Quantity, str] = {"bias": "β", "gain": "gain", "mean": "mean", "scale": "γ", "var": "var (log scale)"}
BINS = 8
HISTOGRAM_STYLE = "cyan"
_LARGEST_GAIN = "gain ≤"


def layers_table(report: StatsReport, order: Sequence[int]) -> RenderableType:
    """Return one line per layer: its spread and distribution in as many quantities as fit, and its largest gain.

    Args:
        report: the report.
        order: the numbers of the layers to show.
    """
    return FirstFitting([partial(_table, report, order, quantities) for quantities in FORMS])


def _table(report: StatsReport, order: Sequence[int], quantities: Sequence[Quantity]) -> Table:
    table = plain_table("BN layer", "C")
    layers = [report.arrays[number] for number in order]
    pictures = [_spreads(layers, quantity) for quantity in quantities]
    for quantity, texts in zip(quantities, pictures, strict=True):
        width = max(cell_len(text.plain) for text in texts)
        title = TITLES[quantity].center(width).rstrip()
        table.add_column(title, no_wrap=True, min_width=max(width, cell_len(title)))
    with_gain = "gain" not in quantities
    if with_gain:
        table.add_column(_LARGEST_GAIN, justify="right", no_wrap=True, min_width=cell_len(_LARGEST_GAIN))
    names = _names(report, [layer.name for layer in layers])
    for place, number in enumerate(order):
        row = report.layers[number]
        gain = [short(largest_gain(row))] if with_gain else []
        table.add_row(names[place], str(row.channels), *(texts[place] for texts in pictures), *gain)
    return table


def _names(report: StatsReport, names: Sequence[str]) -> list[Name]:
    """Return each layer's name behind the mark of its most severe finding."""
    marked = []
    for name in names:
        found = report.of_layer(name)
        mark, colour = MARKS[found[0].severity] if found else (" ", "")
        marked.append((f"{mark} {name}", colour))
    room = distinct_width(text for text, _ in marked)
    return [Name(text, colour, room=room) for text, colour in marked]


def _spreads(layers: Sequence[BatchNormArrays], quantity: Quantity) -> list[Text]:
    """Return ``minimum ▁▃█▂ maximum`` of each layer, with the pictures exactly below one another."""
    spread = [ends(values_of(layer, quantity)) for layer in layers]
    left = max(len(low) for low, _, _ in spread)
    right = max(len(high) for _, _, high in spread)
    indent = " " * max(0, (len(TITLES[quantity]) - (left + BINS + right + 2)) // 2)
    texts = []
    for layer, (low, _, high) in zip(layers, spread, strict=True):
        values = drawn_values(layer, quantity)
        picture = " " * BINS if values is None else histogram(values, BINS)
        texts.append(Text.assemble(indent, low.rjust(left), " ", (picture, HISTOGRAM_STYLE), " ", high.ljust(right)))
    return texts
