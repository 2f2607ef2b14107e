"""The rules of verdicts on planted results: an effect is seen, no effect is not, and swapped labels turn it round."""

import numpy as np
import pytest

from bncli.studies.driver import csv_table, outcome_of
from bncli.studies.experiment import Plan
from bncli.studies.experiments import experiments
from bncli.studies.experiments.eval_batch import PRECISE, SIZES
from bncli.studies.experiments.gradients import BINS, STEPS
from bncli.studies.experiments.initialization import SCALES

PLANS = [Plan(seeds=3), Plan(seeds=2, quick=True)]
# BN is what the network computes with; "noisy" has BN inside.
HAS_BN = ("batch", "noisy", "ghost:16")


def planted(cell, *, has_effect):
    """The measurements of a cell, with what the papers say of BN if ``has_effect``."""
    run = cell.run
    lanes, points = len(run.lanes), run.points
    jitter = np.random.default_rng(run.seed).uniform(0.99, 1.01)
    rate, gain, dropout = (
        np.array([getattr(lane, name) for lane in run.lanes]) for name in ("learning_rate", "gain", "dropout")
    )
    final = np.where(rate <= (10 if has_effect else 0.1), 0.9, 0.1)
    final = final - 0.03 * (not has_effect) * np.abs(np.log2(gain)) + 0.02 * (not has_effect) * (dropout > 0)
    final = final - 0.2 * (has_effect and run.batch_size == 2 and cell.side == "BN")
    final = final - 0.02 * (cell.side == "BN after" and has_effect)
    final = np.maximum(final * jitter, 0.1)
    progress = 1 - np.exp(-(20 if has_effect else 4) * (np.arange(points) + 1) / points)
    accuracy = final * progress[:, None]
    train = accuracy + (0.01 if has_effect else 0.05)
    shape, worse = (points, lanes), 1.0 if has_effect else 4.0
    wander = np.linspace(0, worse, points)[:, None, None, None] * jitter
    return {
        "steps": np.arange(1, points + 1.0) * run.steps / points,
        "val_accuracy": accuracy,
        "test_accuracy": accuracy,
        "train_accuracy": train,
        "train_loss": np.full(shape, 0.1 * jitter),
        "diverged": (rate > (10 if has_effect else 0.1)).astype(float),
        "identity_output": np.full(len(SCALES), 1e-7 if has_effect else 3.0),
        "identity_gradient": np.full(len(SCALES), 1e-7 if has_effect else 3.0),
        "percentiles": wander + np.array([-1.0, 0.0, 1.0]) + np.zeros((*shape, 10, 3)),
        "shift_relative": np.full((*shape, 4), worse * jitter),
        "shift_cosine": np.full((*shape, 4), 1 - 0.1 * worse * jitter),
        "line_low": np.full(shape, 0.1),
        "line_high": np.full(shape, 0.1 + worse),
        "loss_range": np.full(shape, worse * jitter),
        "predictiveness": np.full(shape, worse * jitter),
        "smoothness": np.full(shape, worse * jitter),
        "relative_loss": np.broadcast_to(np.asarray(STEPS) * worse / 10 + 0.5, (*shape, len(STEPS))),
        "histogram": np.full((*shape, len(BINS) - 1), 1 / len(BINS)),
        "kurtosis": np.full(shape, 3 * worse * jitter),
        "batch_accuracy": np.linspace(0.1 if has_effect else 0.9, 0.9, len(SIZES))[:, None] + np.zeros(lanes),
        "running_accuracy": np.full((len(SIZES), lanes), 0.9),
        "running_spread": np.zeros((len(SIZES), lanes)),
        "company": np.zeros(lanes),
        "precise_accuracy": np.full((len(PRECISE), lanes), 0.9),
    }


def concluded(name, plan, has_effect):
    experiment = experiments()[name]
    results = {cell: planted(cell, has_effect=has_effect(cell)) for cell in experiment.cells(plan)}
    return outcome_of(experiment, results)


@pytest.mark.parametrize("plan", PLANS, ids=["full", "quick"])
@pytest.mark.parametrize("name", list(experiments()))
class TestVerdicts:
    def test_the_effect_of_the_papers_is_supported(self, name, plan):
        assert concluded(name, plan, lambda cell: cell.run.net.norm in HAS_BN).conclusion.verdict == "supported"

    def test_a_bn_that_does_nothing_supports_no_claim(self, name, plan):
        outcome = concluded(name, plan, lambda cell: False)
        assert outcome.conclusion.verdict == "not supported", outcome.conclusion.comparisons

    def test_swapped_labels_turn_the_verdict_round(self, name, plan):
        outcome = concluded(name, plan, lambda cell: cell.run.net.norm == "none")
        assert outcome.conclusion.verdict == "not supported", outcome.conclusion.comparisons


@pytest.mark.parametrize("name", list(experiments()))
def test_what_an_experiment_says(name):
    plan = Plan(seeds=2)
    experiment, outcome = experiments()[name], concluded(name, plan, lambda cell: cell.run.net.norm in HAS_BN)
    cells = experiment.cells(plan)
    assert len(set(cells)) == len(cells) == outcome.num_cells
    assert {cell.experiment for cell in cells} == {name}
    assert all(cell.run.steps % cell.run.points == 0 for cell in cells)
    assert "arXiv" in experiment.source
    assert "Supported if" in experiment.rule
    assert outcome.conclusion.sentence.endswith(".")
    names = [figure.name for figure in outcome.conclusion.figures]
    assert all(figure.startswith(name) for figure in names)
    assert len(set(names)) == len(names)
    for figure in outcome.conclusion.figures:
        rows = csv_table(figure).splitlines()
        assert len(rows) == 1 + sum(len(series.x) for series in figure.series)


def test_more_seeds_keep_the_cells_of_fewer():
    for experiment in experiments().values():
        assert set(experiment.cells(Plan(seeds=2))) < set(experiment.cells(Plan(seeds=3)))


def test_the_experiments_are_those_of_the_design():
    assert list(experiments()) == [
        "learning-rate",
        "speed",
        "initialization",
        "regularization",
        "covariate-shift",
        "noisy-bn",
        "landscape",
        "gradients",
        "eval-batch",
        "small-batch",
        "placement",
    ]
