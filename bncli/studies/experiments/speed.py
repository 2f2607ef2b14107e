"""``speed``: with BN, a network reaches the accuracy of one without BN in fewer steps."""

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
    best_lane,
    cells_of,
    curve,
    lanes_of,
    rates_of,
    stacked,
)
from bncli.studies.network import Net
from bncli.studies.statistics import Comparison
from bncli.studies.training import Run

NAME = "speed"
SIDES = {"BN": "batch", "none": "none"}
# The network of the paper's MNIST figure.
BATCH_SIZE = 60
MARGIN = math.log(1.5)
# Short of the target by this much counts as having reached it: a third of an image of 359.
TOLERANCE = 0.001


def cells(plan: Plan) -> Sequence[Cell]:
    """Both sides over the learning rates."""
    lanes, steps = lanes_of((*plan.rates, 3.0)), plan.steps(1000)

    def run(norm: str, seed: int) -> Run:
        net = Net(norm=norm, activation="sigmoid")
        return Run(net=net, lanes=lanes, seed=seed, batch_size=BATCH_SIZE, steps=steps, points=40)

    return cells_of(NAME, SIDES, plan, run)


def steps_to(accuracy: np.ndarray, steps: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The first of ``steps`` [P] at which accuracy [..., P] reaches the target [...]; the last one if it never does."""
    reached = accuracy >= target[..., None] - TOLERANCE
    first = np.where(reached.any(axis=-1), reached.argmax(axis=-1), len(steps) - 1)
    found: np.ndarray = steps[first]
    return found


def conclude(results: Results) -> Conclusion:
    """Compare the steps to the accuracy that the network without BN has at its end, each side at its fastest rate."""
    steps = stacked(results, "BN", "steps")[0]
    rates = rates_of(results, "BN")
    test = {side: np.moveaxis(stacked(results, side, "test_accuracy"), 1, 2) for side in SIDES}  # [seeds, L, P]
    val = {side: np.moveaxis(stacked(results, side, "val_accuracy"), 1, 2) for side in SIDES}
    final = best_lane(stacked(results, "none", "val_accuracy"))
    target, val_target = (scores["none"][:, final, -1] for scores in (test, val))  # [seeds]
    fastest = {side: int(steps_to(val[side], steps, val_target[:, None]).mean(axis=0).argmin()) for side in SIDES}
    needed = {side: steps_to(test[side][:, fastest[side]], steps, target) for side in SIDES}
    ratio = Comparison(
        name="steps to the final accuracy of the network without BN, none / BN",
        values=tuple(np.log(needed["none"] / needed["BN"]).tolist()),
        margin=MARGIN,
        is_ratio=True,
    )
    sentence = (
        f"To {100 * target.mean():.1f} %, the final accuracy without BN, it takes {needed['BN'].mean():.0f} steps with "
        f"BN at {rates[fastest['BN']]:g} and {needed['none'].mean():.0f} without at {rates[fastest['none']]:g}: "
        f"{ratio.shown.mean:.2g} times as many."
    )
    figure = Figure(
        name="speed",
        title="Accuracy on the way",
        x="step",
        y="test accuracy",
        series=tuple(curve(f"{side}, {rates[fastest[side]]:g}", steps, test[side][:, fastest[side]]) for side in SIDES),
        note="Each side at the learning rate that reaches the target first on the validation images. Line: mean of the "
        "seeds. Band: least to greatest.",
    )
    return Conclusion(verdict=ratio.verdict, sentence=sentence, comparisons=(ratio,), figures=(figure,))


EXPERIMENT = Experiment(
    name=NAME,
    order=2,
    claim="BN makes training faster.",
    source="Ioffe & Szegedy 2015 (arXiv 1502.03167), section 4: Inception needs 31.0M steps to 72.2 %, with BN 13.3M, "
    "and 2.1M at five times the learning rate. Section 4.1: 3 layers of 100 sigmoid units on MNIST, batch 60.",
    rule="Steps to the final test accuracy of the run without BN of the same seed, each side at its fastest learning "
    "rate on the validation images; a run that never gets there counts with all its steps. Supported if the ratio none "
    "/ BN is above 1.5.",
    cells=cells,
    conclude=conclude,
)
