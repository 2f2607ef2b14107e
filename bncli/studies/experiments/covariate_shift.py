"""``covariate-shift``: BN keeps the inputs of inner layers stable."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jax
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
from bncli.studies.instruments import activation_percentiles, covariate_shift
from bncli.studies.network import Net, Params, forward
from bncli.studies.statistics import Comparison, combined
from bncli.studies.training import Measured, Run, View, batch_loss, sgd_step, train

NAME = "covariate-shift"
SIDES = {"BN": "batch", "none": "none"}
BATCH_SIZE = 60
# Units of the last hidden layer that are watched; the figure shows the first.
UNITS = 10
RATIO_MARGIN = math.log(1.25)
COSINE_MARGIN = 0.05
_TINY = 1e-12


def cells(plan: Plan) -> Sequence[Cell]:
    """Both sides over the learning rates."""
    lanes, steps = lanes_of((*plan.rates, 3.0)), plan.steps(1000)

    def run(norm: str, seed: int) -> Run:
        net = Net(norm=norm, activation="sigmoid")
        return Run(net=net, lanes=lanes, seed=seed, batch_size=BATCH_SIZE, steps=steps, points=40)

    return cells_of(NAME, SIDES, plan, run)


def probe(net: Net, view: View) -> Mapping[str, jax.Array]:
    """Percentiles of the last hidden units' inputs, and the covariate shift of the coming step."""
    outputs = forward(net, view.state.params, view.state.stats, view.x, train=True, key=view.key)
    inputs = outputs.activation_inputs[-1][:, :UNITS]
    after, _ = sgd_step(net, view)

    def loss(params: Params) -> jax.Array:
        return batch_loss(net, params, view)[0]

    shift = covariate_shift(loss, view.state.params, after.params, kernel_of=lambda layer: layer.kernel)
    percentiles = jax.vmap(activation_percentiles, in_axes=1)(inputs)
    return {"percentiles": percentiles, "shift_relative": shift.relative, "shift_cosine": shift.cosine}


def measure(cell: Cell, data: StudyData) -> Measured:
    """Train under the probe."""
    return train(cell.run, data, probe)


def drift(percentiles: np.ndarray) -> np.ndarray:
    """The wandering of the median in units of the spread, averaged over units: [seeds, P, units, 3] -> [seeds].

    That is the standard deviation over time of the 50th percentile, divided by half of the mean distance between the
    15th and the 85th.
    """
    low, median, high = np.moveaxis(percentiles, -1, 0)  # [seeds, P, units]
    spread = np.maximum((high - low).mean(axis=1) / 2, _TINY)
    found: np.ndarray = (median.std(axis=1) / spread).mean(axis=-1)
    return found


def log_mean(values: np.ndarray) -> np.ndarray:
    """Mean of the logarithm over all axes but the first."""
    found: np.ndarray = np.log(np.maximum(values, _TINY)).reshape(len(values), -1).mean(axis=1)
    return found


def conclude(results: Results) -> Conclusion:
    """Compare the drift of activations, and the shift of gradients above the first layer."""
    percentiles = {side: at_best_rate(results, side, "percentiles") for side in SIDES}
    relative = {side: at_best_rate(results, side, "shift_relative")[..., 1:] for side in SIDES}
    cosine = {side: at_best_rate(results, side, "shift_cosine")[..., 1:] for side in SIDES}
    drifts = {side: drift(percentiles[side]) for side in SIDES}
    activations = Comparison(
        name="drift of the last hidden units' inputs, none / BN",
        values=tuple(np.log(np.maximum(drifts["none"], _TINY) / np.maximum(drifts["BN"], _TINY)).tolist()),
        margin=RATIO_MARGIN,
        is_ratio=True,
    )
    distance = Comparison(
        name="‖G − G′‖ / ‖G‖, none / BN",
        values=tuple((log_mean(relative["none"]) - log_mean(relative["BN"])).tolist()),
        margin=RATIO_MARGIN,
        is_ratio=True,
    )
    angle = Comparison(
        name="cos∠(G, G′), BN − none",
        values=tuple((cosine["BN"] - cosine["none"]).reshape(len(cosine["BN"]), -1).mean(axis=1).tolist()),
        margin=COSINE_MARGIN,
    )
    parts = (activations, distance, angle)
    gradients_disagree = activations.verdict not in (distance.verdict, angle.verdict)
    sentence = (
        f"The inputs of the last hidden units drift {activations.shown.mean:.2g} times as much without BN. "
        f"{'The gradients disagree:' if gradients_disagree else 'In the gradients,'} ‖G − G′‖/‖G‖ is "
        f"{distance.shown.mean:.2g} times as large without BN, and the cosine of G and G′ is {cosine['BN'].mean():.2f} "
        f"with BN and {cosine['none'].mean():.2f} without."
    )
    return Conclusion(
        verdict=combined(part.verdict for part in parts),
        sentence=sentence,
        comparisons=parts,
        figures=_figures(results, percentiles, relative, cosine),
    )


def _figures(
    results: Results,
    percentiles: Mapping[str, np.ndarray],
    relative: Mapping[str, np.ndarray],
    cosine: Mapping[str, np.ndarray],
) -> tuple[Figure, ...]:
    steps = stacked(results, "BN", "steps")[0] - stacked(results, "BN", "steps")[0][0]
    lines = {side: f"{side}, rate {best_rate(results, side):g}" for side in SIDES}
    bands = tuple(
        Series(
            label=lines[side],
            x=tuple(steps.tolist()),
            y=tuple(percentiles[side][0, :, 0, 1].tolist()),
            low=tuple(percentiles[side][0, :, 0, 0].tolist()),
            high=tuple(percentiles[side][0, :, 0, 2].tolist()),
        )
        for side in SIDES
    )
    return (
        Figure(
            name="covariate-shift-activations",
            title="Input of one sigmoid in the last hidden layer",
            x="step",
            y="input",
            series=bands,
            note="Line: median of the batch. Band: 15th to 85th percentile. One unit, one seed, as in the paper.",
        ),
        Figure(
            name="covariate-shift-distance",
            title="Shift of the gradient by the layers below",
            x="step",
            y="‖G − G′‖ / ‖G‖",
            series=tuple(curve(lines[side], steps, relative[side].mean(axis=-1)) for side in SIDES),
            y_log=True,
            note="Mean over the layers above the first. Less is more stable. Band: least to greatest seed.",
        ),
        Figure(
            name="covariate-shift-cosine",
            title="Direction of the gradient before and after",
            x="step",
            y="cos∠(G, G′)",
            series=tuple(curve(lines[side], steps, cosine[side].mean(axis=-1)) for side in SIDES),
            note="Mean over the layers above the first. 1 means no shift. Band: least to greatest seed.",
        ),
    )


EXPERIMENT = Experiment(
    name=NAME,
    order=5,
    claim="BN reduces internal covariate shift.",
    source="For: Ioffe & Szegedy 2015 (arXiv 1502.03167), figure 1: with BN, the percentiles of a sigmoid's input stay "
    "put. Against: Santurkar et al. 2018 (arXiv 1805.11604), section 2.3: by the change of gradients, definition 2.1, "
    "networks with BN shift as much or more.",
    rule="Each side at its own best learning rate. The drift of the last hidden units' medians, and ‖G − G′‖/‖G‖ above "
    "the first layer, must be 1.25 times as large without BN, and cos∠(G, G′) smaller by 0.05. Supported if all three "
    "are.",
    cells=cells,
    measure=measure,
    conclude=conclude,
)
