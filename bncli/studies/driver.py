"""The driver of a study: it measures the missing cells, alone or with others, and draws the conclusions.

It knows no experiment: each says which cells it needs, how one is measured, and what the results mean.
"""

from __future__ import annotations

import csv
import io
import json
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bncli.config.json_types import JSON
from bncli.data import Dataset, ImageOptions, load_dataset
from bncli.data.load import holds_image_files
from bncli.errors import BncliWarning, TrainingInterruptedError, UsageError
from bncli.process.child import Answer, run_child
from bncli.process.hardware import hardware, versions
from bncli.studies import drawing
from bncli.studies.cells import CellStore, write_result
from bncli.studies.data import StudyData
from bncli.studies.experiment import Cell, Experiment, Figure, Plan, Results
from bncli.studies.experiments import experiments
from bncli.studies.report import DataFacts, Outcome, StudyReport
from bncli.studies.training import Measured

# A folder of photographs is scaled to this many pixels: the networks of a study are small.
IMAGE_SIZE = 28
# Between looks at cells that another process measures.
_WAIT = 0.5


@dataclass(frozen=True)
class Shard:
    """One of several equal parts of a study's cells.

    Attributes:
        number: from 1.
        count: number of parts.
    """

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise UsageError(f"--shard {self.number}/{self.count}: no such part", remedy="Write 1/4, 2/4, 3/4, 4/4.")

    def part(self, cells: Sequence[Cell]) -> Sequence[Cell]:
        """Every ``count``-th cell."""
        return cells[self.number - 1 :: self.count]


@dataclass(frozen=True)
class Progress:
    """The progress of a study, after a cell.

    Attributes:
        experiment: of the cell.
        done: cells that are measured, by any process.
        total: cells of this process's part.
        seconds_left: an estimate from the cells so far; None before there is one.
    """

    experiment: str
    done: int
    total: int
    seconds_left: float | None


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """The settings of a study.

    Attributes:
        names: experiments; () for all of them.
        data: a known name, a folder or a file.
        data_dir: the first place to look for a data set known by name.
        out: the directory of the study.
        seeds: repetitions of each training.
        quick: True for fewer steps and coarser grids.
        jobs: processes that share the work.
        shard: the part of the cells to measure.
    """

    names: tuple[str, ...] = ()
    data: str = "digits"
    data_dir: str | None = None
    out: str = "study"
    seeds: int = 5
    quick: bool = False
    jobs: int = 1
    shard: Shard = Shard()

    @property
    def plan(self) -> Plan:
        """The size of the study.

        Raises:
            UsageError: there is no seed.
        """
        if self.seeds < 1:
            raise UsageError(f"--seeds {self.seeds}: a study needs a seed", remedy="Use 5; an interval needs 2.")
        return Plan(seeds=self.seeds, quick=self.quick)

    def load(self) -> Dataset:
        """The data set.

        Raises:
            DataError: it cannot be read.
        """
        images = ImageOptions(size=IMAGE_SIZE) if holds_image_files(self.data) else None
        return load_dataset(self.data, data_dir=Path(self.data_dir) if self.data_dir else None, images=images)


def study(
    names: Iterable[str] = (),
    *,
    data: str | Path | Dataset = "digits",
    out: str | Path = "study",
    seeds: int = 5,
    quick: bool = False,
    jobs: int = 1,
    on_progress: Callable[[Progress], None] | None = None,
) -> StudyReport:
    """Re-run claims about Batch Normalization, as the command ``bncli study`` does.

    Cells, tables and figures are written to ``out``. A second call with the same directory measures only what is
    missing there.

    Args:
        names: experiments; () for all of them.
        data: a known name, a folder, a file, or a data set that is loaded already.
        out: the directory of the study.
        seeds: repetitions of each training.
        quick: fewer steps and coarser grids.
        jobs: processes that share the work.
        on_progress: called after each cell.

    Returns:
        The verdicts with their numbers.

    Raises:
        UsageError: there is no such experiment, or several jobs are to use a data set in memory.
        DataError: the data cannot be read.
        BncliError: the directory cannot be used.
    """
    loaded = data if isinstance(data, Dataset) else None
    if jobs > 1 and loaded is not None:
        raise UsageError("several jobs each read the data themselves", remedy="Name the data, or use jobs=1.")
    settings = StudySettings(
        names=tuple(names),
        data=loaded.source if loaded else str(data),
        out=str(out),
        seeds=seeds,
        quick=quick,
        jobs=jobs,
    )
    return run_study(settings, dataset=loaded, on_progress=on_progress)


def run_study(
    settings: StudySettings,
    *,
    dataset: Dataset | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> StudyReport:
    """Measure what is missing and draw the conclusions, unless cells of other shards are missing.

    Args:
        settings: of the study.
        dataset: the data set, if it is loaded already.
        on_progress: called after each cell.
        should_stop: asked before each cell; True ends the study, which keeps what is done.

    Raises:
        TrainingInterruptedError: ``should_stop`` said so.
        BncliError: see ``study``.
    """
    chosen, plan = chosen_experiments(settings.names), settings.plan
    data = StudyData.of(dataset or settings.load())
    out = Path(settings.out)
    store = CellStore(out, data.sha256)
    cells = [cell for experiment in chosen for cell in experiment.cells(plan)]
    mine = settings.shard.part(cells)
    with _Helpers(settings):
        done_here = _measure(mine, store, data, on_progress, should_stop)
    results, seconds = _read(cells, store)
    while damaged := [cell for cell in mine if cell not in results]:
        done_here += _measure(damaged, store, data, on_progress, should_stop)
        results, seconds = _read(cells, store)
    outcomes = _outcomes(chosen, plan, results) if len(results) == len(cells) else ()
    if outcomes:
        store.write_table(cells)
    return StudyReport(
        out=out,
        plan=plan,
        data=_facts(data),
        outcomes=outcomes,
        versions=versions(),
        hardware=hardware(),
        num_cells=len(cells),
        num_missing=len(cells) - len(results),
        num_done_here=done_here,
        seconds=seconds,
        files=tuple(_write_figures(out, outcomes)),
        has_pictures=drawing.is_available(),
    )


def chosen_experiments(names: Iterable[str]) -> tuple[Experiment, ...]:
    """The experiments of these names, in the order of the report; all for no name.

    Raises:
        UsageError: there is no such experiment.
    """
    wanted = list(names)
    for name in wanted:
        if name not in experiments():
            raise UsageError(f"no experiment {name!r}", remedy=f"Choose some of {', '.join(experiments())}.")
    return tuple(experiment for name, experiment in experiments().items() if not wanted or name in wanted)


def _measure(
    cells: Sequence[Cell],
    store: CellStore,
    data: StudyData,
    on_progress: Callable[[Progress], None] | None,
    should_stop: Callable[[], bool],
) -> int:
    """Measure the cells that nobody has measured; return the number of them when all are there."""
    clock = _Clock(cells, store, on_progress)
    waiting, done_here = list(cells), 0
    while waiting:
        left = []
        for cell in waiting:
            if should_stop():
                done = sum(map(store.has, cells))
                raise TrainingInterruptedError(
                    f"stopped with {done} of {len(cells)} cells measured",
                    remedy="Run the same command again: it goes on with the others.",
                )
            outcome = _measure_if_free(cell, store, data)
            if outcome is None:
                left.append(cell)
            else:
                done_here += outcome
                clock.after(cell, measured=outcome)
        if len(left) == len(waiting):
            time.sleep(_WAIT)
        waiting = left
    return done_here


def _measure_if_free(cell: Cell, store: CellStore, data: StudyData) -> bool | None:
    """True if the cell has been measured here, False if it was measured before, None if another process measures it."""
    if store.has(cell):
        return False
    with store.claimed(cell) as is_mine:
        if not is_mine:
            return None
        if store.has(cell):  # finished by another process between the two looks
            return False
        started = time.perf_counter()
        measured = experiments()[cell.experiment].measure(cell, data)
        store.write(cell, measured, time.perf_counter() - started)
    return True


class _Clock:
    """Reports progress, with an estimate of the time that is left."""

    def __init__(self, cells: Sequence[Cell], store: CellStore, on_progress: Callable[[Progress], None] | None) -> None:
        self._cells, self._store, self._on_progress = cells, store, on_progress
        self._started = time.perf_counter()
        self._before = sum(map(store.has, cells))

    def after(self, cell: Cell, *, measured: bool) -> None:
        """Report the progress after a cell that has been measured here."""
        if self._on_progress is None or not measured:
            return
        done, total = sum(map(self._store.has, self._cells)), len(self._cells)
        new = done - self._before
        left = (time.perf_counter() - self._started) / new * (total - done) if new > 0 else None
        self._on_progress(Progress(cell.experiment, done, total, left))


class _Helpers:
    """Processes that measure cells of the same study until none is left."""

    def __init__(self, settings: StudySettings) -> None:
        request = json.loads(json.dumps(asdict(settings)))
        self._threads = [
            threading.Thread(target=self._run, args=(request,), daemon=True) for _ in range(settings.jobs - 1)
        ]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            for thread in self._threads:
                thread.join()

    @staticmethod
    def _run(request: JSON) -> None:
        result = run_child("bncli.studies.driver:serve", request)
        if result.error is not None or result.end.code != 0:
            reason = result.error.message if result.error else str(result.end)
            warnings.warn(f"a process of the study ended: {reason}", BncliWarning, stacklevel=1)


def serve(request: JSON) -> Iterator[Answer]:
    """Measure cells of a study in a process of its own; the request is its ``StudySettings``."""
    from bncli.process.configure import configure

    configure()
    settings = StudySettings(**{**request, "names": tuple(request["names"]), "shard": Shard(**request["shard"])})
    chosen, plan = chosen_experiments(settings.names), settings.plan
    mine = settings.shard.part([cell for experiment in chosen for cell in experiment.cells(plan)])
    data = StudyData.of(settings.load())
    # From the other end, so that two processes meet late and compile different programs.
    done = _measure(mine[::-1], CellStore(Path(settings.out), data.sha256), data, None, lambda: False)
    yield Answer({"done": done})


def _read(cells: Sequence[Cell], store: CellStore) -> tuple[dict[Cell, Measured], float]:
    """(the results that are there, the wall time that they took)."""
    found = {cell: stored for cell in cells if (stored := store.read(cell)) is not None}
    return {cell: stored.measured for cell, stored in found.items()}, sum(stored.seconds for stored in found.values())


def _outcomes(chosen: Sequence[Experiment], plan: Plan, results: Results) -> tuple[Outcome, ...]:
    return tuple(
        outcome_of(experiment, {cell: results[cell] for cell in experiment.cells(plan)}) for experiment in chosen
    )


def outcome_of(experiment: Experiment, results: Results) -> Outcome:
    """The conclusion of one experiment from the results of its cells."""
    return Outcome(
        experiment=experiment,
        conclusion=experiment.conclude(results),
        num_cells=len(results),
        num_runs=sum(len(cell.run.lanes) for cell in results),
        num_diverged=int(sum(measured["diverged"].sum() for measured in results.values())),
    )


def _facts(data: StudyData) -> DataFacts:
    counts = [len(examples.labels) for examples in (data.train, data.val, data.test)]
    return DataFacts(data.name, data.sha256, *counts)


def _write_figures(out: Path, outcomes: Iterable[Outcome]) -> Iterator[Path]:
    """Write each figure's data as CSV and, if Matplotlib is there, its pictures."""
    for outcome in outcomes:
        for figure in outcome.conclusion.figures:
            files = {".csv": csv_table(figure).encode()}
            if drawing.is_available():
                picture = drawing.draw(figure)
                files |= {".svg": picture.svg.encode(), ".png": picture.png}
            for suffix, content in files.items():
                path = out / f"{figure.name}{suffix}"
                write_result(path, content)
                yield path


def csv_table(figure: Figure) -> str:
    """The data of a figure, one row a point."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["series", "x", "y", "low", "high", "diverged"])
    for series in figure.series:
        ends = [end or ("",) * len(series.x) for end in (series.low, series.high)]
        for x, y, low, high in zip(series.x, series.y, *ends, strict=True):
            rows.writerow([series.label, x, y, low, high, int(x in series.crosses)])
    return text.getvalue()
