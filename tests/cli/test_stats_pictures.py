"""Pictures made of characters, plurals, short names and short numbers."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from bncli.cli.render.stats.pictures import BARS, counts, curves, histogram, level
from bncli.cli.render.words import MIN_NAME, counted, distinct_width, short, shorten


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (None, "–"),
        (0.0, "0"),
        (1.0, "1"),
        (0.123, "0.12"),
        (-3.14159, "-3.1"),
        (270.3, "270"),
        (9876.0, "9900"),
        (12345.0, "1.2e4"),
        (0.00999, "1e-2"),
        (-2.44e-6, "-2.4e-6"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
    ],
)
def test_short(number, text):
    assert short(number) == text


@given(st.floats(-1e300, 1e300))
def test_short_is_short_and_right_to_two_digits(number):
    text = short(number)
    assert len(text) <= (7 if 1e-9 <= abs(number) < 1e9 else 9)
    assert float(text) == pytest.approx(number, rel=0.0501, abs=0)


@given(st.text(st.characters(exclude_categories=["Mn", "Me", "Cc", "Cf", "Cs"])), st.integers(1, 30))
def test_shorten_keeps_to_the_width_and_both_ends(text, width):
    shorter = shorten(text, width)
    assert cell_len(shorter) <= width
    if cell_len(text) <= width:
        assert shorter == text
    else:
        head, tail = shorter.split("…")[0], shorter.split("…")[-1]
        assert text.startswith(head)
        assert text.endswith(tail)


def test_shorten():
    assert shorten("encoder.stages.2.blocks.14.norm.bn", 20) == "encode…ks.14.norm.bn"


def test_distinct_width_keeps_names_apart():
    names = [f"ResNetBlock_{block}/BatchNorm_{layer}" for block in range(9) for layer in range(3)]
    width = distinct_width(names)
    assert width < len(names[0])
    assert len({shorten(name, width) for name in names}) == len(names)
    assert distinct_width(["BatchNorm_0", "BatchNorm_1"]) == len("BatchNorm_0")
    assert distinct_width(["a" * 50]) == MIN_NAME
    assert distinct_width([]) == 0


@given(st.lists(st.text("ab_/01", max_size=30)))
def test_names_of_the_distinct_width_are_as_different_as_the_names(names):
    width = distinct_width(names)
    assert len({shorten(name, width) for name in names}) == len(set(names))


@pytest.mark.parametrize(
    ("count", "words", "text"),
    [
        (1, ("channel",), "1 channel"),
        (0, ("channel",), "0 channels"),
        (1294, ("image",), "1,294 images"),
        (8, ("info", "info"), "8 info"),
    ],
)
def test_counted(count, words, text):
    assert counted(count, *words) == text


def test_counts_are_of_all_finite_values_in_equal_parts():
    assert counts(np.array([0, 0.1, 0.9, 1, np.nan, np.inf]), 2).tolist() == [2, 2]
    assert counts(np.array([5.0, 5.0]), 4).tolist() == [0, 0, 2, 0]
    assert counts(np.array([]), 3).tolist() == counts(np.array([np.nan]), 3).tolist() == [0, 0, 0]
    assert counts(np.array([-1.7e308, 1.7e308]), 3).sum() == 2


@given(st.lists(st.floats(), max_size=50), st.integers(1, 20))
def test_counts_miss_nothing(values, bins):
    array = np.array(values, float)
    numbers = counts(array, bins)
    assert len(numbers) == bins
    assert numbers.sum() == np.isfinite(array).sum()
    assert len(histogram(array, bins)) == bins


def test_histogram_shows_what_is_rare():
    assert histogram(np.array([0.0] * 1000 + [10.0]), 4) == "█  ▁"
    assert histogram(np.arange(8.0), 8) == "█" * 8


def test_level():
    assert level(0.5, 4) == "██  "
    assert level(0.3125, 2) == "▋ "
    assert (level(-1, 2), level(7, 2)) == ("  ", "██")


def test_curves_fill_the_box():
    lines, low, high = curves([[0, 1, 2, 3], [3, 3, 3, 3]], 4, 2)
    assert (low, high) == (0, 3)
    assert [len(line) for line in lines] == [4, 4]
    assert lines == ["⠉⠉⡩⠋", "⡠⠊⠀⠀"]


def test_curves_have_gaps_where_numbers_are_not_finite():
    lines, low, high = curves([[1.0, math.nan, 2.0]], 3, 1)
    assert (low, high) == (1, 2)
    assert lines[0][1] == "⠀"
    assert curves([[math.nan]], 3, 2)[0] == ["   ", "   "]
    assert curves([[5.0]], 2, 1)[0] == ["⠤⠤"]  # one epoch


def test_bars_are_in_order():
    assert sorted(BARS) == list(BARS)
