"""The report on an open checkpoint, whose network can be run: its layers, and its measurements on data.

Apart from ``inspect_stats``, which reads most files without JAX.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

from bncli.checkpoint import Checkpoint, Unsaid, open_checkpoint
from bncli.checkpoint.foreign_arrays import remedy_of
from bncli.data import Dataset
from bncli.data.configured import load_matching
from bncli.errors import CheckpointError, UsageError
from bncli.inspection.findings import find_on_data
from bncli.inspection.live import look_at_data
from bncli.inspection.readers.checkpoint import framework_of, options_of, read_opened
from bncli.inspection.readers.settings import Asked
from bncli.inspection.report import StatsReport, report_of


def inspect_opened(checkpoint: Checkpoint, asked: Asked) -> StatsReport:
    """The report on the layers of an open checkpoint."""
    return report_of(str(checkpoint.path), read_opened(checkpoint, asked), step=asked.step)


def inspect_path(
    path: Path, asked: Asked, unsaid: Unsaid, *, data: Dataset | str | Path | bool | Iterable[object] | None
) -> StatsReport:
    """The report on a checkpoint whose network is known, with measurements if data are given.

    Args:
        path: of the checkpoint.
        asked: the user's options.
        unsaid: the facts that another program's checkpoint does not say.
        data: a data set or its source; True for the checkpoint's own; None for none.
    """
    opened = open_checkpoint(path, step=asked.step, model=asked.model, unsaid=unsaid)
    report = inspect_opened(opened, asked)
    if data is None or data is False:
        return report
    check_can_run(report, path, is_known=True)
    return with_data(report, opened, _dataset(opened, data), asked)


def _dataset(opened: Checkpoint, data: object) -> Dataset:
    """The data set to measure on.

    Raises:
        UsageError: it is no data set and names none.
    """
    if isinstance(data, Dataset):
        return data
    if not (data is True or isinstance(data, str | Path)):
        raise UsageError(
            f"a checkpoint is measured on a data set, not on a {type(data).__name__}",
            remedy="Pass data=True, a name, a folder, a file, or a bncli.data.Dataset.",
        )
    return load_matching(opened.config, source=None if data is True else str(data))


def check_can_run(report: StatsReport, path: Path, *, is_known: bool) -> None:
    """Raise CheckpointError unless the network of a checkpoint has BN and is known, so that it can be run.

    Args:
        report: on the checkpoint.
        path: of the checkpoint.
        is_known: True if bncli trained it, or if the user has named its model.
    """
    if not report.layers:
        raise CheckpointError(
            f"--data: {path} has no BN layer to measure",
            remedy="Leave out --data; the original of a folded checkpoint may still be there.",
        )
    if not is_known:
        raise CheckpointError(
            f"--data: {path} was not written by bncli, so its network is not known and cannot be run",
            remedy=f"{_way_to_run(report, path)} Or leave out --data.",
        )


def _way_to_run(report: StatsReport, path: Path) -> str:
    """The step after which the network of another program's file can be run."""
    described = "Add --model file.py:Class and --input-shape H,W,C"
    if report.format == "safetensors":  # of either kind
        return f"For a network of JAX: {described}. For weights of PyTorch: bncli convert {shlex.quote(str(path))} OUT."
    return f"{described}." if report.format in ("flax-msgpack", "orbax") else remedy_of(path)


def with_data(report: StatsReport, checkpoint: Checkpoint, dataset: Dataset, asked: Asked) -> StatsReport:
    """The report with measurements of the network on data, and their findings."""
    measured = look_at_data(checkpoint, dataset)
    findings = find_on_data(
        measured,
        path=str(checkpoint.path),
        step=asked.step,
        file_format=framework_of(checkpoint) or report.format,
        options=options_of(checkpoint, asked),
    )
    return report.with_data(measured, findings)
