"""A study is shared: each trial has settings of its own, whoever asks, and what a killed process left is taken up."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from bncli import checkpoint
from bncli.config.sweep_file import grid_size, read_sweep_file
from bncli.errors import BncliError, CheckpointError, ConfigError

pytest.importorskip("optuna")

from bncli.jobs.sweep.study import Study

GRID = (
    "[sweep]\nsampler = 'grid'\n[space.optimizer]\nlearning_rate = [0.1, 0.2, 0.3]\n[space.model]\nbn = [true, false]\n"
)
RANDOM = "[sweep]\nsampler = 'random'\ntrials = 5\n[space.optimizer]\nlearning_rate = { low = 0.1, high = 1.0 }\n"
TINY = "[sweep]\ntrials = 50\n[space.training]\nseed = { low = 1, high = 4 }\n[space.model]\nname = ['mlp', 'cnn']\n"


@pytest.fixture
def file(tmp_path):
    def write(text=GRID):
        path = tmp_path / "sweep.toml"
        path.write_text(text)
        return read_sweep_file(path)

    return write


def finish(study, value=0.5):
    """Take the next trial and complete it; return its settings, or None."""
    begun = study.next_trial()
    if begun is None:
        return None
    with begun.lock:
        study.complete(begun, value)
    return {option.key: value for option, value in begun.values.items()}


def all_of(study):
    found = []
    while (params := finish(study)) is not None:
        found.append(params)
    return found


def distinct(settings):
    return len({repr(sorted(params.items())) for params in settings})


@pytest.mark.parametrize(("text", "number"), [(GRID, 6), (RANDOM, 5), (TINY, 8)])
def test_no_settings_are_tried_twice_and_a_small_space_ends(file, tmp_path, text, number):
    found = all_of(Study(file(text), tmp_path / "study"))
    assert len(found) == distinct(found) == number


def test_processes_share_the_trials_of_a_study(file, tmp_path):
    """Each has a study of its own in the same directory, as another process would."""
    asked = file()
    studies = [Study(asked, tmp_path / "study") for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        found = [params for each in pool.map(all_of, studies) for params in each]
    assert len(found) == distinct(found) == grid_size(asked.space)
    assert [row.state for row in studies[0].rows()] == ["complete"] * 6


def test_a_trial_in_progress_is_left_alone_and_one_that_was_left_is_taken_up(file, tmp_path):
    asked = file()
    first = Study(asked, tmp_path / "study").next_trial()
    study = Study(asked, tmp_path / "study")
    second = study.next_trial()
    assert second.trial.number != first.trial.number
    assert not second.is_resumed
    first.trial.report(0.3, 1)
    first.lock.close()  # as the system does when a process is killed
    again = study.next_trial()
    assert (again.trial.number, again.is_resumed, again.values) == (first.trial.number, True, first.values)
    assert again.reported == {1}
    assert not study.report(again, 1, 0.9)
    with again.lock:
        study.complete(again, 0.7)
    assert [(row.state, row.value) for row in study.rows()] == [("complete", 0.7), ("running", None)]
    second.lock.close()


def test_a_trial_killed_before_its_settings_were_drawn_counts_for_nothing(file, tmp_path):
    study = Study(file(), tmp_path / "study")
    study._study.ask()
    assert len(all_of(study)) == 6
    assert len(study.rows()) == 6


def test_each_end_is_recorded(file, tmp_path):
    study = Study(file(), tmp_path / "study")
    for end in (
        lambda begun: study.fail(begun, "diverged"),
        study.prune,
        lambda begun: study.complete(begun, float("nan")),
    ):
        begun = study.next_trial()
        study.report(begun, 1, 0.25)
        with begun.lock:
            end(begun)
    rows = study.rows()
    assert [row.state for row in rows] == ["failed", "pruned", "failed"]
    assert [row.reason for row in rows] == ["diverged", None, "val_accuracy is nan"]
    assert rows[1].value == 0.25
    assert rows[0].params == {"optimizer.learning_rate": 0.1, "model.bn": True}


@pytest.mark.parametrize("pruner", ["median", "hyperband", "none"])
def test_a_trial_behind_the_others_is_pruned_unless_none_is(file, tmp_path, pruner):
    text = RANDOM.replace("trials = 5", f"trials = 12\npruner = '{pruner}'")
    study = Study(file(text), tmp_path / "study")
    ended = []
    for number in range(12):
        begun = study.next_trial()
        with begun.lock:
            scores = [(0.9 if number < 8 else 0.1) + epoch / 100 for epoch in range(1, 9)]
            is_behind = any(study.report(begun, epoch, score) for epoch, score in enumerate(scores, 1))
            (study.prune if is_behind else lambda begun: study.complete(begun, 0.9))(begun)
        ended.append(is_behind)
    assert any(ended[8:]) == (pruner != "none")


def test_another_file_is_refused_in_the_same_directory(file, tmp_path):
    Study(file(), tmp_path / "study")
    with pytest.raises(ConfigError, match=r"holds a study of other settings: optimizer\.learning_rate is"):
        Study(file(GRID.replace("0.3", "0.4")), tmp_path / "study")
    Study(file(RANDOM), tmp_path / "other")
    Study(file(RANDOM.replace("trials = 5", "trials = 9")), tmp_path / "other")


def test_a_directory_with_something_else_is_refused(file, tmp_path, trained):
    with pytest.raises(BncliError, match="is not empty, and holds no study"):
        Study(file(), trained.out)
    (tmp_path / "a-file").write_text("")
    with pytest.raises(BncliError, match="cannot write in"):
        Study(file(), tmp_path / "a-file")


KILLED = """
import os, sys
from pathlib import Path
from bncli.config.sweep_file import read_sweep_file
from bncli.jobs.sweep.study import Study
Study(read_sweep_file(Path(sys.argv[1])), Path(sys.argv[2])).next_trial()
os.kill(os.getpid(), 9)
"""


def test_the_trial_of_a_process_that_was_killed_is_taken_up(file, tmp_path):
    asked = file()
    subprocess.run([sys.executable, "-c", KILLED, asked.path, tmp_path / "study"], check=False)
    study = Study(asked, tmp_path / "study")
    begun = study.next_trial()
    assert (begun.trial.number, begun.is_resumed) == (0, True)
    with begun.lock, pytest.raises(CheckpointError), checkpoint.locked(begun.out):
        pass
