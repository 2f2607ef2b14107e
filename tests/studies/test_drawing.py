"""Figures: the same data give the same bytes, labels are text, and odd numbers do no harm."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from bncli.studies.drawing import draw
from bncli.studies.experiment import Figure, Series, curve

FIGURE = Figure(
    name="speed",
    title="Accuracy & <speed>",
    x="step",
    y="accuracy",
    series=(
        curve("BN", (1, 2, 4), np.array([[0.1, 0.2, np.nan], [0.2, 0.3, 0.4]]), crosses=(4,)),
        Series(label="none", x=(1.0, 4.0), y=(0.0, 0.5)),
    ),
    x_log="2",
)


@pytest.fixture(scope="module")
def picture():
    return draw(FIGURE)


def test_the_same_data_give_the_same_bytes(picture):
    assert draw(FIGURE) == picture


def test_text_is_text(picture):
    words = {
        "".join(node.itertext()).strip() for node in ET.fromstring(picture.svg).iter() if node.tag.endswith("text")
    }
    assert {"Accuracy & <speed>", "step", "accuracy", "BN", "none"} <= words
    assert picture.png.startswith(b"\x89PNG")


def test_a_figure_of_no_finite_value_can_be_drawn():
    nothing = Series(label="BN", x=(1.0, 2.0), y=(float("nan"),) * 2)
    assert draw(Figure(name="n", title="n", x="x", y="y", series=(nothing,), y_log=True, x_log="10")).svg
