"""``bncli report``: everything that is known about one run, and what sets several runs apart."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bncli import checkpoint as checkpoints
from bncli.checkpoint import Checkpoint
from bncli.config.document import CheckpointConfig
from bncli.config.json_types import Document
from bncli.config.options import options
from bncli.data import Dataset
from bncli.errors import CheckpointError
from bncli.inspection import StatsReport, inspect_stats
from bncli.jobs.inspect import with_history
from bncli.jobs.mistakes import Mistakes, find_mistakes
from bncli.measure.score import EvalResult
from bncli.process.files import read_regular
from bncli.training.progress import Best, EpochResult, RunProgress
from bncli.training.saving import read_progress

ReportSplit = Literal["val", "test"]
# A report of the fold of a network with thousands of layers stays below this.
_MAX_FOLD_REPORT = 64 << 20


@dataclass(frozen=True)
class SettingValue:
    """A setting of a run beside its default.

    Attributes:
        key: its path, such as "training.epochs".
        flag: its name on the command line.
        value: of the run.
        default: of the program.
    """

    key: str
    flag: str
    value: object
    default: object

    @property
    def differs(self) -> bool:
        """True if the run does not use the default."""
        return self.value != self.default


@dataclass(frozen=True)
class Scored:
    """The score on a split.

    Attributes:
        split: "val" or "test".
        dataset: name of the data set.
        is_own: True if these are the data of the training.
        mistakes: the scores, and the examples that are wrong.
    """

    split: ReportSplit
    dataset: str
    is_own: bool
    mistakes: Mistakes


@dataclass(frozen=True)
class NormRecord:
    """One BN layer in the record of a fold: folded into which operations, or kept for which reason."""

    name: str
    is_folded: bool
    into: tuple[str, ...]
    reason: str


@dataclass(frozen=True, kw_only=True)
class FoldRecord:
    """The record of a fold, from ``fold_report.json``.

    Attributes:
        norms: the BN layers.
        examples: a description of the images of the proof.
        max_rel_error: the largest relative error of a logit.
        tolerance: the largest one that was allowed.
        top1_agreement: share of images for which both networks predict the same class.
        latency: milliseconds at batch 1, before and after.
    """

    norms: tuple[NormRecord, ...]
    examples: str
    max_rel_error: float
    tolerance: float
    top1_agreement: float
    latency: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """Everything that is known about one run.

    Attributes:
        checkpoint: its directory, or an ONNX file.
        step: of the save that was read.
        config: the content of its ``config.json``.
        history: one row an epoch; empty if none is recorded.
        best: the best epoch; None if there is no history.
        stats: its BN layers, with findings and history.
        scored: the score on a split; None if the data are not available.
        unscored: the reason for that; "" if there is a score.
        test: the test score of the training that has just ended; None otherwise.
        sha256: of each part of the variables.
        fold: the record of the fold of a folded checkpoint; None for another one.
    """

    checkpoint: Path
    step: int
    config: CheckpointConfig
    history: tuple[EpochResult, ...]
    best: Best | None
    stats: StatsReport
    scored: Scored | None
    unscored: str
    test: EvalResult | None
    sha256: dict[str, str]
    fold: FoldRecord | None

    @property
    def settings(self) -> tuple[SettingValue, ...]:
        """All settings of the run, those that differ from the defaults first."""
        run = self.config.run
        found = [
            SettingValue(option.key, option.flag, getattr(getattr(run, option.section), option.field), option.default)
            for option in options()
        ]
        return tuple(sorted(found, key=lambda setting: not setting.differs))


@dataclass(frozen=True)
class Difference:
    """A setting, or another fact, in which runs differ; one value a run."""

    key: str
    values: tuple[object, ...]


def report_run(
    checkpoint: Checkpoint,
    dataset: Dataset | None,
    *,
    split: ReportSplit = "val",
    is_own: bool = True,
    unscored: str = "",
    model: str | None = None,
    test: EvalResult | None = None,
) -> RunReport:
    """Gather what is known about a run.

    Args:
        checkpoint: trained or folded.
        dataset: to score it on; None to leave that out.
        split: the split to score.
        is_own: True if ``dataset`` is the one of the training.
        unscored: why there is no data set.
        model: the model's code, if it has moved.
        test: the test score of the training that has just ended.

    Raises:
        CheckpointError: a file of the checkpoint is damaged.
        DataError: the data have another number of classes than the network.
    """
    progress = _progress(checkpoint)
    return RunReport(
        checkpoint=checkpoint.path,
        step=checkpoint.step,
        config=checkpoint.config,
        history=progress.history if progress else (),
        best=progress.best if progress else None,
        stats=_stats(checkpoint, model),
        scored=None if dataset is None else _score(checkpoint, dataset, split, is_own=is_own),
        unscored=unscored,
        test=test,
        sha256={name: checkpoints.sha256_tree(part) for name, part in checkpoint.variables.items() if part},
        fold=_fold_record(checkpoint),
    )


def differences(runs: Sequence[RunReport]) -> Iterator[Difference]:
    """The settings and facts in which the runs differ."""
    for option in options():
        values = tuple(getattr(getattr(run.config.run, option.section), option.field) for run in runs)
        if any(value != values[0] for value in values):
            yield Difference(option.key, values)
    facts: dict[str, list[object]] = {
        "data SHA-256": [run.config.dataset.sha256[:12] if run.config.dataset else None for run in runs],
        "image size": ["×".join(map(str, run.config.preprocessing.image_shape)) for run in runs],
        "folded": [run.config.folded_from is not None for run in runs],
        "recalibrated": [run.config.recalibrated is not None for run in runs],
    }
    names = sorted({name for run in runs for name in run.config.versions})
    facts |= {f"version of {name}": [run.config.versions.get(name) for run in runs] for name in names}
    for key, found in facts.items():
        if any(value != found[0] for value in found):
            yield Difference(key, tuple(found))


def _progress(checkpoint: Checkpoint) -> RunProgress | None:
    """The progress of the whole run, which goes on after its best epoch; None if none is recorded."""
    if "history" not in checkpoint.progress:
        return None
    return read_progress(checkpoint.path, checkpoints.find_step(checkpoint.path, "last"))


def _stats(checkpoint: Checkpoint, model: str | None) -> StatsReport:
    if checkpoint.path.is_file():
        return inspect_stats(checkpoint.path)
    found = inspect_stats(checkpoint.path, step=str(checkpoint.step), model=model)
    return with_history(found, checkpoint.path) if checkpoint.progress else found


def _score(checkpoint: Checkpoint, dataset: Dataset, split: ReportSplit, *, is_own: bool) -> Scored:
    examples = dataset.val if split == "val" else dataset.test
    return Scored(split, dataset.name, is_own, find_mistakes(checkpoint, examples, dataset.class_names))


def _fold_record(checkpoint: Checkpoint) -> FoldRecord | None:
    path = checkpoint.path / checkpoints.FOLD_REPORT
    if checkpoint.config.folded_from is None or not path.is_file():
        return None
    try:
        return _parsed(json.loads(read_regular(path, limit=_MAX_FOLD_REPORT)))
    except (KeyError, OSError, OverflowError, RecursionError, TypeError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}", remedy="Fold the original checkpoint again.") from None


def _parsed(document: Document) -> FoldRecord:
    proof, latency = document["verification"], document["latency_ms"]
    return FoldRecord(
        norms=tuple(
            NormRecord(
                str(row["name"]), row["status"] == "folded", tuple(map(str, row["into"])), str(row["reason"] or "")
            )
            for row in document["norms"]
        ),
        examples=str(proof["examples"]),
        max_rel_error=float(proof["max_rel_error"]),
        tolerance=float(proof["tolerance"]),
        top1_agreement=float(proof["top1_agreement"]),
        latency=(float(latency["original"]), float(latency["folded"])),
    )
