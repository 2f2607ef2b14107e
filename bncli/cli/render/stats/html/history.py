"""Plots of the layers over the epochs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bncli.cli.render.html import svg
from bncli.cli.render.html.document import section
from bncli.cli.render.html.markup import Html, element
from bncli.cli.render.stats.history import epochs_phrase, tracks_of
from bncli.cli.render.stats.quantities import ends
from bncli.cli.untrusted import visible

if TYPE_CHECKING:
    from bncli.inspection.history import LayerHistory, Track

BAND = "The line is the median, the band reaches from the 15th to the 85th percentile."


def layer_plots(layer: LayerHistory) -> Html:
    """Return the plots of one BN layer: its outputs and running statistics."""
    figures = [_figure(title, track, layer.epochs) for title, track in tracks_of(layer).items()]
    return element(
        "div",
        element("h4", "Over the epochs"),
        element("p", BAND, class_="about"),
        element("div", *figures, class_="plots large"),
    )


def outputs_section(layers: Sequence[LayerHistory]) -> Html:
    """Return the outputs of the layers of a network without BN, side by side."""
    about = f"Outputs of each layer in train mode, the same images in every epoch; {epochs_phrase(layers[0].epochs)}. "
    cards = [
        element("div", _figure(visible(layer.name), layer.output, layer.epochs), class_="card") for layer in layers
    ]
    return section(
        "each",
        "History",
        element("p", about, BAND, class_="about"),
        element("div", *cards, class_="plots large"),
    )


def _figure(title: str, track: Track, epochs: Sequence[int]) -> Html:
    low, _, high = ends(np.array([track.p15, track.p50, track.p85]))
    label = f"{title} over {epochs_phrase(epochs)}: 15th, 50th and 85th percentile between {low} and {high}"
    last = element("span", str(epochs[-1])) if len(epochs) > 1 else None
    return element(
        "figure",
        element("figcaption", element("strong", title), element("span", f" {low} to {high}")),
        svg.band(track.p15, track.p50, track.p85, label),
        element("p", element("span", f"epoch {epochs[0]}"), last, class_="ends"),
    )
