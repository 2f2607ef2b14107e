"""The BN doctor: BN layers in numbers, and the findings about them.

::

    layers       the numbers of each BN layer
    findings     the table of findings; rules/ its functions, remedies its fixes by framework
    readers/     a file of any framework -> layers
    opened       a checkpoint whose network is known, which data can be measured on
    live         measurements on data, held in live_report
    history      the layers over the epochs of a training; comparison: two checkpoints side by side
    report       all of it together; names: layers by the user's patterns
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from bncli.errors import UsageError
from bncli.inspection.findings import Finding
from bncli.inspection.layers import LayerStats
from bncli.inspection.readers.settings import Asked
from bncli.inspection.report import StatsReport, report_of

if TYPE_CHECKING:
    from bncli.config.json_types import JSON
    from bncli.data import Dataset
    from bncli.measure.population import Batches

    # A data set or its source; True for a checkpoint's own; batches of a network's inputs [B, ...].
    Data: TypeAlias = Dataset | str | Path | bool | Iterable[object] | None

__all__ = ["Finding", "LayerStats", "StatsReport", "inspect_stats"]


def inspect_stats(  # noqa: PLR0913 - a network of a file is described by several settings
    source: object,
    *arguments: object,
    step: str | int = "best",
    epsilon: float | None = None,
    momentum: float | None = None,
    model: str | None = None,
    model_args: Mapping[str, JSON] | None = None,
    input_shape: tuple[int, int, int] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    data: Data = None,
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
            trained with code that has moved or changed, or that this user has not run before. With it an Orbax
            directory or a file of Flax, safetensors or Equinox is read with its network: ε, momentum, the order of the
            layers, and measurements on data. Such a checkpoint needs ``input_shape`` too.
        model_args: keyword arguments of that model.
        input_shape: (H, W, C) of one image of another program's network.
        mean: per channel, subtracted from its pixels in [0, 1]; default: 0.
        std: per channel, what is left is divided by it; default: 1.
        data: also measure the network on data. For a checkpoint, a data set, a name, a folder or a file as ``bncli
            train --data`` takes it, or True for its own. For a network, batches of its inputs [B, ...], which also
            tell ε and momentum of linen and Haiku. Batches have no labels, so the scores and output gaps are NaN.

    Raises:
        CheckpointError: bncli cannot read this format, the file is damaged, or the library for it is not installed.
        DataError: the data cannot be read, or are not for this network.
        FoldError: an Equinox model with BN comes without its state.
        UsageError: epsilon or momentum is out of range, or an argument is missing or has no effect.
        ModelError: the model's code is missing, or may not run unless it is named.
    """
    asked = Asked(str(step), epsilon, momentum, model)
    if isinstance(source, str | Path):
        _check_alone(arguments, named)
        described = _Described(model_args or {}, input_shape, mean, std)
        return _of_path(Path(source), asked, described, data)
    if any(given is not None for given in (model, model_args, input_shape, mean, std)):
        raise UsageError(
            "model, model_args, input_shape, mean and std describe the network of a file",
            remedy="Leave them out, or pass the path of a checkpoint.",
        )
    asked = replace(asked, in_memory=True)
    if isinstance(source, Mapping):
        from bncli.inspection.readers.variables import read_variables

        _check_alone(arguments, named)
        if data is not None:
            raise UsageError("variables alone cannot be run on data", remedy="Pass the network with them.")
        return report_of("variables", read_variables(source, asked=asked), step=asked.step)
    return _of_network(source, arguments, named, asked, data)


class _Described(NamedTuple):
    """The facts that another program's checkpoint does not say, as ``bncli.checkpoint.Unsaid`` holds them."""

    model_args: Mapping[str, JSON]
    image_shape: tuple[int, int, int] | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None


def _of_path(path: Path, asked: Asked, described: _Described, data: Data) -> StatsReport:
    """The report on a file; only one whose network is known, or asked for, is read with JAX."""
    from bncli.inspection.readers import detect, read

    if detect(path) != "bncli" and asked.model is None:
        if data is not None or any(described):
            raise UsageError(
                f"{path} was not written by bncli, so its network is not known",
                remedy='Name its code: inspect_stats(path, model="file.py:Class", input_shape=(H, W, C)).',
            )
        return report_of(str(path), read(path, asked), step=asked.step)
    from bncli.checkpoint import Unsaid
    from bncli.inspection.opened import inspect_path

    return inspect_path(path, asked, Unsaid(**described._asdict()), data=data)


def _of_network(
    network: object, arguments: tuple[object, ...], named: Mapping[str, object], asked: Asked, data: Data
) -> StatsReport:
    from bncli.frameworks.adapt import adapted, bound, framework_of
    from bncli.inspection.readers.network import read_network

    framework = framework_of(network)
    if framework is None:
        raise UsageError(
            f"bncli.inspect_stats cannot read a {type(network).__name__}",
            remedy="Pass a path, a variables dict, or a network of Flax, Equinox, Haiku or Keras.",
        )
    given = bound(framework, "inspect_stats", "", arguments, named)
    name = type(network).__name__
    batches = None if data is None else _batches(data)
    report = report_of(name, read_network(network, framework, given, asked=asked, batches=batches), step=asked.step)
    if batches is None:
        return report
    from bncli.inspection.findings import find_on_data
    from bncli.inspection.live import look_at_batches

    measured = look_at_batches(adapted(network, framework, given, eval_mode=True), batches)
    return report.with_data(measured, find_on_data(measured, path=name, file_format=report.format))


def _batches(data: Data) -> Batches:
    """The batches of a network's inputs.

    Raises:
        UsageError: the data are something else, or can be read only once.
    """
    from bncli.measure.population import whole_batches

    if not isinstance(data, Iterable) or isinstance(data, str):
        raise UsageError(
            f"bncli.inspect_stats cannot run a network on {data!r}",
            remedy="Pass batches of its inputs: data=[x, ...], with x [B, ...].",
        )
    return whole_batches(data)


def _check_alone(arguments: tuple[object, ...], named: Mapping[str, object]) -> None:
    if arguments or named:
        raise UsageError("bncli.inspect_stats takes further arrays with a network only")
