"""Each finding, planted in a trained checkpoint, is found on its layer and its channels, and nothing else is."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support import tiny
from support.planting import CHANNELS, STEP, configure, layer, plant, two_replicas

import bncli
from bncli.config.choices import FindingCode
from bncli.inspection import inspect_stats
from bncli.inspection.findings import RULES, RULES_ON_DATA, SEVERITIES, catalogue, find
from bncli.inspection.layers import BatchNormArrays
from bncli.jobs.recalibrate import Sampling, recalibrate_checkpoint

ALL = {0: 0, 1: 0, 2: 0, 3: 0}

# What is put into channels of BatchNorm_1, of four channels -> (code, severity, channels).
PLANTED_ARRAYS = [
    ({"mean": {1: np.nan}}, "nonfinite", "error", (1,)),
    ({"var": {0: np.inf, 3: np.nan}}, "nonfinite", "error", (0, 3)),
    ({"scale": {2: -np.inf}}, "nonfinite", "error", (2,)),
    ({"bias": {0: np.nan}}, "nonfinite", "error", (0,)),
    ({"var": {2: -0.5}}, "negative-variance", "error", (2,)),
    ({"mean": ALL, "var": dict.fromkeys(ALL, 1)}, "never-updated", "error", ()),
    ({"scale": {3: 0.0}}, "dead-channels", "info", (3,)),
    ({"scale": {1: 1e-4, 3: 0.0}}, "dead-channels", "warning", (1, 3)),
    ({"bias": {0: -30.0}}, "dead-channels", "info", (0,)),  # a ReLU is known to follow
    ({"mean": {1: 1e-4}, "var": {1: 1e-7}}, "dead-inputs", "info", (1,)),
    ({"mean": {0: 0, 1: 1e-4}, "var": {0: 0, 1: 1e-7}}, "dead-inputs", "warning", (0, 1)),
    ({"mean": {2: 0.5}, "var": {2: 1e-6}}, "epsilon-dominated", "warning", (2,)),
    ({"mean": {2: 5000.0}, "var": {2: 1.0}}, "cancellation-risk", "warning", (2,)),
    ({"mean": {2: 5000.0}, "var": {2: 0.0}}, "cancellation-risk", "warning", (2,)),  # what is left of it
    ({"scale": {3: 3000.0}, "var": {3: 1.0}}, "exploding-gain", "warning", (3,)),
    ({"scale": {3: 1.0}, "var": {3: 3e-5}}, "exploding-gain", "info", (3,)),
    ({"scale": {0: -40.0}, "var": {0: 1.0}}, "scale-outlier", "info", (0,)),
    ({"var": {1: 1e5}}, "float16-overflow", "info", (1,)),
    ({"mean": {1: 300.0}, "var": {1: 1.0}}, "bfloat16-precision", "info", (1,)),
]


@pytest.mark.sample(4)
@pytest.mark.parametrize(("arrays", "code", "severity", "channels"), PLANTED_ARRAYS)
def test_what_is_planted_in_a_trained_checkpoint_is_found_and_nothing_else(copied, arrays, code, severity, channels):
    assert inspect_stats(copied).findings == ()
    plant(copied, {"BatchNorm_1": arrays})
    (finding,) = inspect_stats(copied, step=str(STEP)).findings
    assert (finding.code, finding.severity, finding.layer, finding.channels) == (
        code,
        severity,
        "BatchNorm_1",
        channels,
    )
    assert finding.message
    assert finding.remedy
    assert inspect_stats(copied).findings == ()


# Settings of the model that a checkpoint of 12 steps was trained with -> the code on both of its layers.
PLANTED_SETTINGS = [
    ({"bn_momentum": 0.1}, "momentum-convention"),
    ({"bn_momentum": 0.0}, "momentum-convention"),
    ({"bn_momentum": 0.999}, "not-converged"),
]


@pytest.mark.parametrize(("settings", "code"), PLANTED_SETTINGS)
def test_a_setting_planted_in_a_trained_checkpoint_is_found_on_all_layers(copied, settings, code):
    configure(copied, **settings)
    findings = inspect_stats(copied).findings
    assert [(finding.code, finding.severity, finding.layer, finding.channels) for finding in findings] == [
        (code, "warning", "BatchNorm_0", ()),
        (code, "warning", "BatchNorm_1", ()),
    ]


NET = """
import flax.linen as nn
from functools import partial


class Net(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, x, train):
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.5)
        x = nn.relu(norm(name="unfoldable")(x))
        for name, settings in {
            "usual": {}, "pytorch": {"momentum": 0.1}, "slow": {"momentum": 0.99}, "keras": {"epsilon": 1e-2}
        }.items():
            x = nn.relu(norm(name=name, **settings)(nn.Conv(4, (3, 3), use_bias=False)(x)))
        return nn.Dense(self.num_classes)(x.mean(axis=(1, 2)))
"""


@pytest.mark.broad
def test_settings_of_single_layers_of_a_trained_network_are_found_on_these(dataset, tmp_path):
    (tmp_path / "net.py").write_text(NET)
    model = {"name": f"{tmp_path}/net.py:Net", "args": {}}
    tiny.train(
        tiny.run_config(model=model, data={"augment": False}, training={"epochs": 4, "batch_size": 28}),
        dataset,
        tmp_path / "ckpt",
    )
    report = inspect_stats(tmp_path / "ckpt")
    assert {(finding.code, finding.layer, finding.channels) for finding in report.findings} == {
        ("not-foldable", "unfoldable", ()),
        ("momentum-convention", "pytorch", ()),
        ("not-converged", "slow", ()),
        ("epsilon-differs", "keras", ()),
    }
    messages = {finding.code: finding.message for finding in report.findings}
    assert "because" in messages["not-foldable"]
    assert "4 of 5 layers have 1e-05" in messages["epsilon-differs"]
    assert "PyTorch's 0.1 is 0.9 in this convention" in messages["momentum-convention"]


def test_replicas_planted_on_a_trained_layer_disagree_there(trained):
    first, second = inspect_stats(trained.out).arrays
    assert find([first, replace(second, replicas=two_replicas(count=4))]) == ()
    (finding,) = find([first, replace(second, replicas=two_replicas(mean=0.5, channels=(1, 2), count=4))])
    assert (finding.code, finding.severity, finding.layer, finding.channels) == (
        "replicas-disagree",
        "warning",
        "BatchNorm_1",
        (1, 2),
    )


def test_every_rule_is_planted_above_and_may_be_ignored():
    elsewhere = {"not-foldable", "epsilon-differs", "replicas-disagree", "infinite-gain", "train-mode"}
    elsewhere |= {"undebiased-variance"}  # in networks of Equinox only
    planted = {row[1] for row in (*PLANTED_ARRAYS, *PLANTED_SETTINGS)} | elsewhere
    assert planted == {rule.code for rule in RULES}
    codes = [entry.code for entry in catalogue()]
    assert codes == [rule.code for rule in (*RULES, *RULES_ON_DATA)]
    assert sorted(codes) == list(get_args(FindingCode))


def test_the_catalogue_has_words_for_every_finding():
    for entry in catalogue():
        assert entry.severities
        assert entry.when
        assert entry.why
        assert entry.remedy
        assert "{" not in entry.remedy


def test_a_rule_gives_way_to_earlier_ones_only():
    """Those it names must have been applied when its turn comes."""
    before: set[str] = set()
    for rule in RULES:
        assert set(rule.unless) <= before, rule.code
        assert set(rule.severities) <= set(SEVERITIES)
        before.add(rule.code)


def test_what_recalibration_is_the_remedy_for_is_gone_after_it(copied, dataset, tmp_path):
    configure(copied, bn_momentum=0.1)
    plant(
        copied,
        {"BatchNorm_0": {"var": {0: -0.5}}, "BatchNorm_1": {"mean": ALL, "var": dict.fromkeys(ALL, 1)}},
    )
    findings = inspect_stats(copied, step=str(STEP)).findings
    assert {finding.code for finding in findings} == {"negative-variance", "never-updated", "momentum-convention"}
    assert all(finding.remedy.startswith(f"bncli recalibrate {copied} OUT") for finding in findings)
    recalibrate_checkpoint(bncli.load(copied, step=str(STEP)), tmp_path / "out", dataset, Sampling(num_batches=None))
    assert inspect_stats(tmp_path / "out").findings == ()


# On one layer of twenty channels: what would be several findings at first sight -> (code, channels).
ONE_DEFECT = [
    ({"var": {3: np.nan}, "scale": {3: 0.0}}, "nonfinite", (3,)),
    ({"var": {3: -1.0}, "mean": {3: 1e6}}, "negative-variance", (3,)),
    ({"var": {3: -1.0}, "scale": {3: 1e6}}, "negative-variance", (3,)),
    ({"var": {3: -1.0}, "replicas": two_replicas(mean=3.0, channels=(3,))}, "negative-variance", (3,)),
    ({"mean": np.zeros(20), "var": np.ones(20), "momentum": 0.999, "updates": 5}, "never-updated", ()),
    ({"mean": np.zeros(20), "var": np.ones(20), "momentum": 0.1}, "never-updated", ()),
    ({"mean": np.zeros(20), "var": np.ones(20), "scale": np.zeros(20)}, "never-updated", ()),  # zero-init γ
    ({"scale": {4: 1e-9}, "mean": {4: 1.0}, "var": {4: 1e-12}}, "dead-channels", (4,)),
    ({"scale": {4: 0.0}, "mean": {4: 1e6}}, "dead-channels", (4,)),
    ({"mean": {5: 0.0}, "var": {5: 0.0}, "scale": {5: 1e6}}, "dead-inputs", (5,)),
    ({"mean": {5: 1.0}, "var": {5: 0.0}, "scale": {5: 10.0}}, "epsilon-dominated", (5,)),
    ({"mean": {5: 1e6}}, "cancellation-risk", (5,)),  # bfloat16-precision and float16-overflow too
    ({"mean": {5: 1e4}, "var": {5: 0.0}}, "cancellation-risk", (5,)),
    ({"scale": {6: 1e6}}, "exploding-gain", (6,)),  # scale-outlier and float16-overflow too
    ({"momentum": 0.1, "updates": 12}, "momentum-convention", ()),
    ({"excess": 0.58}, "undebiased-variance", tuple(range(20))),
    ({"var": {3: -1e-5}, "epsilon": 1e-5}, "negative-variance", (3,)),
    ({"scale": {3: 3e38}, "var": {3: 0.01}}, "infinite-gain", (3,)),  # beyond float32
    ({"mean": {3: 3e38}, "var": {3: 0.01}}, "infinite-gain", (3,)),
    ({"train_mode": True}, "train-mode", ()),
    ({"train_mode": True, "mean": np.zeros(20), "var": np.ones(20), "momentum": 0.1}, "train-mode", ()),
    ({"mean": np.zeros(20), "var": np.full(20, np.float32(0.9) ** 7)}, "never-updated", ()),
    ({"mean": np.zeros(20), "var": np.zeros(20)}, "never-updated", ()),  # erased
    ({"mean": np.zeros(20), "var": np.full(20, 0.99), "momentum": 0.99, "updates": 1}, "never-updated", ()),
]


@pytest.mark.parametrize(("changes", "code", "channels"), ONE_DEFECT)
def test_one_defect_has_one_code(changes, code, channels):
    (finding,) = find([layer("healthy"), layer("sick", **changes), layer("healthy_too")])
    assert (finding.code, finding.layer, finding.channels) == (code, "sick", channels)


def test_two_defects_of_one_layer_have_two():
    sick = layer(var={3: np.nan, 4: -1.0}, scale={5: 0.0}, momentum=0.999, updates=100)
    assert [(finding.code, finding.channels) for finding in find([sick])] == [
        ("nonfinite", (3,)),
        ("negative-variance", (4,)),
        ("not-converged", ()),
        ("dead-channels", (5,)),
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mean": np.zeros(CHANNELS)},  # centred inputs
        {"mean": np.zeros(CHANNELS), "var": np.full(CHANNELS, 0.85)},  # no power of 0.9
        {"mean": np.zeros(CHANNELS), "var": np.full(CHANNELS, 0.9), "measured": True},
        {"var": np.ones(CHANNELS)},
        {"mean": np.zeros(CHANNELS), "var": np.append(np.ones(CHANNELS - 1), 1.0001), "updates": 1000},
        {"var": np.full(CHANNELS, 1.1e-5), "mean": np.zeros(CHANNELS)},  # all alike: a small input
        {"var": np.full(CHANNELS, 5e-4), "epsilon": 4e-4},
        {"scale": None, "bias": None},
        {"bias": {6: -9.0}, "relu_follows": False},
        {"momentum": 0.5},
        {"momentum": 0.99, "updates": 459},
        {"momentum": 0.99, "updates": 0},  # a converted file without a counter
        {"momentum": 0.1, "measured": True},
        {"momentum": 0.99, "updates": 5, "measured": True},
        {"momentum": None, "updates": 1},
        {"mean": {3: 400.0}, "var": {3: 4.0}},
        {"scale": {3: 10.0}},
        {"var": {3: 65000.0}},
        {"replicas": two_replicas(mean=0.05, var=1.1, channels=(1,))},
    ],
)
def test_what_only_looks_like_it_is_not_found(changes):
    assert find([layer(**changes)]) == ()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"momentum": 0.49}, "momentum-convention"),
        ({"var": {3: 0.0}, "epsilon": 0.0}, "infinite-gain"),
        ({"var": {3: 0.0}, "scale": {3: 0.0}, "epsilon": 0.0}, "infinite-gain"),  # 0/0
        ({"momentum": 0.99, "updates": 458}, "not-converged"),
        ({"mean": {3: 822.0}, "var": {3: 4.0}}, "cancellation-risk"),
        ({"mean": {3: 514.0}, "var": {3: 4.0}}, "bfloat16-precision"),
        ({"scale": {3: 17.0}}, "scale-outlier"),
        ({"var": {3: 65505.0}}, "float16-overflow"),
        ({"replicas": two_replicas(mean=0.11, channels=(1,))}, "replicas-disagree"),
        ({"replicas": two_replicas(var=1.3, channels=(1,))}, "replicas-disagree"),
        ({"replicas": two_replicas(mean=np.nan, channels=(1,))}, "nonfinite"),
    ],
)
def test_just_beyond_a_threshold_it_is_found(changes, code):
    assert [finding.code for finding in find([layer(**changes)])] == [code]


def test_half_of_a_layer_is_a_warning():
    def severity(changes):
        (finding,) = find([layer(**changes)])
        return finding.severity

    half = dict.fromkeys(range(CHANNELS // 2), 0.0)
    less = dict.fromkeys(range(CHANNELS // 2 - 1), 0.0)
    assert (severity({"scale": less}), severity({"scale": half})) == ("info", "warning")
    assert severity({"mean": less, "var": less}) == "info"
    assert severity({"mean": half, "var": half}) == "warning"


def test_what_overflows_is_graver_where_it_is_kept_in_that_type():
    for dtype, changes in {"float16": {"var": {3: 1e5}}, "bfloat16": {"mean": {3: 300.0}, "var": {3: 1.0}}}.items():
        (narrow,), (wide,) = (find([layer(dtype=kept, **changes)]) for kept in (dtype, "float32"))
        assert (narrow.severity, wide.severity) == ("warning", "info")


@pytest.mark.parametrize(
    ("epsilons", "odd", "severity"),
    [
        ([1e-5, 1e-5, 1e-3], [2], "info"),  # beside variances above 0.1
        ([1e-5, 1e-5, 1e-1], [2], "warning"),
        ([1e-3, 1.0000000475e-3, 1e-5], [2], "info"),  # the first two differ by float32 alone
        ([1e-3, 1e-5], [1], "info"),
        ([1e-3, 1e-3], [], None),
    ],
)
def test_the_odd_epsilon_is_named(epsilons, odd, severity):
    findings = find([layer(str(number), epsilon=epsilon) for number, epsilon in enumerate(epsilons)])
    assert [(finding.code, finding.layer) for finding in findings] == [("epsilon-differs", str(k)) for k in odd]
    assert all(finding.severity == severity for finding in findings)


def test_the_epsilon_of_the_layer_is_what_counts():
    (finding,) = find([layer(var=np.full(CHANNELS, 5e-4), mean=np.ones(CHANNELS), epsilon=1e-3)])
    assert finding.code == "epsilon-dominated"
    assert "ε = 0.001" in finding.message


def test_the_gravest_come_first_and_equals_in_the_order_of_the_layers():
    findings = find(
        [
            layer("a", scale={0: 0.0}),
            layer("b", var={0: 0.0}, mean={0: 1.0}),
            layer("c", mean={0: np.nan}),
            layer("d", mean={0: np.nan}),
        ]
    )
    assert [finding.layer for finding in findings] == ["c", "d", "b", "a"]
    assert [SEVERITIES.index(finding.severity) for finding in findings] == [0, 0, 1, 2]


def test_no_layers_have_no_findings():
    assert find([]) == ()


ANY = st.floats(width=64) | st.sampled_from([0.0, 1.0, 1e-6, 1e5, -1.0])


@st.composite
def layers(draw):
    count = draw(st.integers(0, 4))
    array = hnp.arrays(np.float64, count, elements=ANY)
    return BatchNormArrays(
        name="norm",
        mean=draw(array),
        var=draw(array),
        scale=draw(st.none() | array),
        bias=draw(st.none() | array),
        epsilon=draw(st.sampled_from([0.0, 1e-5, 1e-3, -1.0, np.nan, np.inf])),
        momentum=draw(st.sampled_from([None, 0.0, 0.1, 0.99, 1.0, 1.5, -1.0, np.nan, np.inf, -np.inf])),
        relu_follows=draw(st.booleans()),
        updates=draw(st.none() | st.integers(-(10**7), 10**18)),
        replicas=draw(st.none() | hnp.arrays(np.float64, (2, 2, count), elements=ANY)),
    )


@given(network=st.lists(layers(), max_size=3), file_format=st.sampled_from(["bncli", "onnx", "pytorch"]))
def test_whatever_a_file_holds_no_rule_fails(network, file_format):
    """NumPy's warnings are errors in these tests."""
    for finding in find(network, file_format=file_format):
        assert finding.message
        assert "{" not in finding.remedy
