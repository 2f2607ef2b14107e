"""A report keeps its layers, and puts the worst of them first."""

import numpy as np
import pytest
from support.reports import make_history, make_layer, make_live, make_report

import bncli
from bncli.inspection.findings import SEVERITIES, Finding
from bncli.inspection.layers import layer_stats
from bncli.inspection.report import gain_spread, worst_first


def finding(severity, layer="b", code="code"):
    return Finding(code, severity, layer, (), "message", "remedy")


@pytest.fixture
def report():
    made = make_report([make_layer(name, seed=seed) for seed, name in enumerate("abc")])
    return made.with_data(make_live(made, gaps=(0.1, 0.7, 3)), ()).with_history(make_history(made))


def test_the_arrays_of_a_checkpoint_are_kept_and_do_not_count_for_equality(trained):
    report = bncli.inspect_stats(trained.out)
    assert [layer_stats(layer) for layer in report.arrays] == list(report.layers)
    assert report == bncli.inspect_stats(trained.out)


def test_findings_on_data_take_their_place_among_the_others(report):
    before = make_report([make_layer()], findings=(finding("warning"), finding("info")))
    after = before.with_data(report.data, (finding("error"), finding("warning", "later")))
    assert [(f.severity, f.layer) for f in after.findings] == [
        ("error", "b"),
        ("warning", "b"),
        ("warning", "later"),
        ("info", "b"),
    ]
    assert after.count() == {"error": 1, "warning": 2, "info": 1}
    assert list(after.count()) == list(SEVERITIES)


def test_no_history_is_a_note(report):
    assert report.notes == ()
    assert "layers.jsonl" in make_report([make_layer()]).with_history(()).notes[-1]


def test_only_some_layers_are_left_in_all_its_parts(report):
    some = report.with_data(report.data, (finding("error", "a"), finding("error", "b"))).only({"b"})
    for part in (some.layers, some.arrays, some.data.layers, some.history):
        assert [row.name for row in part] == ["b"]
    assert [f.layer for f in some.findings] == ["b"]
    assert make_report([make_layer("x")]).only({"x"}).data is None


def test_renamed_in_all_its_parts(report):
    names = {"a": "A", "b": "B", "c": "C"}
    other = report.with_data(report.data, (finding("error", "a"),)).renamed(names)
    for part in (other.layers, other.arrays, other.data.layers, other.history):
        assert [row.name for row in part] == ["A", "B", "C"]
    assert other.data.first_apart == "B"
    assert other.findings[0].layer == "A"


def test_the_worst_come_first_by_severity_then_count_then_spread():
    layers = [make_layer(str(number)) for number in range(4)] + [make_layer("4", scale={0: 90.0})]
    findings = (
        finding("error", "3"),
        finding("warning", "1"),
        finding("warning", "2"),
        finding("warning", "2", "more"),
    )
    report = make_report(layers, findings=findings)
    assert worst_first(report) == (3, 2, 1, 4, 0)


def test_gain_spread_does_not_depend_on_the_scale_of_the_input():
    assert gain_spread(layer_stats(make_layer(epsilon=0.0))) == pytest.approx(
        gain_spread(layer_stats(make_layer(epsilon=0.0, var=make_layer().var * 1e4)))
    )
    assert gain_spread(layer_stats(make_layer(scale=-make_layer().scale))) == gain_spread(layer_stats(make_layer()))
    assert gain_spread(layer_stats(make_layer(scale=np.ones(16), var=np.ones(16)))) == 1
    assert gain_spread(layer_stats(make_layer(var={0: np.nan}))) == np.inf
    assert gain_spread(layer_stats(make_layer(scale=np.zeros(16)))) == np.inf
