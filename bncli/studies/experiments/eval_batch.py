"""``eval-batch``: running statistics make inference independent of the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from bncli.studies.data import StudyData, normalized
from bncli.studies.experiment import (
    Cell,
    Conclusion,
    Experiment,
    Figure,
    Plan,
    Results,
    Series,
    best_lane,
    cells_of,
    curve,
    lanes_of,
    points_of,
    stacked,
)
from bncli.studies.network import Net, forward
from bncli.studies.statistics import Comparison
from bncli.studies.training import Measured, Run, State, train_to_end

NAME = "eval-batch"
SIDES = {"BN": "batch", "none": "none"}
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
# Test images scored: all batches are full.
IMAGES = 256
# Training images that precise statistics are taken from.
PRECISE = (2, 8, 32, 128, 512, 1024)
MARGIN = 0.05
# Images that keep their place while the company around them changes.
FIXED = 8


def cells(plan: Plan) -> Sequence[Cell]:
    """Both sides over the learning rates."""
    lanes, steps = lanes_of(plan.rates), plan.steps(400)

    def run(norm: str, seed: int) -> Run:
        return Run(net=Net(norm=norm), lanes=lanes, seed=seed, steps=steps, points=20)

    return cells_of(NAME, SIDES, plan, run)


def measure(cell: Cell, data: StudyData) -> Measured:
    """Train, then score with running and with batch statistics in batches of each size."""
    measured, state = train_to_end(cell.run, data)
    images, labels = data.test.images[:IMAGES], np.asarray(data.test.labels[:IMAGES])
    sizes = [size for size in SIZES if size <= len(labels)]
    x = normalized(images, data.offset, data.factor)
    logits_of = _logits(cell.run.net)
    logits = {train: [_in_batches(logits_of, state, x, size, train=train) for size in sizes] for train in (True, False)}
    reference = logits[False][-1]
    scale = np.abs(reference).max(axis=(1, 2))
    return {
        **measured,
        "batch_accuracy": np.stack([_accuracy(found, labels) for found in logits[True]]),
        "running_accuracy": np.stack([_accuracy(found, labels) for found in logits[False]]),
        "running_spread": np.stack([np.abs(found - reference).max(axis=(1, 2)) / scale for found in logits[False]]),
        "company": _company(logits_of, state, x),
        "precise_accuracy": _precise(cell.run.net, state, data, x, labels),
    }


Logits = Callable[[State, jax.Array, bool], jax.Array]  # (state, x [B, D], train) -> [L, B, K]


def _logits(net: Net) -> Logits:
    def of_lane(state: State, x: jax.Array, train: bool) -> jax.Array:
        return forward(net, state.params, state.stats, x, train=train, key=jax.random.key(0)).logits

    return jax.jit(jax.vmap(of_lane, in_axes=(0, None, None)), static_argnums=2)


def _in_batches(logits_of: Logits, state: State, x: jax.Array, size: int, *, train: bool) -> np.ndarray:
    """Logits [L, N, K] of full batches of this size."""
    whole = len(x) // size * size
    parts = [np.asarray(logits_of(state, x[start : start + size], train)) for start in range(0, whole, size)]
    found: np.ndarray = np.concatenate(parts, axis=1)
    return found


def _accuracy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    hits: np.ndarray = (logits.argmax(axis=-1) == labels[: logits.shape[1]]).mean(axis=1)
    return hits


def _company(logits_of: Logits, state: State, x: jax.Array) -> np.ndarray:
    """The largest change [L] of the logits of some images when the others of their batch are replaced."""
    half = len(x) // 2
    one = x[:half]
    other = jnp.concatenate([x[:FIXED], x[half + FIXED :][: half - FIXED]])
    first, second = (np.asarray(logits_of(state, batch, False))[:, :FIXED] for batch in (one, other))
    change: np.ndarray = np.abs(first - second).max(axis=(1, 2))
    return change


def _precise(net: Net, state: State, data: StudyData, x: jax.Array, labels: np.ndarray) -> np.ndarray:
    """Accuracy [sizes, L] with the statistics of so many training images in place of the running ones."""
    replacing = replace(net, bn_momentum=0.0)

    def of_lane(state: State, images: jax.Array) -> jax.Array:
        train_x = normalized(images, data.offset, data.factor)
        key = jax.random.key(0)
        stats = forward(replacing, state.params, state.stats, train_x, train=True, key=key).stats
        return forward(net, state.params, stats, x, train=False, key=key).logits

    logits = jax.jit(jax.vmap(of_lane, in_axes=(0, None)))
    return np.stack([_accuracy(np.asarray(logits(state, data.train.images[:size])), labels) for size in PRECISE])


def _dependence(company: float, spread: float) -> str:
    """Words for what other images in the batch and another batch size change in the logits."""
    if company == spread == 0:
        return "neither other images in the batch nor another batch size changes a logit"
    others = f"other images in the batch change the logits by {company:g}"
    return f"{others}, another batch size by at most {spread:.1e} of the largest"


def conclude(results: Results) -> Conclusion:
    """Compare the variation of accuracy over batch sizes with either kind of statistics."""
    lane = best_lane(stacked(results, "BN", "val_accuracy"))
    batch, running, precise, spread = (
        stacked(results, "BN", name)[..., lane]
        for name in ("batch_accuracy", "running_accuracy", "precise_accuracy", "running_spread")
    )
    company = stacked(results, "BN", "company")[:, lane]
    dependence = Comparison(
        name="variation of accuracy over batch sizes, batch statistics − running statistics",
        values=tuple(((batch.max(axis=1) - batch.min(axis=1)) - (running.max(axis=1) - running.min(axis=1))).tolist()),
        margin=MARGIN,
        unit="points",
    )
    sizes = SIZES[: batch.shape[1]]
    by_batch = [points_of(batch[:, place].mean()) for place in (0, -1)]
    flat = (running.max(axis=1) == running.min(axis=1)).all()
    sentence = (
        f"With running statistics accuracy is {points_of(running.mean())} "
        f"{'at every batch size' if flat else 'on average over batch sizes'}: "
        f"{_dependence(company.max(), spread.max())}. "
        f"With batch statistics it is {by_batch[0]} at batch 1 and {by_batch[1]} at {sizes[-1]}."
    )
    level = running.mean(axis=0)
    figures = (
        Figure(
            name="eval-batch",
            title="Accuracy by the batch size of evaluation",
            x="batch size of evaluation",
            y="test accuracy",
            series=(curve("running statistics", sizes, running), curve("batch statistics", sizes, batch)),
            x_log="2",
            note="The same trained networks. Line: mean of the seeds. Band: least to greatest.",
        ),
        Figure(
            name="eval-batch-precise",
            title="Accuracy with the statistics of n training images",
            x="training images",
            y="test accuracy",
            series=(
                curve("precise statistics", PRECISE, precise),
                Series(label="running statistics", x=(PRECISE[0], PRECISE[-1]), y=(float(level[-1]),) * 2),
            ),
            x_log="2",
            note="What `bncli recalibrate` does. Line: mean of the seeds. Band: least to greatest.",
        ),
    )
    return Conclusion(verdict=dependence.verdict, sentence=sentence, comparisons=(dependence,), figures=figures)


EXPERIMENT = Experiment(
    name=NAME,
    order=9,
    claim="BN's running statistics make inference independent of the batch.",
    source="Ioffe & Szegedy 2015 (arXiv 1502.03167), section 3.1. Wu & Johnson 2021 (arXiv 2105.07576): statistics of "
    "10³ to 10⁴ examples (precise BN) are enough.",
    rule="The range of test accuracy over evaluation batches of 1 to 256. Supported if it is 5 points wider with batch "
    "statistics than with running statistics. With those, logits of the same images in other company must be equal to "
    "the bit at equal shapes.",
    cells=cells,
    measure=measure,
    conclude=conclude,
)
