"""Laws of what ``bncli eval`` prints."""

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from bncli.cli import render
from bncli.cli.render.evaluate import EvalReport
from bncli.measure.score import ClassAccuracy, EvalResult


def printed_with(count, step=3):
    rows = tuple(ClassAccuracy(f"{k}", 1, 1.0) for k in range(count))
    scores = EvalResult(count, 0.1, 0.75, 1.0, rows, np.eye(count, dtype=int), np.zeros(count, np.int32))
    console = Console(width=200, file=io.StringIO())
    console.print(render.eval_text(EvalReport(Path("ckpt"), step, "test", "running", "none", "photos", scores)))
    return console.file.getvalue()


@pytest.mark.parametrize(("step", "words"), [(3, "ckpt step 3 on photos"), (0, "ckpt on photos")])
def test_a_step_is_shown_where_there_is_one(step, words):
    assert words in printed_with(2, step)


@pytest.mark.parametrize(("count", "is_shown"), [(2, False), (5, False), (6, True), (12, True)])
def test_top_5_is_shown_where_a_label_can_miss_it(count, is_shown):
    printed = printed_with(count)
    assert ("top-5 1.0000" in printed) == is_shown
    assert "accuracy 0.7500" in printed
