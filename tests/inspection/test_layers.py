"""The numbers of a layer: the gain is γ/√(var + ε), summaries are of finite values, dead is what passes nothing on."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bncli.inspection.layers import BatchNormArrays, Summary, channels_where, dead_channels, layer_stats, summarize

CHANNELS = 4
ANY = hnp.arrays(np.float64, CHANNELS, elements=st.floats(-1e30, 1e30) | st.just(math.nan) | st.just(math.inf))


def layer_of(*, mean=0.5, var=2.0, scale=1.5, bias=-0.25, channels=CHANNELS, epsilon=1e-3, relu_follows=False):
    """A layer; each number may be given per channel."""

    def spread(values):
        return None if values is None else np.array(np.broadcast_to(values, channels), np.float64)

    return BatchNormArrays(
        name="block/norm",
        mean=spread(mean),
        var=spread(var),
        scale=spread(scale),
        bias=spread(bias),
        epsilon=epsilon,
        momentum=0.9,
        relu_follows=relu_follows,
    )


@given(
    var=hnp.arrays(np.float64, CHANNELS, elements=st.floats(0, 1e6)),
    scale=hnp.arrays(np.float64, CHANNELS, elements=st.floats(-1e3, 1e3)),
    epsilon=st.floats(1e-8, 1.0),
)
def test_the_gain_is_scale_over_the_root_of_variance_and_epsilon(var, scale, epsilon):
    expected = [g / math.sqrt(v + epsilon) for g, v in zip(scale, var, strict=True)]
    np.testing.assert_allclose(layer_of(var=var, scale=scale, epsilon=epsilon).gain, expected, rtol=1e-12)


def test_without_a_scale_the_gain_is_that_of_one():
    np.testing.assert_array_equal(layer_of(scale=None).gain, layer_of(scale=1.0).gain)


def test_the_gain_of_a_negative_variance_is_nan_and_of_a_slightly_negative_one_is_not():
    gain = layer_of(var=[-1.0, -1e-3, -1e-4, 0.0]).gain
    assert math.isnan(gain[0])
    assert math.isinf(gain[1])
    assert np.isfinite(gain[2:]).all()


@given(values=ANY)
def test_a_summary_is_of_the_finite_values(values):
    finite = sorted(value for value in values.tolist() if math.isfinite(value))
    summary = summarize(values)
    if not finite:
        assert summary == Summary(None, None, None)
        return
    middle = (finite[(len(finite) - 1) // 2] + finite[len(finite) // 2]) / 2
    assert (summary.min, summary.max) == (finite[0], finite[-1])
    assert summary.median == pytest.approx(middle)


@given(mean=ANY, var=ANY, scale=st.none() | ANY, bias=st.none() | ANY)
def test_a_row_counts_every_number_that_is_not_finite(mean, var, scale, bias):
    stored = [array for array in (mean, var, scale, bias) if array is not None]
    stats = layer_stats(layer_of(mean=mean, var=var, scale=scale, bias=bias))
    assert stats.nonfinite == sum(not math.isfinite(value) for array in stored for value in array.tolist())
    assert stats.channels == CHANNELS
    assert stats.mean == summarize(mean)
    assert (stats.scale is None, stats.bias is None) == (scale is None, bias is None)


def test_a_row_carries_the_layers_own_settings():
    stats = layer_stats(layer_of(scale=[0.0, 1.0, 2.0, 3.0]))
    assert (stats.name, stats.epsilon, stats.momentum, stats.dead_channels) == ("block/norm", 1e-3, 0.9, (0,))
    assert stats.gain == summarize(np.arange(4) / math.sqrt(2.0 + 1e-3))


@pytest.mark.parametrize(
    ("scale", "bias", "relu_follows", "dead"),
    [
        (0.0, 1.0, False, True),
        (9e-4, 1.0, False, True),
        (-9e-4, 1.0, False, True),
        (1.1e-3, 1.0, False, False),
        (1.0, -3.1, True, True),
        (-1.0, -3.1, True, True),  # the sign of γ mirrors the distribution, and it is symmetric
        (1.0, -3.1, False, False),
        (1.0, -2.9, True, False),
        (1.0, None, True, False),
        (None, -9.0, True, False),
    ],
)
def test_a_channel_is_dead_where_it_passes_nothing_on(scale, bias, relu_follows, dead):
    layer = layer_of(scale=scale, bias=bias, relu_follows=relu_follows)
    assert dead_channels(layer) == (tuple(range(CHANNELS)) if dead else ())


@given(flags=st.lists(st.booleans(), max_size=9))
def test_the_channels_where_a_flag_is_set(flags):
    expected = tuple(channel for channel, flag in enumerate(flags) if flag)
    assert channels_where(np.array(flags, bool)) == expected
