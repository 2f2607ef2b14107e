"""Tables that fit a terminal: the first form that has room is taken, and names stay readable in all of them."""

from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from bncli.cli.render import recalibrate_text
from bncli.cli.render.tables import FirstFitting, Name, plain_table, spaced
from bncli.jobs.recalibrate import RecalibrationResult
from bncli.measure.moments import Drift
from bncli.measure.population import LayerDrift
from bncli.measure.score import EvalResult


def shown(renderable, width):
    """The lines on a terminal of this width, without the blanks at their ends."""
    console = Console(file=StringIO(), width=width, highlight=False)
    console.print(renderable)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def form(*columns):
    """A maker of a table with one row of numbers as wide as the titles of their columns."""

    def make():
        table = plain_table("name", *columns)
        table.add_row(Name("a_name_of_24_characters_", room=16), *("9" * len(column) for column in columns))
        return table

    return make


FORMS = FirstFitting([form("first number", "second number"), form("first number"), form()])


@pytest.mark.parametrize(
    ("width", "columns", "shortened"),
    [(80, 2, False), (45, 2, True), (44, 1, False), (30, 1, True), (29, 0, False), (10, 0, True)],
)
def test_the_first_form_that_has_room_for_the_names_is_taken(width, columns, shortened):
    head, row = shown(FORMS, width)
    assert max(len(head), len(row)) <= width
    assert head.count("number") == columns
    assert ("…" in row) == shortened


def test_blocks_are_separated_by_a_blank_line():
    assert shown(spaced(["a", "b"]), 80) == ["a", "", "b"]


def score(accuracy):
    return EvalResult(1, 0.5, accuracy, 1.0, (), np.zeros((1, 1), int), np.zeros(1, np.int32))


def test_recalibration_keeps_the_names_on_60_columns():
    layers = tuple(
        LayerDrift(f"Block_{k}/BatchNorm_0", Drift(0.062, 1.004, 1.1), Drift(1.9e-9, 1.0, 1.0)) for k in range(3)
    )
    result = RecalibrationResult(
        checkpoint=Path("ckpt"),
        step=1,
        out=None,
        layers=layers,
        num_examples=1,
        runs=1,
        before=score(0.25),
        after=score(0.5),
    )
    lines = shown(recalibrate_text(result), 60)
    assert max(map(len, lines)) <= 60
    assert [line.split()[0] for line in lines[2:5]] == [layer.name for layer in layers]
    assert "0.062 → 1.9e-09" in lines[2]
    assert "measured over 1 training image, 1 run" in lines
    assert "validation accuracy 0.2500 → 0.5000, loss 0.5000 → 0.5000 on" in lines
