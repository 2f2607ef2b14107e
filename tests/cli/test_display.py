"""The picture of a run on a terminal: a clock from the first second, in every phase, on any width."""

import io

import pytest
from rich.console import Console

from bncli.cli import display
from bncli.cli.render.train import tenths
from bncli.process.phase_clock import PHASES
from bncli.training.progress import StepProgress

STEP = StepProgress(epoch=2, step=3, steps=440, loss=0.1234, accuracy=0.9876, images_per_second=12_345.0)


@pytest.fixture(params=[60, 80, 120])
def shown(request, monkeypatch):
    """(the display, a function that draws its bar), on a terminal of so many columns."""
    console = Console(file=io.StringIO(), force_terminal=True, width=request.param, legacy_windows=False)
    monkeypatch.setattr(display, "message_console", lambda: console)
    training = display.TrainingDisplay(quiet=False)

    def drawn():
        paper = Console(file=io.StringIO(), width=request.param)
        paper.print(training._progress.get_renderable())
        (line,) = paper.file.getvalue().splitlines()
        return line

    with training.running():
        yield training, drawn


def test_each_phase_is_named_with_a_clock_and_no_unknown_total(shown):
    training, drawn = shown
    said = "starting"
    for phase in PHASES:
        training.show_phase(phase)
        said = display._PHASE_WORDS.get(phase, said)
        line = drawn()
        assert "0:00:0" in line
        assert "?" not in line
        assert said in line


def test_a_step_is_told_whole_on_any_width(shown):
    training, drawn = shown
    training.epochs = 20
    training.show_step(STEP)
    line = drawn()
    assert "epoch 2/20" in line
    assert "443/8800" in line
    assert "0.123" in line
    assert "12,345 img/s" in line
    assert "0:00:0" in line
    assert "…" not in line


def test_the_clock_goes_on_while_nothing_is_reported(shown):
    training, drawn = shown
    training._progress.tasks[0].start_time -= 75
    assert "0:01:15" in drawn()


def test_bars_of_reading_stand_beside_that_of_the_run_and_go(shown):
    training, _ = shown
    with training.counting() as show:
        show("decoding", 3, 10)
        assert [task.description for task in training._progress.tasks][1:] == ["decoding"]
    assert len(training._progress.tasks) == 1


@pytest.mark.parametrize("parts", [(0.04, 0.04, 0.04), (1.26, 2.34, 0.0), (10.0, 0.05, 3.33), (0.0,)])
def test_rounded_parts_add_up_to_the_rounded_total(parts):
    named = {str(number): part for number, part in enumerate(parts)}
    rounded = tenths(named, sum(parts))
    assert sum(rounded.values()) == pytest.approx(round(sum(parts), 1))
    assert all(abs(rounded[name] - part) < 0.1 for name, part in named.items())
