"""The result of a study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bncli.process.hardware import Hardware
from bncli.studies.experiment import Conclusion, Experiment, Plan


@dataclass(frozen=True)
class Outcome:
    """The result of one experiment.

    Attributes:
        experiment: the claim and its rule.
        conclusion: the verdict, with its numbers and figures.
        num_cells: cells that it read.
        num_runs: trainings in them.
        num_diverged: trainings whose weights became infinite.
    """

    experiment: Experiment
    conclusion: Conclusion
    num_cells: int
    num_runs: int
    num_diverged: int


@dataclass(frozen=True)
class DataFacts:
    """The data set of a study.

    Attributes:
        name: of the data set.
        sha256: of all images and labels.
        num_train: training images.
        num_val: validation images that were scored.
        num_test: test images that were scored.
    """

    name: str
    sha256: str
    num_train: int
    num_val: int
    num_test: int


@dataclass(frozen=True)
class StudyReport:
    """The result of a study.

    Attributes:
        out: its directory.
        plan: its size.
        data: the data set.
        outcomes: one for each experiment; () if cells are missing.
        versions: of the packages that computed it, by name.
        hardware: of the process that wrote it.
        num_cells: cells of all experiments.
        num_missing: cells that other shards have yet to measure.
        num_done_here: cells that this process measured.
        seconds: wall time of all cells, whoever measured them.
        files: the figures and tables that were written.
        has_pictures: True if the figures were drawn; False if Matplotlib is not installed.
    """

    out: Path
    plan: Plan
    data: DataFacts
    outcomes: tuple[Outcome, ...]
    versions: Mapping[str, str]
    hardware: Hardware
    num_cells: int
    num_missing: int
    num_done_here: int
    seconds: float
    files: tuple[Path, ...]
    has_pictures: bool
