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
from typing import TYPE_CHECKING

from bncli.errors import UsageError
from bncli.inspection.findings import Finding, find
from bncli.inspection.layers import LayerStats, layer_stats
from bncli.inspection.readers.settings import Asked
from bncli.inspection.report import StatsReport

if TYPE_CHECKING:
    from bncli.inspection.readers.contents import Contents

__all__ = ["Finding", "LayerStats", "StatsReport", "inspect_stats"]


def inspect_stats(
    source: object,
    *arguments: object,
    step: str | int = "best",
    epsilon: float | None = None,
    momentum: float | None = None,
    model: str | None = None,
    **named: object,
) -> StatsReport:
    """Inspect the BN layers of a checkpoint, of a variables dict {"params": …, "batch_stats": …}, or of a network.

    ============================================= ============================================
    ``inspect_stats(path)``                       a checkpoint of any framework
    ``inspect_stats(variables)``                  the variables of a linen module
    ``inspect_stats(module)``                     an NNX module
    ``inspect_stats(model, state=state)``         an Equinox model
    ``inspect_stats(transformed, params, state)`` a function transformed by Haiku
    ``inspect_stats(model)``                      a Keras model on JAX
    ============================================= ============================================

    Args:
        source: a bncli or Orbax directory, or a file of Flax, Keras, ONNX, PyTorch or safetensors, whose format is
            detected from the content; or variables; or a network.
        arguments: the arrays of a network that does not hold them, as in the table; `named`: the same by name.
        step: the save of a directory: "best", "last" or a number.
        epsilon: used for layers whose checkpoint does not store it; default: the framework's own.
        momentum: weight of the old running value (1 − PyTorch's), used like ``epsilon``.
        model: the user's own model as file.py:Class or package.module:Class. Needed if a checkpoint of bncli was
            trained with code that has moved or changed, or that this user has not run before.

    Raises:
        CheckpointError: bncli cannot read this format, the file is damaged, or the library for it is not installed.
        FoldError: an Equinox model with BN comes without its state.
        UsageError: epsilon or momentum is out of range, or an argument is missing.
        ModelError: the model's code is missing, or may not run unless it is named.
    """
    place, contents = _contents(source, arguments, named, Asked(str(step), epsilon, momentum, model))
    return StatsReport(
        source=place,
        format=contents.format,
        layers=tuple(layer_stats(layer) for layer in contents.layers),
        findings=find(contents.layers, file_format=contents.framework or contents.format, path=place, step=str(step)),
        notes=contents.notes,
        folded_from=contents.folded_from,
        arrays=contents.layers,
    )


def _contents(
    source: object, arguments: tuple[object, ...], named: Mapping[str, object], asked: Asked
) -> tuple[str, Contents]:
    """The layers of anything, and the words for it."""
    if isinstance(source, str | Path):
        from bncli.inspection.readers import read

        _check_alone(arguments, named)
        return str(source), read(Path(source), asked)
    if isinstance(source, Mapping):
        from bncli.inspection.readers.variables import read_variables

        _check_alone(arguments, named)
        return "variables", read_variables(source, asked=asked)
    from bncli.frameworks.adapt import bound, framework_of
    from bncli.inspection.readers.network import read_network

    framework = framework_of(source)
    if framework is None:
        raise UsageError(
            f"bncli.inspect_stats cannot read a {type(source).__name__}",
            remedy="Pass a path, a variables dict, or a network of Flax, Equinox, Haiku or Keras.",
        )
    given = bound(framework, "inspect_stats", "", arguments, named)
    return type(source).__name__, read_network(source, framework, given, asked=asked)


def _check_alone(arguments: tuple[object, ...], named: Mapping[str, object]) -> None:
    if arguments or named:
        raise UsageError("bncli.inspect_stats takes further arrays with a network only")
