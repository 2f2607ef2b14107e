"""The BN doctor: BN layers in numbers, and what those numbers mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bncli.config import FoldedFrom
from bncli.inspection.findings import Finding, find
from bncli.inspection.layers import BatchNormArrays, LayerStats, layer_stats

__all__ = ["Finding", "LayerStats", "StatsReport", "inspect_stats"]


@dataclass(frozen=True)
class StatsReport:
    """What a checkpoint's BN layers look like.

    Attributes:
        source: the path, or "variables".
        format: "bncli", "bncli-folded" or "flax-variables".
        layers: one row a BN layer, in the order of the forward pass where it is known.
        findings: the gravest first.
        notes: what was assumed, and what explains an empty table.
        folded_from: what a folded checkpoint was made of.
    """

    source: str
    format: str
    layers: tuple[LayerStats, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()
    folded_from: FoldedFrom | None = None


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
    return StatsReport(source, kind, tuple(layer_stats(layer) for layer in layers), find(layers), notes, folded_from)
