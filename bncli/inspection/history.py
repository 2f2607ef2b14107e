"""The layers of a checkpoint over the epochs, as ``bncli train`` recorded them; one row a layer.

Letters: E epochs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bncli.errors import CheckpointError

Entry = Mapping[str, object]  # one layer of one epoch, as JSON has it


@dataclass(frozen=True)
class Track:
    """Percentiles of one quantity over the epochs, [E] each; NaN where it was not finite.

    Attributes:
        p15: 15 % of the values are lower.
        p50: the median.
        p85: 85 % of the values are lower.
    """

    p15: tuple[float, ...]
    p50: tuple[float, ...]
    p85: tuple[float, ...]


@dataclass(frozen=True)
class LayerHistory:
    """One layer over the epochs.

    Attributes:
        name: path of the layer.
        epochs: the recorded epochs, ascending; [E].
        output: the layer's outputs in train mode, over images, positions and channels.
        mean: its running means over channels; None if it is not a BN layer.
        var: its running variances over channels; None if it is not a BN layer.
    """

    name: str
    epochs: tuple[int, ...]
    output: Track
    mean: Track | None = None
    var: Track | None = None


def layer_histories(rows: Iterable[Mapping[str, object]]) -> tuple[LayerHistory, ...]:
    """One history a layer, in the order of the first epoch, from one row {"epoch", "layers"} an epoch.

    Raises:
        CheckpointError: a row is malformed.
    """
    by_layer: dict[str, list[tuple[int, Entry]]] = {}
    for epoch, entries in sorted(map(_of_epoch, rows), key=lambda epoch: epoch[0]):
        for entry in entries:
            if not isinstance(entry, Mapping) or "name" not in entry:
                raise _damaged(epoch)
            by_layer.setdefault(str(entry["name"]), []).append((epoch, entry))
    return tuple(_layer_history(name, entries) for name, entries in by_layer.items())


def _of_epoch(row: Mapping[str, object]) -> tuple[int, Sequence[object]]:
    epoch, entries = row.get("epoch"), row.get("layers")
    if not isinstance(epoch, int) or not isinstance(entries, list):
        raise _damaged(epoch)
    return epoch, entries


def _layer_history(name: str, entries: list[tuple[int, Entry]]) -> LayerHistory:
    output = _track(entries, "output")
    if output is None:
        raise _damaged(entries[0][0])
    epochs = tuple(epoch for epoch, _ in entries)
    return LayerHistory(name, epochs, output, _track(entries, "mean"), _track(entries, "var"))


def _track(entries: Iterable[tuple[int, Entry]], quantity: str) -> Track | None:
    """The percentiles of one quantity; None if an epoch lacks them."""
    found = [_percentiles(epoch, entry.get(quantity)) for epoch, entry in entries]
    known = [percentiles for percentiles in found if percentiles is not None]
    return Track(*zip(*known, strict=True)) if len(known) == len(found) else None


def _percentiles(epoch: int, value: object) -> tuple[float, float, float] | None:
    """Three numbers, of which null is NaN.

    Raises:
        CheckpointError: the value is anything else.
    """
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 3:
        raise _damaged(epoch)
    try:
        low, middle, high = (float("nan") if number is None else float(number) for number in value)
    except (TypeError, ValueError, OverflowError):
        raise _damaged(epoch) from None
    return low, middle, high


def _damaged(epoch: object) -> CheckpointError:
    return CheckpointError(
        f"layers.jsonl: the line of epoch {epoch} is damaged",
        remedy="Remove the line; only --history needs it.",
    )
