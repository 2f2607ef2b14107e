"""``placement``: BN before the activation, or after it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bncli.studies.experiment import (
    Cell,
    Conclusion,
    Experiment,
    Figure,
    Plan,
    Results,
    at_best_rate,
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

NAME = "placement"
SIDES = {
    "BN before": Net(norm="batch", placement="pre"),
    "BN after": Net(norm="batch", placement="post"),
    "none": Net(norm="none"),
}
MARGIN = 0.005


def cells(plan: Plan) -> Sequence[Cell]:
    """Three sides over the learning rates."""
    lanes, steps = lanes_of(plan.rates), plan.steps(400)

    def run(net: Net, seed: int) -> Run:
        return Run(net=net, lanes=lanes, seed=seed, steps=steps, points=20)

    return cells_of(NAME, SIDES, plan, run)


def conclude(results: Results) -> Conclusion:
    """Compare the final accuracies of both places."""
    final = {side: at_best_rate(results, side, "test_accuracy")[:, -1] for side in SIDES}
    better = Comparison(
        name="test accuracy, BN before − after the activation",
        values=tuple((final["BN before"] - final["BN after"]).tolist()),
        margin=MARGIN,
        unit="points",
    )
    sentence = (
        f"Accuracy is {points_of(final['BN before'].mean())} with BN before the activation, "
        f"{points_of(final['BN after'].mean())} after it, and {points_of(final['none'].mean())} without BN."
    )
    rates = rates_of(results, "none")
    figure = Figure(
        name="placement",
        title="Accuracy by the place of BN",
        x="learning rate",
        y="test accuracy",
        series=tuple(
            curve(
                side,
                rates,
                stacked(results, side, "test_accuracy")[:, -1],
                rates[np.any(stacked(results, side, "diverged"), axis=0)],
            )
            for side in SIDES
        ),
        x_log="10",
        note="Line: mean of the seeds. Band: least to greatest. Crosses: rates at which a run diverged.",
    )
    return Conclusion(verdict=better.verdict, sentence=sentence, comparisons=(better,), figures=(figure,))


EXPERIMENT = Experiment(
    name=NAME,
    order=11,
    claim="BN belongs before the activation.",
    source="Ioffe & Szegedy 2015 (arXiv 1502.03167), section 3.2, puts BN before the activation, because Wu + b is "
    "more symmetric than u. Later practice differs: many Keras tutorials put it after.",
    rule="Final test accuracy, each side at its own best learning rate. Supported if BN before the activation is half "
    "a point better than after it.",
    cells=cells,
    conclude=conclude,
)
