"""The BN doctor: BN layers in numbers, and what those numbers mean."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bncli.inspection.findings import Finding, find
from bncli.inspection.layers import LayerStats, layer_stats
from bncli.inspection.readers.settings import Asked
from bncli.inspection.report import StatsReport

__all__ = ["Finding", "LayerStats", "StatsReport", "inspect_stats"]


def inspect_stats(
    variables_or_path: Mapping[str, Any] | str | Path,
    *,
    step: str = "best",
    epsilon: float | None = None,
    momentum: float | None = None,
    model: str | None = None,
) -> StatsReport:
    """The report on a checkpoint of any framework, or on a Flax variables dict {"params": …, "batch_stats": …}.

    Args:
        variables_or_path: what to look at: a bncli or Orbax directory, or a file of Flax, Keras, ONNX, PyTorch or
            safetensors; which one it is says its content.
        step: which save of a directory: "best", "last" or a number.
        epsilon: of all layers, where the checkpoint does not store it; else its framework's default is assumed.
        momentum: weight of the old running value (1 − PyTorch's), where the checkpoint does not store it.
        model: the user's own model as file.py:Class or package.module:Class, where a checkpoint of bncli was trained
            with code that has moved or changed, or that the user did not run before.

    Raises:
        CheckpointError: nothing that bncli reads, or it is damaged, or the library for it is not installed.
        UsageError: epsilon or momentum is out of range.
        ModelError: the model's code is missing, or not to be run without being named.
    """
    from bncli.inspection.readers import read
    from bncli.inspection.readers.variables import read_variables

    asked = Asked(step, epsilon, momentum, model)
    if isinstance(variables_or_path, Mapping):
        source, contents = "variables", read_variables(variables_or_path, asked=asked)
    else:
        source, contents = str(variables_or_path), read(Path(variables_or_path), asked)
    return StatsReport(
        source=source,
        format=contents.format,
        layers=tuple(layer_stats(layer) for layer in contents.layers),
        findings=find(contents.layers, file_format=contents.framework or contents.format, path=source),
        notes=contents.notes,
        folded_from=contents.folded_from,
        arrays=contents.layers,
    )
