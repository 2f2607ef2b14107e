"""``learning-rate``: with BN, a network learns at larger learning rates."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bncli.studies.experiment import (
    Cell,
    Conclusion,
    Experiment,
    Figure,
    Plan,
    Results,
    cells_of,
    curve,
    lanes_of,
    points_of,
    rates_of,
    stacked,
)
from bncli.studies.network import Net
from bncli.studies.statistics import Comparison
from bncli.studies.training import Run

NAME = "learning-rate"
SIDES = {"BN": "batch", "none": "none"}
GRID = tuple(10 ** (exponent / 2) for exponent in range(-6, 5))  # 0.001 … 100
QUICK_GRID = tuple(10.0**exponent for exponent in range(-3, 3))
# An accuracy this far below a side's best still counts as usable.
USABLE = 0.05
MARGIN = math.log(2)


def cells(plan: Plan) -> Sequence[Cell]:
    """Both sides over the grid."""
    lanes, steps = lanes_of(QUICK_GRID if plan.quick else GRID), plan.steps(400)

    def run(norm: str, seed: int) -> Run:
        return Run(net=Net(norm=norm), lanes=lanes, seed=seed, steps=steps)

    return cells_of(NAME, SIDES, plan, run)


def largest_usable(rates: np.ndarray, accuracy: np.ndarray) -> float:
    """The largest rate whose accuracy is within 5 points of the best, with rates [L] and accuracy [L]."""
    return float(rates[accuracy >= accuracy.max() - USABLE].max())


def conclude(results: Results) -> Conclusion:
    """Compare the largest usable rates of the two sides, seed by seed."""
    rates = rates_of(results, "BN")
    accuracy = {side: stacked(results, side, "test_accuracy")[:, -1] for side in SIDES}  # [seeds, L]
    usable = {side: [largest_usable(rates, row) for row in accuracy[side]] for side in SIDES}
    ratio = Comparison(
        name="largest usable learning rate, BN / none",
        values=tuple(math.log(bn / none) for bn, none in zip(usable["BN"], usable["none"], strict=True)),
        margin=MARGIN,
        is_ratio=True,
    )
    best = {side: float(accuracy[side].mean(axis=0).max()) for side in SIDES}
    typical = {side: float(np.exp(np.mean(np.log(usable[side])))) for side in SIDES}
    sentence = (
        f"The largest usable learning rate is {typical['BN']:.2g} with BN and {typical['none']:.2g} without, a factor "
        f"of {ratio.shown.mean:.3g}. At its best rate each side reaches {points_of(best['BN'])} and "
        f"{points_of(best['none'])}."
    )
    series = [
        curve(side, rates, accuracy[side], rates[stacked(results, side, "diverged").any(axis=0)]) for side in SIDES
    ]
    figure = Figure(
        name="learning-rate",
        title="Accuracy after a fixed number of steps",
        x="learning rate",
        y="test accuracy",
        series=tuple(series),
        x_log="10",
        note="Line: mean of the seeds. Band: least to greatest. Crosses: rates at which a run diverged.",
    )
    return Conclusion(verdict=ratio.verdict, sentence=sentence, comparisons=(ratio,), figures=(figure,))


EXPERIMENT = Experiment(
    name=NAME,
    order=1,
    claim="BN allows larger learning rates.",
    source="Ioffe & Szegedy 2015 (arXiv 1502.03167), section 4.2: with BN, ×5 and ×30 the learning rate of Inception "
    "reach its accuracy in 2.1M and 2.7M steps instead of 31M; without BN, ×5 diverges. Bjorck et al. 2018 (arXiv "
    "1806.02375): 0.1 with BN and 0.0001 without, for a ResNet-110.",
    rule="Per seed, the largest learning rate whose test accuracy is within 5 points of the side's best. Supported if "
    "the ratio BN / none is above 2.",
    cells=cells,
    conclude=conclude,
)
