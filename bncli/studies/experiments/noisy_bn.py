"""``noisy-bn``: BN helps although noise undoes the stability of its outputs."""

from __future__ import annotations

from collections.abc import Sequence

from bncli.studies.experiment import (
    Cell,
    Conclusion,
    Experiment,
    Figure,
    Plan,
    Results,
    at_best_rate,
    best_rate,
    cells_of,
    curve,
    lanes_of,
    points_of,
    stacked,
)
from bncli.studies.network import Net
from bncli.studies.statistics import Comparison, combined
from bncli.studies.training import Run

NAME = "noisy-bn"
SIDES = {"BN": "batch", "noisy BN": "noisy", "none": "none"}
GAIN_MARGIN = 0.01


def cells(plan: Plan) -> Sequence[Cell]:
    """Three sides over the learning rates."""
    lanes, steps = lanes_of((*plan.rates, 3.0)), plan.steps(600)

    def run(norm: str, seed: int) -> Run:
        return Run(net=Net(norm=norm, activation="sigmoid"), lanes=lanes, seed=seed, steps=steps, points=20)

    return cells_of(NAME, SIDES, plan, run)


def conclude(results: Results) -> Conclusion:
    """Compare the mean accuracy on the way: it is high for a network that learns fast and well."""
    curves = {side: at_best_rate(results, side, "test_accuracy") for side in SIDES}  # [seeds, P]
    mean = {side: values.mean(axis=1) for side, values in curves.items()}
    helps = Comparison(
        name="mean test accuracy on the way, BN − none",
        values=tuple((mean["BN"] - mean["none"]).tolist()),
        margin=GAIN_MARGIN,
        unit="points",
    )
    better = Comparison(
        name="mean test accuracy on the way, noisy BN − none",
        values=tuple((mean["noisy BN"] - mean["none"]).tolist()),
        margin=GAIN_MARGIN,
        unit="points",
    )
    like_bn = Comparison(
        name="mean test accuracy on the way, noisy BN − half-way between BN and none",
        values=tuple((mean["noisy BN"] - 0.5 * (mean["BN"] + mean["none"])).tolist()),
        margin=0.0,
        unit="points",
    )
    sentence = (
        f"Over the whole training, accuracy averages {points_of(mean['BN'].mean())} with BN, "
        f"{points_of(mean['noisy BN'].mean())} with noisy BN and {points_of(mean['none'].mean())} without."
    )
    steps = stacked(results, "BN", "steps")[0]
    figure = Figure(
        name="noisy-bn",
        title="BN, BN under noise, and none",
        x="step",
        y="test accuracy",
        series=tuple(
            curve(f"{side}, rate {best_rate(results, side):g}", steps, values) for side, values in curves.items()
        ),
        note="Each side at its own best learning rate. Line: mean of the seeds. Band: least to greatest.",
    )
    comparisons = (helps, better, like_bn)
    # Noise can help a network by itself; that says nothing of BN.
    is_without_help = helps.verdict == "not supported"
    verdict = "not supported" if is_without_help else combined(part.verdict for part in comparisons)
    return Conclusion(verdict=verdict, sentence=sentence, comparisons=comparisons, figures=(figure,))


EXPERIMENT = Experiment(
    name=NAME,
    order=6,
    claim="BN helps even where noise makes its outputs unstable again.",
    source="Santurkar et al. 2018 (arXiv 1805.11604), section 2.2 and figure 2: on VGG, BN followed by noise of "
    "changing mean and scale trains almost like BN, far better than none. So stable distributions are not what helps.",
    rule="The test accuracy averaged over the training, each side at its own best learning rate. Supported if both "
    "BN and noisy BN are a point better than none, and noisy BN keeps more than half of what BN gains. Not supported "
    "if BN itself gains no point.",
    cells=cells,
    conclude=conclude,
)
