"""The five quantities of a BN layer that every view of a report shows, and the scale they are drawn on.

Letters: C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np

from bncli.cli.render.words import short

if TYPE_CHECKING:
    from bncli.inspection import LayerStats, StatsReport
    from bncli.inspection.layers import BatchNormArrays, Summary

Quantity: TypeAlias = Literal["mean", "var", "scale", "bias", "gain"]
QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)
# Different settings of one report that are listed.
MAX_SETTINGS = 4


def values_of(layer: BatchNormArrays, quantity: Quantity) -> np.ndarray | None:
    """Return one quantity of a layer, [C]; None if the layer has none."""
    arrays: dict[Quantity, np.ndarray | None] = {
        "mean": layer.mean,
        "var": layer.var,
        "scale": layer.scale,
        "bias": layer.bias,
        "gain": layer.gain,
    }
    return arrays[quantity]


def drawn_values(layer: BatchNormArrays, quantity: Quantity) -> np.ndarray | None:
    """Return the values that a histogram shows, [C]: variances as log10(σ² + ε), as they span orders of magnitude."""
    values = values_of(layer, quantity)
    if values is None or quantity != "var":
        return values
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.log10(values + layer.epsilon)


def summary_of(row: LayerStats, quantity: Quantity) -> Summary | None:
    """Return the summary of one quantity over the channels; None if the layer has none."""
    summaries: dict[Quantity, Summary | None] = {
        "mean": row.mean,
        "var": row.var,
        "scale": row.scale,
        "bias": row.bias,
        "gain": row.gain,
    }
    return summaries[quantity]


def largest_gain(row: LayerStats) -> float | None:
    """Return max |gain| over the channels; None if no gain is finite."""
    low, high = row.gain.min, row.gain.max
    return None if low is None or high is None else max(abs(low), abs(high))


def ends(values: np.ndarray | None) -> tuple[str, str, str]:
    """Return minimum, median and maximum of the finite values as text; "–" if there are none."""
    finite = values[np.isfinite(values)] if values is not None else np.array([])
    if not finite.size:
        return "–", "–", "–"
    return short(float(finite.min())), short(float(np.median(finite))), short(float(finite.max()))


def settings_line(layers: Sequence[BatchNormArrays]) -> str:
    """Return ε and momentum of all layers: "ε = 1e-05, momentum 0.9"."""
    settings = dict.fromkeys((layer.epsilon, layer.momentum) for layer in layers)
    texts = [
        f"ε = {epsilon:g}, momentum {'unknown' if momentum is None else f'{momentum:g}'}"
        for epsilon, momentum in settings
    ]
    return "; ".join(texts[:MAX_SETTINGS]) + ("; …" if len(texts) > MAX_SETTINGS else "")


def channel_findings(report: StatsReport, layer: BatchNormArrays) -> list[tuple[str, ...]]:
    """Return the codes of each channel's findings; findings about the whole layer are not repeated."""
    codes: list[list[str]] = [[] for _ in range(layer.channels)]
    for finding in report.of_layer(layer.name):
        for channel in finding.channels:
            if channel < layer.channels:
                codes[channel].append(finding.code)
    return [tuple(found) for found in codes]
