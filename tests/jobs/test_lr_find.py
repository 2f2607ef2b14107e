"""The range test: the rate grows to the explosion, the rules find known minima, and the weights given are only read."""

import math

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tiny import run_config

from bncli import checkpoint
from bncli.errors import ModelError
from bncli.jobs.lr_find import BELOW_MINIMUM, Point, RangeTest, find_learning_rate, has_exploded, rates_by_rule

SHORT = RangeTest(lowest=1e-4, highest=1e5, steps=40)


@pytest.fixture(scope="module")
def found(dataset):
    return find_learning_rate(run_config(training={"batch_size": 28}), dataset, SHORT)


def test_the_rate_grows_by_the_same_factor_until_the_loss_explodes(found):
    rates = np.array([point.learning_rate for point in found.points])
    np.testing.assert_allclose(rates[1:] / rates[:-1], (1e9) ** (1 / 39), rtol=1e-6)
    assert rates[0] == pytest.approx(1e-4)
    assert found.ending == "diverged"
    assert len(rates) < SHORT.steps
    assert not any(map(has_exploded, (found.points[:end] for end in range(1, len(found.points)))))


def test_the_suggestion_lies_before_the_explosion_and_is_that_of_its_rule(found):
    assert found.suggestion.learning_rate == found.by_rule["steepest"]
    assert SHORT.lowest < found.suggestion.learning_rate < found.lowest.learning_rate
    assert found.by_rule["minimum"] == found.lowest.learning_rate / BELOW_MINIMUM


def test_the_same_test_gives_the_same_curve(found, dataset):
    again = find_learning_rate(run_config(training={"batch_size": 28}), dataset, SHORT)
    assert again == found


def test_the_learning_rate_and_the_schedule_of_the_run_play_no_part(found, dataset):
    config = run_config(
        training={"batch_size": 28, "ema_decay": 0.9},
        optimizer={"learning_rate": 7.0, "schedule": "one-cycle", "warmup_epochs": 3},
    )
    assert find_learning_rate(config, dataset, SHORT).points == found.points


def test_a_test_that_ends_at_the_highest_rate_says_so_and_suggests_nothing_if_the_loss_stood_still(dataset):
    still = find_learning_rate(run_config(), dataset, RangeTest(lowest=1e-12, highest=1e-11, steps=10))
    assert (still.ending, still.suggestion, still.by_rule) == ("finished", None, {})
    assert len(still.points) == 10


def test_weights_that_are_given_stay_as_they_are_to_the_bit(trained, dataset):
    before = {path: path.read_bytes() for path in sorted(trained.out.rglob("*")) if path.is_file()}
    variables = checkpoint.load_variables(trained.out, trained.best.step)
    hashed = checkpoint.sha256_tree(variables)
    config = checkpoint.read_config(trained.out).run
    result = find_learning_rate(config, dataset, RangeTest(steps=10), variables=variables)
    assert checkpoint.sha256_tree(variables) == hashed
    assert {path: path.read_bytes() for path in sorted(trained.out.rglob("*")) if path.is_file()} == before
    assert result.points[0].loss < find_learning_rate(config, dataset, RangeTest(steps=10)).points[0].loss


def test_weights_of_another_network_are_refused(trained, dataset):
    variables = checkpoint.load_variables(trained.out, trained.best.step)
    with pytest.raises(ModelError, match="of another network"):
        find_learning_rate(run_config(), dataset, RangeTest(steps=10), variables=variables)


def test_a_network_without_a_finite_loss_is_refused(trained, dataset):
    config = checkpoint.read_config(trained.out).run
    variables = checkpoint.load_variables(trained.out, trained.best.step)
    broken = {**variables, "params": jax.tree.map(lambda leaf: leaf * np.nan, variables["params"])}
    with pytest.raises(ModelError, match="no finite loss"):
        find_learning_rate(config, dataset, RangeTest(steps=10), variables=broken)


def curve(losses, rates):
    return [Point(float(rate), float(loss), float(loss)) for rate, loss in zip(rates, losses, strict=True)]


@given(center=st.floats(-3, 0), steps=st.integers(60, 200))
def test_the_rules_find_the_steepest_place_and_the_lowest_one_of_a_known_curve(center, steps):
    """A loss that falls as a logistic curve of the logarithm, and then rises."""
    rates = np.geomspace(1e-5, 100, steps)
    logs = np.log10(rates)
    losses = 3 - 2 / (1 + np.exp(-4 * (logs - center))) + np.exp(8 * (logs - center - 2))
    found = rates_by_rule(curve(losses, rates))
    assert math.log10(found["steepest"]) == pytest.approx(center, abs=0.25)
    assert found["minimum"] == rates[losses.argmin()] / BELOW_MINIMUM


@given(st.lists(st.floats(1, 2), min_size=10, max_size=40))
def test_a_loss_that_never_falls_gives_no_rate(rises):
    losses = np.cumsum(rises)
    assert rates_by_rule(curve(losses, np.geomspace(1e-5, 1, len(losses)))) == {}
