"""Each rule objects to the channels that have its fault and to no others, and says so with numbers and a remedy."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bncli.inspection.findings import RULES, SEVERITIES, find
from bncli.inspection.layers import BatchNormArrays

CHANNELS = 20
HEALTHY = BatchNormArrays(
    name="Block_1/BatchNorm_0",
    mean=np.linspace(-1, 1, CHANNELS),
    var=np.linspace(0.5, 2, CHANNELS),
    scale=np.linspace(0.5, 1.5, CHANNELS),
    bias=np.linspace(-0.5, 0.5, CHANNELS),
    epsilon=1e-5,
    momentum=0.9,
    relu_follows=True,
)
# code -> (array, a value that is its fault)
FAULTS = {
    "dead-channels": [("scale", 0.0), ("bias", -9.0)],
    "epsilon-dominated": [("var", 0.0), ("var", 9e-6), ("var", -1e-6)],
    "nonfinite": [("mean", np.nan), ("mean", -np.inf), ("var", np.inf), ("var", np.nan), ("scale", np.nan), ("bias", np.nan)],
}
CASES = [(code, array, value) for code, cases in FAULTS.items() for array, value in cases]


def with_value(layer, array, channels, value):
    changed = getattr(layer, array).copy()
    changed[list(channels)] = value
    return replace(layer, **{array: changed})


def test_a_healthy_layer_has_no_findings():
    assert find([HEALTHY]) == ()
    assert find([]) == ()


def test_every_rule_is_planted_here():
    assert {rule.code for rule in RULES} == {*FAULTS, "never-updated"}


@pytest.mark.parametrize(("code", "array", "value"), CASES)
@given(channels=st.sets(st.integers(0, CHANNELS - 1), min_size=1))
def test_a_fault_is_found_in_the_channels_that_have_it(code, array, value, channels):
    (finding,) = find([HEALTHY, with_value(replace(HEALTHY, name="sick"), array, channels, value)])
    assert (finding.code, finding.layer, finding.channels) == (code, "sick", tuple(sorted(channels)))
    assert finding.message.startswith(f"{len(channels)} of {CHANNELS} channels")
    assert finding.remedy


def test_start_values_throughout_mean_that_nothing_was_ever_updated():
    untouched = replace(HEALTHY, mean=np.zeros(CHANNELS), var=np.ones(CHANNELS))
    (finding,) = find([untouched])
    assert (finding.code, finding.severity, finding.channels) == ("never-updated", "error", tuple(range(CHANNELS)))
    assert "mutable=['batch_stats']" in finding.remedy
    assert find([with_value(untouched, "mean", [3], 1e-7)]) == ()
    assert find([with_value(untouched, "var", [3], 1 + 1e-7)]) == ()


@pytest.mark.parametrize(("epsilon", "found"), [(1e-5, False), (1e-3, True)])
def test_the_bound_on_the_variance_is_the_layers_own_epsilon(epsilon, found):
    layer = replace(with_value(HEALTHY, "var", [7], 5e-4), epsilon=epsilon)
    assert [finding.code for finding in find([layer])] == ["epsilon-dominated"] * found
    assert all(f"ε = {epsilon:g}" in finding.message for finding in find([layer]))


@pytest.mark.parametrize(("dead", "severity"), [(1, "info"), (2, "warning"), (20, "warning")])
def test_a_few_dead_channels_are_only_worth_knowing(dead, severity):
    (finding,) = find([with_value(HEALTHY, "scale", range(dead), 0.0)])
    assert finding.severity == severity


def test_the_gravest_comes_first_and_equals_stay_in_the_order_of_the_layers():
    sick = [
        replace(with_value(HEALTHY, "scale", [1], 0.0), name="info"),
        replace(with_value(HEALTHY, "var", [1], 0.0), name="warning"),
        replace(with_value(HEALTHY, "mean", [1], np.nan), name="error"),
        replace(with_value(HEALTHY, "var", [2], np.nan), name="error again"),
    ]
    findings = find(sick)
    assert [finding.layer for finding in findings] == ["error", "error again", "warning", "info"]
    assert [finding.severity for finding in findings] == ["error", "error", "warning", "info"]
    assert set(SEVERITIES) == {finding.severity for finding in findings}


def test_a_layer_without_scale_and_bias_can_be_judged():
    bare = replace(HEALTHY, scale=None, bias=None)
    assert find([bare]) == ()
    assert [finding.code for finding in find([with_value(bare, "mean", [0], np.nan)])] == ["nonfinite"]
