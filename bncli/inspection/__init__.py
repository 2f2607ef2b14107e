"""The BN doctor: BN layers in numbers, and what those numbers mean."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bncli.config import FoldedFrom
from bncli.inspection.findings import Finding, find
from bncli.inspection.layers import BatchNormArrays, LayerStats, layer_stats
from bncli.inspection.report import StatsReport

__all__ = ["Finding", "LayerStats", "StatsReport", "inspect_stats"]


def inspect_stats(variables_or_path: Mapping[str, Any] | str | Path, *, step: str = "best") -> StatsReport:
    """The report on a checkpoint directory, or on a Flax variables dict {"params": …, "batch_stats": …}.

    Args:
        variables_or_path: what to look at.
        step: which save of a checkpoint: "best", "last" or a number.

    Raises:
        CheckpointError: no checkpoint there, or a damaged one.
    """
    if isinstance(variables_or_path, Mapping):
        from bncli.inspection.readers.variables import read_variables

        layers, notes = read_variables(variables_or_path)
        return _report("variables", "flax-variables", layers, notes)
    from bncli.inspection.readers.checkpoint import read_checkpoint

    contents = read_checkpoint(Path(variables_or_path), step=step)
    kind = "bncli" if contents.folded_from is None else "bncli-folded"
    return _report(str(variables_or_path), kind, contents.layers, contents.notes, contents.folded_from)


def _report(
    source: str,
    kind: str,
    layers: tuple[BatchNormArrays, ...],
    notes: tuple[str, ...],
    folded_from: FoldedFrom | None = None,
) -> StatsReport:
    rows = tuple(layer_stats(layer) for layer in layers)
    return StatsReport(
        source, kind, rows, find(layers, file_format=kind, path=source), notes, folded_from, arrays=layers
    )
