"""``small-batch``: BN is worse at small training batches, where group normalization is not."""

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
    curve,
    lanes_of,
    points_of,
)
from bncli.studies.network import Net
from bncli.studies.statistics import Comparison
from bncli.studies.training import Run

NAME = "small-batch"
SIDES = {"BN": "batch", "ghost BN of 16": "ghost:16", "group norm": "group", "none": "none"}
SIZES = (2, 4, 8, 16, 64, 256)
QUICK_SIZES = (2, 8, 64)
RATES = (0.003, 0.01, 0.03, 0.1, 0.3)
USUAL, SMALLEST = 64, 2
# Training images seen in all, whatever the batch.
IMAGES = 12_800
MARGIN = 0.02


def cells(plan: Plan) -> Sequence[Cell]:
    """All normalizations over batch sizes and learning rates."""
    return [
        Cell(
            experiment=NAME,
            side=side,
            run=Run(
                net=Net(norm=norm),
                lanes=lanes_of(RATES[1::2] if plan.quick else RATES),
                seed=seed,
                batch_size=batch_size,
                steps=plan.steps(IMAGES) // batch_size // 2 * 2,
                points=2,
            ),
        )
        for side, norm in SIDES.items()
        for batch_size in (QUICK_SIZES if plan.quick else SIZES)
        for seed in range(plan.seeds)
    ]


def conclude(results: Results) -> Conclusion:
    """Compare what each normalization loses from batch 64 to batch 2."""
    sizes = sorted({cell.run.batch_size for cell in results})
    accuracy = {
        side: np.stack([at_best_rate(results, side, "test_accuracy", batch_size=size)[:, -1] for size in sizes], axis=1)
        for side in SIDES
    }  # [seeds, sizes]
    lost = {side: values[:, sizes.index(USUAL)] - values[:, sizes.index(SMALLEST)] for side, values in accuracy.items()}
    more = Comparison(
        name="accuracy lost from batch 64 to 2, BN − the more sensitive of group norm and none",
        values=tuple((lost["BN"] - np.maximum(lost["group norm"], lost["none"])).tolist()),
        margin=MARGIN,
        unit="points",
    )
    at_two = {side: values[:, sizes.index(SMALLEST)].mean() for side, values in accuracy.items()}
    sentence = (
        f"At batch 2, accuracy is {points_of(at_two['BN'])} with BN, {points_of(at_two['group norm'])} with group norm "
        f"and {points_of(at_two['none'])} without. From batch 64 to 2, BN loses {100 * lost['BN'].mean():.1f} points, "
        f"group norm {100 * lost['group norm'].mean():.1f} and none {100 * lost['none'].mean():.1f}."
    )
    figure = Figure(
        name="small-batch",
        title="Accuracy by the batch size of training",
        x="batch size of training",
        y="test accuracy",
        series=tuple(curve(side, sizes, accuracy[side]) for side in SIDES),
        x_log="2",
        note="All runs see the same number of images, each at its own best learning rate. Ghost BN of 16 is BN up to "
        "batch 16. Line: mean of the seeds. Band: least to greatest.",
    )
    return Conclusion(verdict=more.verdict, sentence=sentence, comparisons=(more,), figures=(figure,))


EXPERIMENT = Experiment(
    name=NAME,
    order=10,
    claim="BN gets worse at small batches; group normalization does not.",
    source="Wu & He 2018 (arXiv 1803.08494): ResNet-50 on ImageNet at 2 images per GPU, group norm has 10.6 points "
    "less error than BN. Hoffer et al. 2017 (arXiv 1705.08741) for ghost BN.",
    rule="Each side at its own best learning rate for each batch size, the same number of images in all. Supported if "
    "BN loses 2 points more test accuracy from batch 64 to batch 2 than both group norm and none.",
    cells=cells,
    conclude=conclude,
)
