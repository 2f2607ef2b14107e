"""The trainings of a study: lanes are alone, equal settings give equal bytes, and a planted BN supports nothing."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from bncli.data import load_dataset
from bncli.studies import network
from bncli.studies.data import StudyData
from bncli.studies.driver import outcome_of
from bncli.studies.experiment import Plan
from bncli.studies.experiments import experiments
from bncli.studies.network import Net
from bncli.studies.training import Lane, Run, train

SMALL = Run(
    net=Net(features=(8,)),
    lanes=(Lane(learning_rate=0.1), Lane(learning_rate=1e30), Lane(learning_rate=0.3)),
    seed=0,
    batch_size=16,
    steps=6,
    points=2,
)


@pytest.fixture(scope="module")
def data():
    return StudyData.of(load_dataset("digits"))


@pytest.fixture(scope="module")
def measured(data):
    return train(SMALL, data)


def test_a_lane_that_diverges_counts_as_guessing_and_harms_no_other(measured, data):
    np.testing.assert_array_equal(measured["diverged"], [0, 1, 0])
    np.testing.assert_array_equal(measured["test_accuracy"][-1, 1], data.chance)
    assert np.isnan(measured["train_loss"][-1, 1])
    assert np.isfinite(measured["train_loss"][:, [0, 2]]).all()


def test_the_same_run_gives_the_same_bytes(measured, data):
    again = train(SMALL, data)
    for name, values in measured.items():
        np.testing.assert_array_equal(again[name], values, err_msg=name)


def test_the_sides_start_from_the_same_weights_and_see_the_same_batches(data):
    """At a learning rate of almost 0, BN in eval mode after no step differs from none, but twins do not differ."""
    lane = (Lane(learning_rate=0.1),)
    plain = replace(SMALL, lanes=lane, net=replace(SMALL.net, norm="none"))
    one, other = (train(replace(plain, net=replace(plain.net, placement=place)), data) for place in ("pre", "post"))
    np.testing.assert_array_equal(one["test_accuracy"], other["test_accuracy"])


@pytest.fixture
def bn_is_the_identity(monkeypatch):
    """Programs that were compiled with the real BN are forgotten, and afterwards those without."""
    jax.clear_caches()
    monkeypatch.setitem(network.NORMS, "batch", network.NORMS["none"])
    yield
    jax.clear_caches()


@pytest.mark.slow
@pytest.mark.usefixtures("bn_is_the_identity")
def test_a_bn_that_is_the_identity_supports_no_claim(data):
    """The whole way, trainings included, for the experiments that need few of them."""
    plan = Plan(seeds=2, quick=True)
    for name in ("learning-rate", "initialization", "noisy-bn", "landscape", "gradients", "eval-batch", "placement"):
        experiment = experiments()[name]
        outcome = outcome_of(experiment, {cell: experiment.measure(cell, data) for cell in experiment.cells(plan)})
        assert outcome.conclusion.verdict == "not supported", (name, outcome.conclusion)
