"""``initialization``: with BN, the scale of the initial weights matters less."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from bncli.studies import network
from bncli.studies.data import StudyData, normalized
from bncli.studies.experiment import (
    Cell,
    Conclusion,
    Experiment,
    Figure,
    Plan,
    Results,
    cells_of,
    curve,
    points_of,
    stacked,
)
from bncli.studies.instruments import scale_invariance
from bncli.studies.network import Net
from bncli.studies.statistics import Comparison, combined
from bncli.studies.training import Lane, Measured, Run, train

NAME = "initialization"
SIDES = {"BN": "batch", "none": "none"}
GAINS = tuple(2.0**exponent for exponent in (-6, -4, -2, 0, 2, 4))
MARGIN = 0.05
# Scales of the exact part; powers of two would hide all rounding.
SCALES = (0.01, 0.3, 7.0, 100.0)
EXACT = 1e-6
# Examples and units of the layer on which the identities are checked: the first of the networks here.
LAYER = (64, 100)


def cells(plan: Plan) -> Sequence[Cell]:
    """Both sides over gains and learning rates."""
    rates = plan.rates if plan.quick else plan.rates[1:]
    lanes = tuple(Lane(learning_rate=rate, gain=gain) for gain in GAINS for rate in rates)

    def run(norm: str, seed: int) -> Run:
        return Run(net=Net(norm=norm), lanes=lanes, seed=seed, steps=plan.steps(300), points=2)

    return cells_of(NAME, SIDES, plan, run)


def measure(cell: Cell, data: StudyData) -> Measured:
    """Train, and measure the errors of the two identities."""
    return {**train(cell.run, data), **identities(cell, data)}


def identities(cell: Cell, data: StudyData) -> Measured:
    """The errors of BN(aWu) = BN(Wu) and of its gradient, per scale a, in float32."""
    batch, units = LAYER
    u = normalized(data.train.images[:batch], data.offset, data.factor)
    draw = np.random.default_rng(cell.run.seed)
    kernel = jnp.asarray(draw.normal(size=(u.shape[1], units)), jnp.float32)
    weights = jnp.asarray(draw.normal(size=(len(u), units)), jnp.float32)
    layer = network.LayerParams(kernel, jnp.zeros(units), jnp.ones(units), jnp.zeros(units))
    moments = network.Moments(jnp.zeros(units), jnp.ones(units))
    mode = network.Mode(train=True, key=jax.random.key(0), epsilon=0.0)

    def normalize(x: jax.Array) -> jax.Array:
        return network.NORMS[cell.run.net.norm](x, layer, moments, mode)[0]

    check = jax.jit(partial(scale_invariance, normalize, kernel, u, weights))
    errors = [check(a) for a in SCALES]
    return {
        "identity_output": np.array([float(error.output) for error in errors]),
        "identity_gradient": np.array([float(error.gradient) for error in errors]),
    }


def best_by_gain(results: Results, side: str) -> np.ndarray:
    """Test accuracy [seeds, gains], at each gain with the learning rate that is best on the validation images."""
    by_gain = (len(GAINS), -1)
    val, test = (stacked(results, side, f"{split}_accuracy")[:, -1] for split in ("val", "test"))  # [seeds, L]
    chosen = val.mean(axis=0).reshape(by_gain).argmax(axis=1)
    found: np.ndarray = test.reshape(len(test), *by_gain)[:, np.arange(len(GAINS)), chosen]
    return found


def conclude(results: Results) -> Conclusion:
    """Compare the accuracies that the sides lose at their worst gain; check the exact part."""
    accuracy = {side: best_by_gain(results, side) for side in SIDES}
    lost = {side: accuracy[side].max(axis=1) - accuracy[side].min(axis=1) for side in SIDES}
    robust = Comparison(
        name="accuracy lost at the worst gain, none − BN",
        values=tuple((lost["none"] - lost["BN"]).tolist()),
        margin=MARGIN,
        unit="points",
    )
    worst = {part: float(stacked(results, "BN", f"identity_{part}").max()) for part in ("output", "gradient")}
    exact = Comparison(
        name="scale invariance: 1 if BN(aWu) = BN(Wu) and its gradient is ∝ 1/a, to 1e-6",
        values=tuple(
            float(error <= EXACT)
            for error in np.maximum(
                stacked(results, "BN", "identity_output").max(axis=1),
                stacked(results, "BN", "identity_gradient").max(axis=1),
            )
        ),
        margin=0.5,
    )
    sentence = (
        f"From gain 1/64 to 16, each with its best learning rate, accuracy varies by {points_of(lost['BN'].mean())} "
        f"with BN and by {points_of(lost['none'].mean())} without. BN's identities under a change of scale hold to "
        f"{worst['output']:.1e} (output) and {worst['gradient']:.1e} (gradient) in float32."
    )
    figure = Figure(
        name="initialization",
        title="Accuracy by the scale of the initial weights",
        x="gain (1 is He's initializer)",
        y="test accuracy",
        series=tuple(curve(side, GAINS, accuracy[side]) for side in SIDES),
        x_log="2",
        note="At each gain, each side has its best learning rate. Line: mean of the seeds. Band: least to greatest.",
    )
    comparisons = (robust, exact)
    return Conclusion(
        verdict=combined(part.verdict for part in comparisons),
        sentence=sentence,
        comparisons=comparisons,
        figures=(figure,),
    )


EXPERIMENT = Experiment(
    name=NAME,
    order=3,
    claim="BN makes training less sensitive to initialization.",
    source="Ioffe & Szegedy 2015 (arXiv 1502.03167), section 3.3: BN(aWu) = BN(Wu), ∂BN(aWu)/∂u = ∂BN(Wu)/∂u and "
    "∂BN(aWu)/∂(aW) = (1/a) ∂BN(Wu)/∂W.",
    rule="The test accuracy lost between the best and the worst gain from 2⁻⁶ to 2⁴, each side with its best learning "
    "rate at each gain. Supported if the side without BN loses 5 points more, and the identities hold to 1e-6.",
    cells=cells,
    measure=measure,
    conclude=conclude,
)
