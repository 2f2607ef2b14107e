"""``regularization``: BN regularizes, so less dropout is needed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bncli.studies.experiment import Cell, Conclusion, Experiment, Figure, Plan, Results, curve, points_of, stacked
from bncli.studies.network import Net
from bncli.studies.statistics import Comparison, combined
from bncli.studies.training import Lane, Run

NAME = "regularization"
SIDES = {"BN": "batch", "none": "none"}
DROPOUTS = (0.0, 0.2, 0.5)
BATCH_SIZES = (16, 64, 256)
USUAL = 64
# Training images seen in all, whatever the batch.
IMAGES = 19_200
MARGIN = 0.005


def cells(plan: Plan) -> Sequence[Cell]:
    """Both sides over batch sizes, dropout rates and learning rates."""
    rates = plan.rates if plan.quick else plan.rates[1:5]
    lanes = tuple(Lane(learning_rate=rate, dropout=dropout) for dropout in DROPOUTS for rate in rates)
    return [
        Cell(
            experiment=NAME,
            side=side,
            run=Run(
                net=Net(norm=norm),
                lanes=lanes,
                seed=seed,
                batch_size=batch_size,
                steps=plan.steps(IMAGES) // batch_size // 2 * 2,
                points=2,
            ),
        )
        for side, norm in SIDES.items()
        for batch_size in (BATCH_SIZES[::2] if plan.quick else BATCH_SIZES)
        for seed in range(plan.seeds)
    ]


def at_best_rates(results: Results, side: str, split: str, batch_size: int) -> np.ndarray:
    """Accuracy [seeds, dropouts] at the learning rate that is best for each dropout rate on the validation images."""
    shape = (len(DROPOUTS), -1)
    val, wanted = (stacked(results, side, f"{name}_accuracy", batch_size=batch_size)[:, -1] for name in ("val", split))
    chosen = val.mean(axis=0).reshape(shape).argmax(axis=1)
    found: np.ndarray = wanted.reshape(len(wanted), *shape)[:, np.arange(len(DROPOUTS)), chosen]
    return found


def conclude(results: Results) -> Conclusion:
    """Compare the gaps between training and test, and the gains from dropout."""
    sizes = sorted({cell.run.batch_size for cell in results})
    usual = USUAL if USUAL in sizes else sizes[0]
    test = {side: {size: at_best_rates(results, side, "test", size) for size in sizes} for side in SIDES}
    gap = {
        side: {size: at_best_rates(results, side, "train", size) - test[side][size] for size in sizes} for side in SIDES
    }
    benefit = {side: test[side][usual][:, 1:].max(axis=1) - test[side][usual][:, 0] for side in SIDES}
    smaller_gap = Comparison(
        name="gap between training and test accuracy without dropout, none − BN",
        values=tuple((gap["none"][usual][:, 0] - gap["BN"][usual][:, 0]).tolist()),
        margin=MARGIN,
        unit="points",
    )
    less_dropout = Comparison(
        name="test accuracy gained by dropout, none − BN",
        values=tuple((benefit["none"] - benefit["BN"]).tolist()),
        margin=MARGIN,
        unit="points",
    )
    sentence = (
        f"Without dropout, the gap between training and test is {points_of(gap['BN'][usual][:, 0].mean())} with BN and "
        f"{points_of(gap['none'][usual][:, 0].mean())} without. Dropout adds {100 * benefit['BN'].mean():+.1f} points "
        f"to the test accuracy with BN and {100 * benefit['none'].mean():+.1f} without."
    )
    figures = (
        Figure(
            name="regularization-dropout",
            title=f"Test accuracy by dropout, batch {usual}",
            x="dropout rate",
            y="test accuracy",
            series=tuple(curve(side, DROPOUTS, test[side][usual]) for side in SIDES),
            note="Each point at its own best learning rate. Line: mean of the seeds. Band: least to greatest.",
        ),
        Figure(
            name="regularization-batch",
            title="Gap between training and test by batch size, no dropout",
            x="batch size",
            y="training − test accuracy",
            series=tuple(
                curve(side, sizes, np.stack([gap[side][size][:, 0] for size in sizes], axis=1)) for side in SIDES
            ),
            x_log="2",
            note="A smaller batch means noisier statistics. All runs see the same number of images.",
        ),
    )
    comparisons = (smaller_gap, less_dropout)
    verdict = combined(part.verdict for part in comparisons)
    return Conclusion(verdict=verdict, sentence=sentence, comparisons=comparisons, figures=figures)


EXPERIMENT = Experiment(
    name=NAME,
    order=4,
    claim="BN regularizes, and reduces the need for dropout.",
    source="Ioffe & Szegedy 2015 (arXiv 1502.03167), sections 3.4 and 4.2.1: without dropout, and with a fifth of the "
    "weight decay, Inception with BN does not overfit more. Luo et al. 2018 (arXiv 1809.00846): the noise of the batch "
    "statistics regularizes, less with a larger batch.",
    rule="At batch 64 (16 with --quick), each side at its best learning rate for each dropout rate: the gap between "
    "training and test accuracy without dropout, and the test accuracy that the better of dropout 0.2 and 0.5 adds. "
    "Supported if both are larger without BN by half a point.",
    cells=cells,
    conclude=conclude,
)
