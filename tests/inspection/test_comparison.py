"""What became of each layer, in the units that are promised, and of each finding."""

import numpy as np
import pytest
from support.reports import make_layer, make_report

from bncli.inspection.comparison import change_size, compare, layer_change


def changed(layer, **arrays):
    """The layer with other arrays."""
    from dataclasses import replace

    return replace(layer, **arrays)


def test_a_layer_beside_itself_has_not_changed():
    layer = make_layer(mean={3: np.nan})
    change = layer_change(make_layer(), make_layer())
    assert change.same
    assert (change.mean_shift, change.scale_change, change.bias_change) == (0, 0, 0)
    assert (change.var_ratio, change.worst_var_ratio, change.gain_ratio) == (1, 1, 1)
    assert change_size(change) == 0
    assert layer_change(layer, layer).same  # a NaN that stays is no change


def test_means_move_in_standard_deviations_of_the_first():
    before = make_layer(var=np.full(16, 4.0), epsilon=0.0)
    change = layer_change(before, changed(before, mean=before.mean + 1, var=np.full(16, 100.0)))
    assert change.mean_shift == pytest.approx(0.5)


def test_variances_and_gains_change_by_ratios():
    before = make_layer(epsilon=0.0)
    factors = np.full(16, 2.0)
    factors[5] = 1 / 64
    change = layer_change(before, changed(before, var=before.var * factors))
    assert change.var_ratio == pytest.approx(2 ** (9 / 16))  # 15 of 1 and one of -6
    assert change.worst_var_ratio == pytest.approx(1 / 64)
    assert change.gain_ratio == pytest.approx(2 ** (-9 / 32))
    back = layer_change(changed(before, var=before.var * factors), before)
    assert back.var_ratio * change.var_ratio == pytest.approx(1)
    assert change_size(back) == pytest.approx(change_size(change)) == pytest.approx(np.log(64))


def test_scale_and_bias_change_by_their_rms():
    before = make_layer()
    change = layer_change(before, changed(before, scale=before.scale - 0.2, bias=before.bias + 0.3))
    assert change.scale_change == pytest.approx(0.2)
    assert change.bias_change == pytest.approx(0.3)
    bare = changed(before, scale=None, bias=None)
    assert layer_change(bare, changed(before, scale=np.full(16, 1.5), bias=np.full(16, 2.0))).scale_change == 0.5
    assert layer_change(bare, bare).same


def test_a_dead_channel_does_not_hide_the_others_and_what_is_not_finite_shows():
    before = make_layer(epsilon=0.0)
    halved = changed(before, scale=before.scale * np.array([0, *[0.5] * 15]))
    assert layer_change(before, halved).gain_ratio == pytest.approx(0.5)
    poisoned = layer_change(before, make_layer(epsilon=0.0, mean={0: np.nan}, var={1: np.inf}))
    assert np.isnan(poisoned.mean_shift)
    assert change_size(poisoned) == np.inf


def test_another_epsilon_or_momentum_is_a_change():
    for field in ({"epsilon": 1e-3}, {"momentum": 0.99}):
        assert not layer_change(make_layer(), make_layer(**field)).same
    assert layer_change(make_layer(), make_layer(epsilon=1e-3)).epsilon == (1e-5, 1e-3)


def test_layers_are_paired_by_name():
    a = make_report([make_layer("x"), make_layer("y"), make_layer("z")])
    b = make_report([make_layer("new"), make_layer("z"), make_layer("x"), make_layer("y", channels=8)])
    comparison = compare(a, b)
    assert [change.name for change in comparison.layers] == ["x", "z"]
    assert comparison.only_in_a == ()
    assert comparison.only_in_b == ("new",)
    assert comparison.other_channels == ("y",)
    assert compare(b, a).only_in_a == ("new",)


def test_findings_appear_remain_and_go_away_by_code_and_layer():
    a = make_report([make_layer("x", mean={0: np.nan}), make_layer("y", mean={0: np.nan}), make_layer("z")])
    b = make_report([make_layer("x", mean={0: np.nan, 1: np.nan}), make_layer("y"), make_layer("z", var={2: np.inf})])
    comparison = compare(a, b)

    def places(findings):
        return [(finding.code, finding.layer) for finding in findings if finding.code == "nonfinite"]

    assert places(comparison.remained) == [("nonfinite", "x")]
    assert comparison.remained[0].channels == (0, 1)  # as it is now
    assert places(comparison.went_away) == [("nonfinite", "y")]
    assert places(comparison.appeared) == [("nonfinite", "z")]


def test_a_recalibrated_checkpoint_differs_in_its_statistics_alone(trained, dataset, tmp_path):
    import bncli
    from bncli.jobs.recalibrate import recalibrate_checkpoint

    recalibrate_checkpoint(bncli.load(trained.out), tmp_path / "out", dataset)
    comparison = compare(bncli.inspect_stats(trained.out), bncli.inspect_stats(tmp_path / "out"))
    assert [change.name for change in comparison.layers] == ["BatchNorm_0", "BatchNorm_1"]
    for change in comparison.layers:
        assert not change.same
        assert change.mean_shift > 0
        assert change.scale_change == change.bias_change == 0
