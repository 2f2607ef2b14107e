"""``bncli lr-find``: the learning-rate range test of Smith 2015 (arXiv 1506.01186, section 3.3).

A network trains for some steps while its learning rate grows exponentially. The loss first stands still, then falls,
and in the end explodes. Everything happens on a copy of the weights, which is thrown away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from bncli.config.choices import LrRule
from bncli.config.settings import RunConfig
from bncli.data import Dataset
from bncli.data.batches import Batch
from bncli.errors import ModelError
from bncli.frameworks.linen import Variables
from bncli.training.assembly import create_trainer
from bncli.training.execution import StepExecution
from bncli.training.state import EpochMetrics, TrainState
from bncli.weights import Pretrained

# Weight of the old value in the moving average of the loss.
SMOOTHING = 0.9
# A smoothed loss that is so many times the lowest one has exploded.
DIVERGED = 4.0
# Steps of the test over which a slope is fitted, as a share of all; fewer follow the noise of single batches.
SLOPE_SHARE = 0.2
# The loss must fall by this share, and by so many times the noise of a batch, for a suggestion to mean anything.
LEAST_FALL, LEAST_FALL_IN_NOISE = 0.05, 2.0
# What the rule "minimum" divides the learning rate of the lowest loss by.
BELOW_MINIMUM = 10.0

Ending: TypeAlias = Literal["diverged", "finished"]


@dataclass(frozen=True, kw_only=True)
class RangeTest:
    """The learning rates of a test.

    Attributes:
        lowest: of the first step.
        highest: of the last step, if the loss has not exploded before.
        steps: number of steps, and of learning rates between the two.
        rule: the way from the curve to a suggestion.
    """

    lowest: float = 1e-5
    highest: float = 10.0
    steps: int = 100
    rule: LrRule = "steepest"

    @property
    def rates(self) -> np.ndarray:
        """The learning rates, [steps]; each is the one before times the same factor."""
        rates: np.ndarray = np.geomspace(self.lowest, self.highest, self.steps)
        return rates


@dataclass(frozen=True)
class Point:
    """One step of a test.

    Attributes:
        learning_rate: of the step.
        loss: of its batch, before the step.
        smoothed: moving average of the losses so far, corrected for its start at 0.
    """

    learning_rate: float
    loss: float
    smoothed: float


@dataclass(frozen=True)
class Suggestion:
    """A learning rate for a training.

    Attributes:
        learning_rate: the peak of a schedule.
        rule: how it follows from the curve.
    """

    learning_rate: float
    rule: LrRule


@dataclass(frozen=True)
class LrFindResult:
    """The result of a test.

    Attributes:
        config: settings of the run that the test is for.
        dataset: name of the data set.
        test: the learning rates that were planned.
        points: one a step, until the loss exploded.
        ending: "diverged" if it did, "finished" if the highest learning rate came first.
        suggestion: None if the loss did not fall.
        by_rule: the learning rate that each rule gives; empty if the loss did not fall.
    """

    config: RunConfig
    dataset: str
    test: RangeTest
    points: tuple[Point, ...]
    ending: Ending
    suggestion: Suggestion | None
    by_rule: dict[LrRule, float]

    @property
    def lowest(self) -> Point:
        """The point of the lowest smoothed loss."""
        return min(self.points, key=lambda point: point.smoothed)


def find_learning_rate(
    config: RunConfig,
    dataset: Dataset,
    test: RangeTest | None = None,
    *,
    pretrained: Pretrained | None = None,
    variables: Variables | None = None,
    on_step: Callable[[Point], None] | None = None,
) -> LrFindResult:
    """Run the test for the training that ``config`` describes.

    Args:
        config: of the training; its learning rate and schedule play no part.
        dataset: to train on; the validation and the test split are not touched.
        test: the learning rates; None takes the defaults.
        pretrained: the weights that the training begins with; None for random ones.
        variables: weights to begin with instead, which stay as they are; None for those of the training.
        on_step: called after each step.

    Raises:
        ModelError: the first step has no finite loss, or ``variables`` are of another network.
    """
    test = test or RangeTest()
    trainer = create_trainer(_at_rate_one(config), dataset, Path(), pretrained=pretrained)
    start = trainer.state if variables is None else _beginning_with(variables, trainer.state)
    points: list[Point] = []
    with closing(trainer.execution):
        for point in _points(trainer.execution, start, test):
            points.append(point)
            if on_step is not None:
                on_step(point)
            if has_exploded(points):
                break
    if not points:
        raise ModelError(
            f"the first step of {config.model.name} has no finite loss",
            remedy="Begin with other weights, or with a lower --lowest.",
        )
    by_rule = rates_by_rule(points)
    suggestion = Suggestion(by_rule[test.rule], test.rule) if by_rule else None
    ending: Ending = "finished" if len(points) == test.steps and not has_exploded(points) else "diverged"
    return LrFindResult(config, dataset.name, test, tuple(points), ending, suggestion, by_rule)


def _at_rate_one(config: RunConfig) -> RunConfig:
    """The settings of a run whose every step has the learning rate 1, which the test multiplies by its own."""
    return replace(
        config,
        optimizer=replace(
            config.optimizer, learning_rate=1.0, schedule="constant", warmup_epochs=0.0, schedule_epochs=None
        ),
        training=replace(config.training, ema_decay=None, precise_bn=False),
        finetune=replace(config.finetune, unfreeze_at=None),
    )


def _beginning_with(variables: Variables, state: TrainState) -> TrainState:
    """The state with copies of these variables: a step takes the memory of what it is given."""
    given = {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (given, state.variables)]
    if shapes[0] != shapes[1]:
        raise ModelError(
            "the weights are of another network", remedy="Leave out the options that change the network or the data."
        )
    copies = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), given)
    return replace(state, **copies)


def _points(execution: StepExecution, state: TrainState, test: RangeTest) -> Iterator[Point]:
    """One point a step, up to the step that is not finite."""
    state = execution.put(state)
    average = 0.0
    for number, (rate, (epoch, batch)) in enumerate(zip(test.rates, _batches(execution), strict=False), start=1):
        state = replace(
            state, rate_scale=execution.scalar(np.float32(rate)), metrics=execution.put(EpochMetrics.zero())
        )
        state, metrics = execution.run(state, epoch, [batch], updates=number - 1)
        if bool(metrics.halted):
            return
        loss = float(metrics.loss)
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        yield Point(float(rate), loss, average / (1 - SMOOTHING**number))


def _batches(execution: StepExecution) -> Iterator[tuple[int, Batch]]:
    """The batches of a training without end, each with its epoch."""
    for epoch in count():
        for group in execution.groups(epoch):
            yield from ((epoch, batch) for batch in group)


def has_exploded(points: Sequence[Point]) -> bool:
    """True if the last smoothed loss is far above the lowest one."""
    return not points[-1].smoothed <= DIVERGED * min(point.smoothed for point in points)


def rates_by_rule(points: Sequence[Point]) -> dict[LrRule, float]:
    """The learning rate that each rule finds in a curve; empty if the loss does not fall."""
    lowest = min(range(len(points)), key=lambda number: points[number].smoothed)
    if not _falls(points[: lowest + 1]):
        return {}
    return {
        "minimum": points[lowest].learning_rate / BELOW_MINIMUM,
        "steepest": points[_steepest(points[: lowest + 1])].learning_rate,
    }


def _falls(points: Sequence[Point]) -> bool:
    """True if the last smoothed loss is clearly below the first losses, beyond the noise of single batches."""
    losses = np.array([point.loss for point in points])
    first = losses[: max(3, len(losses) // 10)].mean()
    noise = np.diff(losses).std() / math.sqrt(2) if len(losses) > 2 else math.inf
    return bool(first - points[-1].smoothed > max(LEAST_FALL * first, LEAST_FALL_IN_NOISE * noise))


def _steepest(points: Sequence[Point]) -> int:
    """The place where the loss falls fastest over the logarithm of the learning rate.

    The line that is fitted around each place takes the noise out, so the smoothing, which lags, is not needed.
    """
    losses = np.array([point.loss for point in points])
    logs = np.log([point.learning_rate for point in points])
    half = max(1, min(round(SLOPE_SHARE * len(points) / 2), (len(points) - 1) // 2))
    centers = range(half, max(half + 1, len(points) - half))
    windows = [slice(at - half, at + half + 1) for at in centers]
    slopes = [np.polyfit(logs[window], losses[window], 1)[0] for window in windows]
    return centers[int(np.argmin(slopes))]
