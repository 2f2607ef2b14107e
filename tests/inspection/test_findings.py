"""Each finding, planted in a healthy layer, is found in it by its code on its channels, and nothing else is."""

import numpy as np
import pytest

from bncli.inspection.findings import RULES, SEVERITIES, find
from bncli.inspection.layers import BatchNormArrays

CHANNELS = 20


def layer(name="norm", **changes):
    """Twenty healthy channels; a change is an array, or {channel: value}."""
    draw = np.random.default_rng(0)
    arrays = {
        "mean": draw.normal(size=CHANNELS),
        "var": draw.uniform(0.1, 2, CHANNELS),
        "scale": draw.uniform(0.5, 1.5, CHANNELS),
        "bias": draw.normal(0, 0.1, CHANNELS),
    }
    settings = {"name": name, "epsilon": 1e-5, "momentum": 0.9, "relu_follows": True}
    for key, change in changes.items():
        if isinstance(change, dict):
            for channel, value in change.items():
                arrays[key][channel] = value
        elif key in arrays:
            arrays[key] = change
        else:
            settings[key] = change
    return BatchNormArrays(**arrays, **settings)


PLANTED = [
    ({"mean": {3: np.nan}}, "nonfinite", "error", (3,)),
    ({"var": {3: np.inf, 5: np.nan}}, "nonfinite", "error", (3, 5)),
    ({"scale": {0: -np.inf}}, "nonfinite", "error", (0,)),
    ({"bias": {19: np.nan}}, "nonfinite", "error", (19,)),
    ({"mean": np.zeros(CHANNELS), "var": np.ones(CHANNELS)}, "never-updated", "error", tuple(range(CHANNELS))),
    ({"var": {7: 0.0, 8: 9e-6}}, "epsilon-dominated", "warning", (7, 8)),
    ({"var": {2: -0.5}}, "epsilon-dominated", "warning", (2,)),
    ({"scale": {4: 0.0}}, "dead-channels", "info", (4,)),
    ({"scale": {4: 0.0, 5: 1e-5}}, "dead-channels", "warning", (4, 5)),  # a tenth of the layer
    ({"bias": {6: -9.0}}, "dead-channels", "info", (6,)),
]


@pytest.mark.parametrize(("changes", "code", "severity", "channels"), PLANTED)
def test_what_is_planted_is_found_and_nothing_else(changes, code, severity, channels):
    (finding,) = find([layer("healthy"), layer("sick", **changes), layer("healthy_too")])
    assert (finding.code, finding.severity, finding.layer, finding.channels) == (code, severity, "sick", channels)
    assert finding.remedy
    assert f"{len(channels)} of {CHANNELS}" in finding.message or f"all {CHANNELS}" in finding.message


def test_every_rule_is_planted_above():
    assert {rule.code for rule in RULES} == {code for _, code, _, _ in PLANTED}
    assert len({rule.code for rule in RULES}) == len(RULES)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mean": np.zeros(CHANNELS)},  # centred inputs
        {"var": np.ones(CHANNELS)},
        {"mean": np.zeros(CHANNELS), "var": np.append(np.ones(CHANNELS - 1), 1.0001)},
        {"var": np.full(CHANNELS, 1.1e-5)},
        {"var": np.full(CHANNELS, 5e-4), "epsilon": 4e-4},
        {"scale": None, "bias": None},
        {"bias": {6: -9.0}, "relu_follows": False},
    ],
)
def test_what_only_looks_like_it_is_not_found(changes):
    assert find([layer(**changes)]) == ()


def test_the_epsilon_of_the_layer_is_what_counts():
    (finding,) = find([layer(var=np.full(CHANNELS, 5e-4), epsilon=1e-3)])
    assert finding.code == "epsilon-dominated"
    assert "ε = 0.001" in finding.message


def test_the_gravest_come_first_and_equals_in_the_order_of_the_layers():
    findings = find(
        [
            layer("a", scale={0: 0.0}),
            layer("b", var={0: 0.0}),
            layer("c", mean={0: np.nan}),
            layer("d", mean={0: np.nan}),
        ]
    )
    assert [finding.layer for finding in findings] == ["c", "d", "b", "a"]
    assert [SEVERITIES.index(finding.severity) for finding in findings] == [0, 0, 1, 2]


def test_no_layers_have_no_findings():
    assert find([]) == ()
