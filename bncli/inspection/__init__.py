"""The BN doctor: BN layers in numbers, and the findings about them.

::

    layers       the numbers of each BN layer
    findings     the table of findings; rules/ its functions, remedies its fixes by framework
    readers/     a file of any framework -> layers
    live         measurements on data, held in live_report
    history      the layers over the epochs of a training; comparison: two checkpoints side by side
    report       all of it together; names: layers by the user's patterns
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bncli.inspection.findings import Finding, find
from bncli.inspection.layers import LayerStats, layer_stats
from bncli.inspection.readers.settings import Asked
from bncli.inspection.report import StatsReport

__all__ = ["Finding", "LayerStats", "StatsReport", "inspect_stats"]


def inspect_stats(
    variables_or_path: Mapping[str, object] | str | Path,
    *,
    step: str = "best",
    epsilon: float | None = None,
    momentum: float | None = None,
    model: str | None = None,
) -> StatsReport:
    """Inspect a checkpoint of any framework, or a Flax variables dict {"params": …, "batch_stats": …}.

    Args:
        variables_or_path: variables, a bncli or Orbax directory, or a file of Flax, Keras, ONNX, PyTorch or
            safetensors. The format is detected from the content.
        step: the save of a directory: "best", "last" or a number.
        epsilon: used for layers whose checkpoint does not store it; default: the framework's own.
        momentum: weight of the old running value (1 − PyTorch's), used like ``epsilon``.
        model: the user's own model as file.py:Class or package.module:Class. Needed if a checkpoint of bncli was
            trained with code that has moved or changed, or that this user has not run before.

    Raises:
        CheckpointError: bncli cannot read this format, the file is damaged, or the library for it is not installed.
        UsageError: epsilon or momentum is out of range.
        ModelError: the model's code is missing, or may not run unless it is named.
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
