"""``gradients``: without BN, only small steps along the first gradients lower the loss."""

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
    cells_of,
    curve,
    lanes_of,
)
from bncli.studies.instruments import along_gradient
from bncli.studies.network import Net, Params
from bncli.studies.statistics import Comparison, combined
from bncli.studies.training import Measured, Run, View, batch_loss, train

NAME = "gradients"
SIDES = {"BN": "batch", "none": "none"}
STEPS = tuple(10 ** (exponent / 4) for exponent in range(-16, 9))  # 0.0001 … 100
# Bins of log₁₀|gradient|.
BINS = tuple(-9 + 0.25 * number for number in range(41))
STEP_MARGIN = math.log(2)
TAIL_MARGIN = math.log(1.25)
# The hidden layer whose gradients are shown.
LAYER = 1
_TINY = 1e-12


def cells(plan: Plan) -> Sequence[Cell]:
    """Both sides over the learning rates, for the first batches only."""
    lanes = lanes_of(plan.rates)

    def run(norm: str, seed: int) -> Run:
        return Run(net=Net(norm=norm), lanes=lanes, seed=seed, steps=50, points=10)

    return cells_of(NAME, SIDES, plan, run)


def probe(net: Net, view: View) -> Mapping[str, jax.Array]:
    """The relative loss after steps of many sizes, and the distribution of one layer's gradients."""

    def loss(params: Params) -> jax.Array:
        return batch_loss(net, params, view)[0]

    line = along_gradient(loss, view.state.params, jnp.asarray(STEPS))
    gradient = jax.grad(loss)(view.state.params)[LAYER].kernel.ravel()
    size = jnp.log10(jnp.maximum(jnp.abs(gradient), 10.0 ** BINS[0]))
    centred = gradient - jnp.mean(gradient)
    variance = jnp.mean(centred**2)
    return {
        "relative_loss": line.loss / line.start,
        "histogram": jnp.histogram(size, jnp.asarray(BINS))[0] / size.size,
        "kurtosis": jnp.mean((centred / jnp.sqrt(jnp.maximum(variance, _TINY))) ** 4),
    }


def measure(cell: Cell, data: StudyData) -> Measured:
    """Train for the first batches under the probe."""
    return train(cell.run, data, probe)


def largest_step(relative: np.ndarray) -> np.ndarray:
    """The largest η up to which every step lowers the loss: relative losses [..., steps] -> [...]; least η if none."""
    lowers = np.cumprod(np.nan_to_num(relative, nan=np.inf) < 1, axis=-1)
    found: np.ndarray = np.asarray(STEPS)[np.maximum(lowers.sum(axis=-1) - 1, 0).astype(int)]
    return found


def conclude(results: Results) -> Conclusion:
    """Compare the steps that lower the loss, and the tails of the gradients."""
    relative = {side: at_best_rate(results, side, "relative_loss") for side in SIDES}  # [seeds, P, steps]
    kurtosis = {side: np.maximum(at_best_rate(results, side, "kurtosis"), _TINY) for side in SIDES}
    steps = {side: np.log(largest_step(relative[side])).mean(axis=1) for side in SIDES}
    larger = Comparison(
        name="largest step that lowers the loss, BN / none",
        values=tuple((steps["BN"] - steps["none"]).tolist()),
        margin=STEP_MARGIN,
        is_ratio=True,
    )
    tails = Comparison(
        name=f"kurtosis of the gradients of hidden layer {LAYER + 1}, none / BN",
        values=tuple((np.log(kurtosis["none"]).mean(axis=1) - np.log(kurtosis["BN"]).mean(axis=1)).tolist()),
        margin=TAIL_MARGIN,
        is_ratio=True,
    )
    typical = {side: math.exp(steps[side].mean()) for side in SIDES}
    sentence = (
        f"In the first 50 batches, steps up to {typical['BN']:.2g} lower the loss with BN, and up to "
        f"{typical['none']:.2g} without. Without BN, the gradients' kurtosis is {tails.shown.mean:.2g} times as large."
    )
    comparisons = (larger, tails)
    return Conclusion(
        verdict=combined(part.verdict for part in comparisons),
        sentence=sentence,
        comparisons=comparisons,
        figures=(_loss_figure(relative), _histogram(results)),
    )


def _loss_figure(relative: Mapping[str, np.ndarray]) -> Figure:
    return Figure(
        name="gradients-loss",
        title="Loss after one step, in the first batches",
        x="step size",
        y="loss after / before",
        series=tuple(curve(side, STEPS, np.clip(relative[side].mean(axis=1), 0, 4)) for side in SIDES),
        x_log="10",
        note="Mean over 10 of the first 50 batches; losses above 4 are drawn at 4. Band: least to greatest seed.",
    )


def _histogram(results: Results) -> Figure:
    centres = (np.asarray(BINS)[:-1] + np.asarray(BINS)[1:]) / 2
    shares = {side: at_best_rate(results, side, "histogram")[:, 0].mean(axis=0) for side in SIDES}
    return Figure(
        name="gradients-histogram",
        title=f"Gradients of hidden layer {LAYER + 1} at the start",
        x="log₁₀ |gradient|",
        y="share",
        series=tuple(Series(label=side, x=tuple(centres.tolist()), y=tuple(shares[side].tolist())) for side in SIDES),
        note="At the first batch, mean of the seeds.",
    )


EXPERIMENT = Experiment(
    name=NAME,
    order=8,
    claim="Without BN, gradients are heavy-tailed and allow only small steps.",
    source="Bjorck et al. 2018 (arXiv 1806.02375), figures 2 to 4: in a ResNet-110 without BN, gradients are larger "
    "and heavier-tailed, and only small steps along them lower the loss.",
    rule="At 10 of the first 50 batches, each side at its own best learning rate: the largest step up to which all "
    "steps lower the loss of the batch must be twice as large with BN, and the kurtosis of a middle layer's gradients "
    "1.25 times as large without. Supported if both are.",
    cells=cells,
    measure=measure,
    conclude=conclude,
)
