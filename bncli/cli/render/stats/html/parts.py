"""Pieces that several sections of the page share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bncli.cli.render.html.markup import Html, element
from bncli.cli.render.stats.findings import MARKS, severity_count
from bncli.cli.render.stats.quantities import Quantity
from bncli.cli.untrusted import visible

if TYPE_CHECKING:
    from bncli.inspection import StatsReport

TITLES: dict[Quantity, str] = {"bias": "β bias", "gain": "gain", "mean": "mean", "scale": "γ scale", "var": "var"}


def severity_chip(severity: str) -> Html:
    """Return the severity as a word with its mark: colour alone would not tell everyone."""
    return element("span", f"{MARKS[severity][0]} {severity}", class_=f"chip {severity}")


def count_chip(severity: str, count: int) -> Html:
    """Return the number of findings of one severity."""
    return element("span", f"{MARKS[severity][0]} {severity_count(severity, count)}", class_=f"chip {severity}")


def layer_link(report: StatsReport, name: str) -> Html:
    """Return the layer's name as a link to its plots; the name alone if it has none."""
    for number, row in enumerate(report.layers):
        if row.name == name:
            return element("a", visible(name), href=f"#{layer_anchor(number)}", class_="name")
    return element("span", visible(name), class_="name")


def layer_anchor(number: int) -> str:
    """Return the anchor of a layer's plots: a number, which no name can break."""
    return f"layer-{number}"
