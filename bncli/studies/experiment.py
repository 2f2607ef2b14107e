"""The form of an experiment: its cells, their measurement, and the conclusion that is drawn from the results.

An experiment is one file in ``studies/experiments/`` that defines ``EXPERIMENT``. The driver knows none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, TypeVar

import numpy as np

from bncli.studies.data import StudyData
from bncli.studies.statistics import Comparison, Verdict
from bncli.studies.training import Lane, Measured, Run, train

# Learning rates that a side may choose its own from.
RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
QUICK_RATES = (0.01, 0.1, 1.0)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The size of a study.

    Attributes:
        seeds: repetitions, with the seeds 0, 1, ….
        quick: True for fewer steps and coarser grids.
    """

    seeds: int = 5
    quick: bool = False

    @property
    def rates(self) -> tuple[float, ...]:
        """The learning rates to choose from."""
        return QUICK_RATES if self.quick else RATES

    def steps(self, full: int) -> int:
        """The steps of a training: ``full``, or two fifths of it."""
        return full * 2 // 5 if self.quick else full


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The unit of work: what it measures depends on these settings and the data alone.

    Attributes:
        experiment: name of the experiment.
        side: of the comparison, such as "BN".
        run: the trainings.
        revision: of the experiment's code; a change of what it measures raises it.
    """

    experiment: str
    side: str
    run: Run
    revision: int = 1


Results: TypeAlias = Mapping[Cell, Measured]
Side = TypeVar("Side")


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line or set of points of a figure.

    Attributes:
        label: for the legend.
        x: places.
        y: values; NaN where there is none.
        low: lower end of a band or bar; None for none.
        high: upper end.
        crosses: places where runs diverged, marked at the bottom.
    """

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    crosses: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Figure:
    """The data of a figure.

    Attributes:
        name: of its files, unique in the study.
        title: the finding or the quantity, in one line.
        x: label of the axis.
        y: label of the axis.
        series: lines, in the order of the legend.
        x_log: "" for a linear scale, or the base of a logarithmic one.
        y_log: True for a logarithmic scale.
        note: what a reader must know, such as the meaning of a band.
    """

    name: str
    title: str
    x: str
    y: str
    series: tuple[Series, ...]
    x_log: Literal["", "2", "10"] = ""
    y_log: bool = False
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """The result of an experiment.

    Attributes:
        verdict: about the claim.
        sentence: the numbers in one sentence.
        comparisons: what the verdict follows from.
        figures: the data, drawn.
    """

    verdict: Verdict
    sentence: str
    comparisons: tuple[Comparison, ...]
    figures: tuple[Figure, ...]


def trained(cell: Cell, data: StudyData) -> Measured:
    """The curves of a cell's trainings, which most experiments need no more than."""
    return train(cell.run, data)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One claim, and the way to test it.

    Attributes:
        name: on the command line.
        order: place in lists.
        claim: what is said about BN.
        source: who says or disputes it, with the numbers.
        rule: the comparison and the margin that decide the verdict, fixed before a study runs.
        cells: the cells of a plan.
        measure: measures a cell; by default its curves.
        conclude: reads the results of all cells.
    """

    name: str
    order: int
    claim: str
    source: str
    rule: str
    cells: Callable[[Plan], Sequence[Cell]] = field(repr=False)
    measure: Callable[[Cell, StudyData], Measured] = field(repr=False, default=trained)
    conclude: Callable[[Results], Conclusion] = field(repr=False)


def cells_of(experiment: str, sides: Mapping[str, Side], plan: Plan, run: Callable[[Side, int], Run]) -> list[Cell]:
    """One cell for each side and seed.

    Args:
        experiment: its name.
        sides: of the comparison, by name.
        plan: says how many seeds there are.
        run: (side, seed) -> the trainings.
    """
    return [
        Cell(experiment=experiment, side=name, run=run(side, seed))
        for name, side in sides.items()
        for seed in range(plan.seeds)
    ]


def lanes_of(rates: Sequence[float]) -> tuple[Lane, ...]:
    """One lane for each learning rate."""
    return tuple(Lane(learning_rate=rate) for rate in rates)


def stacked(results: Results, side: str, name: str, **settings: float) -> np.ndarray:
    """An array of the cells of one side, with an axis of seeds in front.

    Args:
        results: of the experiment.
        side: of the comparison.
        name: of the array.
        settings: values that fields of the run must have, such as ``batch_size=2``.
    """
    cells = [
        cell
        for cell in results
        if cell.side == side and all(getattr(cell.run, key) == value for key, value in settings.items())
    ]
    return np.stack([results[cell][name] for cell in sorted(cells, key=lambda cell: cell.run.seed)])


def rates_of(results: Results, side: str) -> np.ndarray:
    """The learning rates of a side's lanes, [L]."""
    run = next(cell.run for cell in results if cell.side == side)
    return np.array([lane.learning_rate for lane in run.lanes])


def best_lane(val_accuracy: np.ndarray) -> int:
    """The lane with the best validation accuracy at the end, averaged over the seeds of [seeds, P, L]."""
    return int(np.argmax(val_accuracy[:, -1].mean(axis=0)))


def best_rate(results: Results, side: str, **settings: float) -> float:
    """The learning rate of a side's best lane."""
    return float(rates_of(results, side)[best_lane(stacked(results, side, "val_accuracy", **settings))])


def at_best_rate(results: Results, side: str, name: str, **settings: float) -> np.ndarray:
    """An array of one side at its own best learning rate: [seeds, P, L, …] -> [seeds, P, …]."""
    lane = best_lane(stacked(results, side, "val_accuracy", **settings))
    chosen: np.ndarray = stacked(results, side, name, **settings)[:, :, lane]
    return chosen


def curve(label: str, x: Sequence[float] | np.ndarray, values: np.ndarray, crosses: Iterable[float] = ()) -> Series:
    """The mean over seeds of values [seeds, points], with a band from the least to the greatest."""
    y, low, high = values.mean(axis=0), values.min(axis=0), values.max(axis=0)
    return Series(
        label=label,
        x=tuple(map(float, x)),
        y=tuple(map(float, y)),
        low=tuple(map(float, low)),
        high=tuple(map(float, high)),
        crosses=tuple(map(float, crosses)),
    )


def points_of(accuracy: float) -> str:
    """An accuracy in percent, such as "97.2 %"."""
    return f"{100 * accuracy:.1f} %"
