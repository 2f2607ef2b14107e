"""Intervals and verdicts: known values, and the law that equal sides support no claim."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bncli.studies.statistics import Comparison, Interval, combined, judged, student_interval


def test_the_interval_is_students():
    """Values and ends from R: t.test(c(4.1, 5.2, 6.0, 4.7, 5.5))."""
    found = student_interval([4.1, 5.2, 6.0, 4.7, 5.5])
    assert found.mean == pytest.approx(5.1)
    half = 2.776 * np.std([4.1, 5.2, 6.0, 4.7, 5.5], ddof=1) / math.sqrt(5)
    assert (found.low, found.high) == pytest.approx((5.1 - half, 5.1 + half))


def test_one_value_has_no_interval():
    assert student_interval([1.0]) == Interval(1.0, -math.inf, math.inf)
    assert judged(student_interval([1.0]), 0.0) == "mixed"


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.2, 0.3, "supported"), (0.0, 0.1, "not supported"), (-1.0, -0.5, "not supported"), (0.05, 0.2, "mixed")],
)
def test_the_verdict_is_decided_by_the_whole_interval(low, high, verdict):
    assert judged(Interval((low + high) / 2, low, high), 0.1) == verdict


@given(st.integers(2, 12), st.floats(0, 1))
def test_no_difference_supports_nothing(count, margin):
    assert Comparison(name="x", values=(0.0,) * count, margin=margin).verdict == "not supported"


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=8), st.floats(0, 1))
def test_a_claim_and_its_opposite_are_not_both_supported(values, margin):
    verdicts = [
        Comparison(name="x", values=tuple(sign * value for value in values), margin=margin).verdict for sign in (1, -1)
    ]
    assert verdicts != ["supported", "supported"]


def test_parts_that_disagree_are_mixed():
    assert combined(["supported", "supported"]) == "supported"
    assert combined(["not supported"]) == "not supported"
    assert combined(["supported", "not supported"]) == "mixed"


def test_a_ratio_is_shown_as_a_ratio():
    comparison = Comparison(name="x", values=(math.log(2.0), math.log(8.0)), margin=math.log(2), is_ratio=True)
    assert comparison.shown.mean == pytest.approx(4.0)
    assert comparison.in_unit(comparison.margin) == pytest.approx(2.0)
