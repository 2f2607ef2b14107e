"""Pieces of pages: images survive as PNG, ticks are round and inside, charts have gaps where values are missing."""

import base64
import io
import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from support.pages import Page

from bncli.cli.render.html.chart import Series, line_chart, linear_ticks, log_ticks
from bncli.cli.render.html.png import MAX_SIDE, data_url, png, reduced


@pytest.mark.parametrize("shape", [(8, 8, 1), (5, 9, 3), (1, 1, 3), (128, 128, 1)])
def test_an_image_survives_as_png(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    encoded = base64.b64decode(data_url(image).removeprefix("data:image/png;base64,"))
    decoded = np.asarray(Image.open(io.BytesIO(encoded)))
    np.testing.assert_array_equal(decoded.reshape(shape), image)


@given(height=st.integers(1, 400), width=st.integers(1, 400))
def test_a_large_image_is_reduced_and_keeps_its_brightness(height, width):
    image = np.full((height, width, 3), 77, np.uint8)
    small = reduced(image)
    assert max(small.shape[:2]) <= MAX_SIDE
    assert (small == 77).all()
    assert png(small).startswith(b"\x89PNG")


@example(low=1e6, span=2.0**-9)  # ticks that differ in the eleventh digit
@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-3, 1e6))
def test_ticks_are_few_ascending_and_within(low, span):
    ticks = linear_ticks(low, low + span)
    assert 1 <= len(ticks) <= 8
    assert ticks == sorted(set(ticks))
    slack = 1e-6 * max(abs(low), span)
    assert all(low - slack <= tick <= low + span + slack for tick in ticks)


@given(low=st.floats(1e-8, 1e3), decades=st.floats(1.5, 12))
def test_logarithmic_ticks_are_powers_of_ten(low, decades):
    ticks = log_ticks(low, low * 10**decades)
    assert ticks
    assert all(math.isclose(math.log10(tick), round(math.log10(tick)), abs_tol=1e-9) for tick in ticks)


def shapes(*series, **options):
    return Page(line_chart("loss", [Series(str(k), x, y, k) for k, (x, y) in enumerate(series)], **options))


def test_a_gap_is_where_a_value_is_missing():
    page = shapes(([1, 2, 3, 4, 5], [1.0, 2.0, math.nan, 2.0, 1.0]))
    assert [len(line["points"].split()) for line in page.named("polyline")] == [2, 2]


def test_one_epoch_is_a_dot():
    page = shapes(([1], [0.5]))
    assert page.named("polyline") == []
    assert len(page.named("circle")) == 1


def test_nothing_finite_is_said_in_words():
    assert "no finite value" in shapes(([1, 2], [math.nan, math.inf])).words


def test_an_explosion_is_drawn_on_a_logarithmic_scale():
    wide = ([1, 2, 3], [35_018.0, 2.0, 0.5])
    assert "logarithmic" in shapes(wide, may_be_log=True).words
    assert "logarithmic" not in shapes(wide).words
    assert "logarithmic" not in shapes(([1, 2], [1.0, 0.0]), may_be_log=True).words


def test_several_lines_have_a_legend_and_one_scale():
    page = shapes(([1, 2], [0.0, 1.0]), ([1, 2], [0.0, 100.0]))
    assert len(page.named("li")) == 2
    first, second = (line["points"].split() for line in page.named("polyline"))
    rise = [float(points[0].split(",")[1]) - float(points[1].split(",")[1]) for points in (first, second)]
    assert rise[1] == pytest.approx(100 * rise[0], rel=0.1)
