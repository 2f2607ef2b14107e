"""The range of pixels: natural for 8, 10, 12 and 16 bits, and monotone whatever the values are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bncli.data.pixel_range import format_range, is_outside, natural_range, parse_range, to_8_bit
from bncli.errors import ConfigError

NUMBERS = st.one_of(
    arrays.arrays(np.uint16, (6,)),
    arrays.arrays(np.int32, (6,)),
    arrays.arrays(np.float32, (6,), elements=st.floats(-1e6, 1e6, width=32)),
)


@given(NUMBERS)
def test_no_pixel_is_outside_its_natural_range_and_order_is_kept(values):
    pixel_range = natural_range([values])
    assert not is_outside(values, pixel_range)
    assert (np.diff(to_8_bit(np.sort(values), pixel_range).astype(int)) >= 0).all()


@given(arrays.arrays(np.uint16, (20,), elements=st.integers(0, 255)))
def test_whole_numbers_of_8_bit_stay_as_they_are(values):
    np.testing.assert_array_equal(to_8_bit(values, natural_range([values])), values)


@pytest.mark.parametrize("bits", [9, 10, 12, 14, 16])
def test_at_least_half_of_the_levels_are_used(bits):
    for high in (2 ** (bits - 1), 2**bits - 1):
        values = np.arange(high + 1, dtype=np.uint16)
        assert natural_range([values]) == (0, 2**bits - 1)
        assert len(np.unique(to_8_bit(values, natural_range([values])))) >= 128


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([0.0, 1.0]), (0, 1)),
        (np.array([0.2, 0.3]), (0, 1)),
        (np.array([-1.0, 1.0]), (-1, 1)),
        (np.array([-1000, 3000], np.int16), (-1000, 3000)),
        (np.array([30000, 32000], np.uint16), (30000, 32000)),
        (np.array([500, 500], np.uint16), (500, 501)),
        (np.array([0.0, 4095.0]), (0, 4095)),
    ],
)
def test_other_numbers_go_from_the_smallest_to_the_largest(values, expected):
    assert natural_range([values]) == expected
    assert natural_range(np.split(values, 2)) == expected


@pytest.mark.parametrize(("text", "expected"), [("auto", "auto"), ("0:4095", (0, 4095)), ("-1.5:2", (-1.5, 2))])
def test_the_option_is_read(text, expected):
    assert parse_range(text) == expected


@pytest.mark.parametrize("text", ["5:5", "6:5", "0:-1"])
def test_an_empty_range_is_refused(text):
    with pytest.raises(ConfigError, match=f"the pixel range is {text}"):
        parse_range(text)


def test_a_range_is_shown_without_needless_digits():
    assert [format_range(pixel_range) for pixel_range in ((0, 4095.0), (-1.5, 2))] == ["0 … 4095", "-1.5 … 2"]


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
@pytest.mark.parametrize("pixel_range", [(0, 65535), (0, 4095), (100.5, 3000)])
def test_many_values_become_what_few_do(dtype, pixel_range):
    values = np.random.default_rng(0).integers(0, 65536, (300, 300, 1), np.uint16).astype(dtype)
    rows = np.concatenate([to_8_bit(row, pixel_range) for row in values])
    np.testing.assert_array_equal(to_8_bit(values, pixel_range).ravel(), rows.ravel())
