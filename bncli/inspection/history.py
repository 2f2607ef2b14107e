"""How the layers of a checkpoint moved over the epochs: what ``bncli train`` wrote down, as one row a layer.

Letters: E epochs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bncli.errors import CheckpointError


@dataclass(frozen=True)
class Track:
    """One quantity over the epochs by its percentiles, [E] each; NaN where it was not finite.

    Attributes:
        p15: 15 % of the values are below.
        p50: the median.
        p85: 85 % of the values are below.
    """

    p15: tuple[float, ...]
    p50: tuple[float, ...]
    p85: tuple[float, ...]


@dataclass(frozen=True)
class LayerHistory:
    """One layer over the epochs.

    Attributes:
        name: path of the layer.
        epochs: that were recorded, ascending; [E].
        output: what the layer hands on, over images, positions and channels, in train mode.
        mean: its running means over channels; None where it is no BN layer.
        var: its running variances over channels.
    """

    name: str
    epochs: tuple[int, ...]
    output: Track
    mean: Track | None = None
    var: Track | None = None


def layer_histories(rows: Iterable[Mapping[str, Any]]) -> tuple[LayerHistory, ...]:
    """One history a layer, in the order of the first epoch, from rows {"epoch", "layers"}, one an epoch.

    Raises:
        CheckpointError: a row is malformed.
    """
    by_layer: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
    for row in sorted(rows, key=lambda row: row["epoch"]):
        for entry in row["layers"]:
            try:
                by_layer.setdefault(str(entry["name"]), []).append((int(row["epoch"]), entry))
            except (TypeError, KeyError):
                raise _damaged(row["epoch"]) from None
    return tuple(_layer_history(name, entries) for name, entries in by_layer.items())


def _layer_history(name: str, entries: list[tuple[int, Mapping[str, Any]]]) -> LayerHistory:
    output = _track(entries, "output")
    if output is None:
        raise _damaged(entries[0][0])
    epochs = tuple(epoch for epoch, _ in entries)
    return LayerHistory(name, epochs, output, _track(entries, "mean"), _track(entries, "var"))


def _track(entries: Iterable[tuple[int, Mapping[str, Any]]], quantity: str) -> Track | None:
    """The percentiles of one quantity; None where an epoch has none."""
    found = [_percentiles(epoch, entry.get(quantity)) for epoch, entry in entries]
    known = [percentiles for percentiles in found if percentiles is not None]
    return Track(*zip(*known, strict=True)) if len(known) == len(found) else None


def _percentiles(epoch: int, value: Any) -> tuple[float, float, float] | None:  # noqa: ANN401 - any JSON value
    if value is None:
        return None
    try:
        low, middle, high = (float("nan") if number is None else float(number) for number in value)
    except (TypeError, ValueError):
        raise _damaged(epoch) from None
    return low, middle, high


def _damaged(epoch: object) -> CheckpointError:
    return CheckpointError(
        f"layers.jsonl: epoch {epoch} is damaged", remedy="Remove its line; it is only needed for --history."
    )
