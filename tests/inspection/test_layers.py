"""The numbers of a layer are their formulas, and a NaN spoils none of the others."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bncli.inspection.layers import BatchNormArrays, Summary, channels_where, dead_channels, layer_stats, summarize


def layer(**changes):
    """Three healthy channels, with changes."""
    arrays = {
        "mean": np.array([0.5, -1.0, 2.0]),
        "var": np.array([1.0, 4.0, 0.25]),
        "scale": np.array([1.0, 2.0, -0.5]),
        "bias": np.array([0.0, 0.5, 0.1]),
    }
    settings = {"name": "norm", "epsilon": 1e-3, "momentum": 0.9}
    return BatchNormArrays(**settings | arrays | changes)


FINITE = st.floats(-1e6, 1e6)


@given(
    scale=hnp.arrays(np.float64, 4, elements=FINITE),
    var=hnp.arrays(np.float64, 4, elements=st.floats(0, 1e6)),
    epsilon=st.floats(1e-9, 1),
)
def test_the_gain_is_scale_over_the_root_of_variance_and_epsilon(scale, var, epsilon):
    four = layer(mean=np.zeros(4), var=var, scale=scale, bias=None, epsilon=epsilon)
    np.testing.assert_allclose(four.gain * np.sqrt(var + epsilon), scale, rtol=1e-9, atol=1e-9)
    ones = layer(mean=np.zeros(4), var=var, scale=None, bias=None, epsilon=epsilon)
    np.testing.assert_allclose(ones.gain, 1 / np.sqrt(var + epsilon))


@given(
    values=hnp.arrays(
        np.float64, st.integers(1, 9), elements=st.one_of(FINITE, st.sampled_from([np.nan, np.inf, -np.inf]))
    )
)
def test_the_summary_is_of_the_finite_values(values):
    finite = sorted(v for v in values.tolist() if np.isfinite(v))
    if not finite:
        assert summarize(values) == Summary(None, None, None)
        return
    summary = summarize(values)
    assert (summary.min, summary.max) == (finite[0], finite[-1])
    assert summary.median == pytest.approx((finite[(len(finite) - 1) // 2] + finite[len(finite) // 2]) / 2)


def test_a_row_holds_the_numbers_of_its_layer():
    row = layer_stats(layer())
    assert (row.name, row.channels, row.epsilon, row.momentum) == ("norm", 3, 1e-3, 0.9)
    assert row.mean == Summary(-1.0, 0.5, 2.0)
    assert row.var == Summary(0.25, 1.0, 4.0)
    assert row.scale == Summary(-0.5, 1.0, 2.0)
    assert row.bias == Summary(0.0, 0.1, 0.5)
    assert row.gain.max == pytest.approx(2 / np.sqrt(4.001))
    assert row.dead_channels == ()
    assert row.nonfinite == 0


def test_numbers_that_are_not_finite_are_counted_over_all_arrays():
    row = layer_stats(layer(var=np.array([np.nan, 1, np.inf]), bias=np.array([0, -np.inf, 0])))
    assert row.nonfinite == 3
    assert row.var == Summary(1.0, 1.0, 1.0)


def test_a_layer_without_scale_and_bias_has_no_such_columns():
    row = layer_stats(layer(scale=None, bias=None))
    assert row.scale is None
    assert row.bias is None
    assert row.dead_channels == ()
    assert row.gain.min == pytest.approx(1 / np.sqrt(4.001))


def test_a_negative_variance_has_no_gain():
    assert np.isnan(layer(var=np.array([-1.0, 1.0, 1.0])).gain).tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"scale": np.array([1, 1e-4, -1e-4])}, (1, 2)),
        ({"scale": np.array([1, 2e-3, -2e-3])}, ()),
        ({"scale": np.array([0.1, -0.1, 1]), "bias": np.array([-0.31, -0.31, -2.9])}, ()),  # something else may follow
        ({"scale": np.array([0.1, -0.1, 1]), "bias": np.array([-0.31, -0.31, -2.9]), "relu_follows": True}, (0, 1)),
        ({"scale": np.array([0.1, 1, 1]), "bias": None, "relu_follows": True}, ()),
        ({"scale": np.array([np.nan, 1, 1])}, ()),
    ],
)
def test_a_channel_is_dead_without_scale_or_always_below_the_relu(changes, expected):
    assert dead_channels(layer(**changes)) == expected


def test_channels_are_plain_numbers():
    assert channels_where(np.array([True, False, True])) == (0, 2)
    assert {type(channel) for channel in channels_where(np.array([True]))} == {int}
