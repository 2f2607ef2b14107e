"""``landscape``: BN makes the loss smoother in the direction of training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from bncli.studies.data import StudyData
from bncli.studies.experiment import (
    Cell,
    Conclusion,
    Experiment,
    Figure,
    Plan,
    Results,
    Series,
    at_best_rate,
    best_rate,
    cells_of,
    curve,
    lanes_of,
    stacked,
)
from bncli.studies.instruments import along_gradient, effective_smoothness, gradient_predictiveness, loss_range
from bncli.studies.network import Net, Params
from bncli.studies.statistics import Comparison, combined
from bncli.studies.training import Measured, Run, View, batch_loss, train

NAME = "landscape"
SIDES = {"BN": "batch", "none": "none"}
# Both sides are probed over the same steps: ½ to 4 times the learning rate of the paper.
REFERENCE = 0.1
STEPS = tuple(REFERENCE * 2 ** (exponent / 2) for exponent in range(-2, 5))
MARGIN = math.log(1.25)
QUANTITIES = {
    "loss_range": "range of the loss along the gradient",
    "predictiveness": "change of the gradient, max ‖∇L(w) − ∇L(w − ηg)‖",
    "smoothness": "effective β-smoothness, max ‖Δ∇L‖ / ‖Δw‖",
}
_TINY, _HUGE = 1e-12, 1e38


def cells(plan: Plan) -> Sequence[Cell]:
    """Both sides over the learning rates."""
    lanes, steps = lanes_of(plan.rates), plan.steps(400)

    def run(norm: str, seed: int) -> Run:
        return Run(net=Net(norm=norm), lanes=lanes, seed=seed, steps=steps, points=20)

    return cells_of(NAME, SIDES, plan, run)


def probe(net: Net, view: View) -> Mapping[str, jax.Array]:
    """Range of the loss, predictiveness of the gradient and effective smoothness at the batch of the step."""

    def loss(params: Params) -> jax.Array:
        return batch_loss(net, params, view)[0]

    line = along_gradient(loss, view.state.params, jnp.asarray(STEPS))
    return {
        "line_low": jnp.min(line.loss),
        "line_high": jnp.max(line.loss),
        "loss_range": loss_range(line),
        "predictiveness": gradient_predictiveness(line),
        "smoothness": effective_smoothness(line),
    }


def measure(cell: Cell, data: StudyData) -> Measured:
    """Train under the probe."""
    return train(cell.run, data, probe)


def conclude(results: Results) -> Conclusion:
    """Compare the three quantities, averaged over the training."""
    found = {name: {side: at_best_rate(results, side, name) for side in SIDES} for name in QUANTITIES}
    comparisons = tuple(
        Comparison(
            name=f"{words}, none / BN",
            values=tuple((_log_mean(found[name]["none"]) - _log_mean(found[name]["BN"])).tolist()),
            margin=MARGIN,
            is_ratio=True,
        )
        for name, words in QUANTITIES.items()
    )
    numbers = [comparison.shown.mean for comparison in comparisons]
    sentence = (
        f"Without BN, the loss varies {numbers[0]:.2g} times as much along the gradient, the gradient changes "
        f"{numbers[1]:.2g} times as much, and the effective β is {numbers[2]:.2g} times as large."
    )
    return Conclusion(
        verdict=combined(comparison.verdict for comparison in comparisons),
        sentence=sentence,
        comparisons=comparisons,
        figures=_figures(results, found),
    )


def _log_mean(values: np.ndarray) -> np.ndarray:
    """Mean over the points of the logarithm, [seeds, P] -> [seeds]; infinities are the largest float."""
    finite = np.nan_to_num(values, nan=_HUGE, posinf=_HUGE)
    found: np.ndarray = np.log(np.maximum(finite, _TINY)).mean(axis=1)
    return found


def _figures(results: Results, found: Mapping[str, Mapping[str, np.ndarray]]) -> tuple[Figure, ...]:
    steps = stacked(results, "BN", "steps")[0]
    before = steps - steps[0]
    lines = {side: f"{side}, rate {best_rate(results, side):g}" for side in SIDES}
    bands = tuple(
        Series(
            label=lines[side],
            x=tuple(before.tolist()),
            y=tuple(((low + high) / 2).tolist()),
            low=tuple(low.tolist()),
            high=tuple(high.tolist()),
        )
        for side in SIDES
        for low, high in [[at_best_rate(results, side, f"line_{end}").mean(axis=0) for end in ("low", "high")]]
    )
    quantities = tuple(
        Figure(
            name=f"landscape-{name.replace('_', '-')}",
            title=title,
            x="step",
            y=label,
            series=tuple(curve(lines[side], before, found[name][side]) for side in SIDES),
            y_log=True,
            note="Each side at its own best learning rate. Less is smoother. Band: least to greatest seed.",
        )
        for name, title, label in (
            ("predictiveness", "Change of the gradient along itself", "max ‖Δ∇L‖"),
            ("smoothness", "Effective β-smoothness", "max ‖Δ∇L‖ / ‖Δw‖"),
        )
    )
    first = Figure(
        name="landscape-loss",
        title="Loss along the gradient",
        x="step",
        y="training loss",
        series=bands,
        y_log=True,
        note="Band: least to greatest loss for steps of 0.05 to 0.4 along −g, mean of the seeds.",
    )
    return (first, *quantities, _envelope(results, steps))


def _envelope(results: Results, steps: np.ndarray) -> Figure:
    """The band of training losses over the learning rates."""

    def band(side: str) -> Series:
        losses = stacked(results, side, "train_loss")  # [seeds, P, L]
        means = np.where(np.isfinite(losses).all(axis=0), losses.mean(axis=0), np.nan)  # [P, L]
        usable = means[:, np.isfinite(means).all(axis=0)]
        usable = usable if usable.size else np.full((len(steps), 1), np.nan)
        low, middle, high = usable.min(axis=1), np.median(usable, axis=1), usable.max(axis=1)
        return Series(
            label=side, x=tuple(steps.tolist()), y=tuple(middle), low=tuple(low.tolist()), high=tuple(high.tolist())
        )

    return Figure(
        name="landscape-envelope",
        title="A proxy: training losses over learning rates",
        x="step",
        y="training loss",
        series=tuple(map(band, SIDES)),
        y_log=True,
        note="Courses draw this band of runs at several learning rates as the landscape. It compares runs, and does "
        "not measure the loss around one point. Runs that diverged are left out. It has no part in the verdict.",
    )


EXPERIMENT = Experiment(
    name=NAME,
    order=7,
    claim="BN makes the loss landscape smoother.",
    source="Santurkar et al. 2018 (arXiv 1805.11604), section 3.1 and figure 4: with BN, the loss along the gradient, "
    "the change of the gradient, and the effective β-smoothness all vary less, on VGG and CIFAR-10.",
    rule="Each side trained at its own best learning rate, both probed at steps η of 0.05 to 0.4: the range of the "
    "loss, the largest change of the gradient, and the effective β, each as its geometric mean over the training. "
    "Supported if all three are 1.25 times as large without BN.",
    cells=cells,
    measure=measure,
    conclude=conclude,
)
