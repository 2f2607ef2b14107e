"""The driver with cells that cost nothing: nothing is measured twice, and a stopped study goes on."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest

from bncli.data import load_dataset
from bncli.errors import BncliWarning, TrainingInterruptedError, UsageError
from bncli.studies import driver
from bncli.studies.driver import Shard, StudySettings, chosen_experiments, run_study
from bncli.studies.experiment import Cell, Conclusion, Experiment, Figure, Series
from bncli.studies.network import Net
from bncli.studies.statistics import Comparison
from bncli.studies.training import Lane, Run


class Counting:
    """An experiment that counts its measurements."""

    def __init__(self):
        self.measured = []
        self.experiment = Experiment(
            name="counting",
            order=1,
            claim="Cells are counted.",
            source="this test",
            rule="Supported if 1 > 0.",
            cells=self.cells,
            measure=self.measure,
            conclude=self.conclude,
        )

    def cells(self, plan):
        return [
            Cell(experiment="counting", side="BN", run=Run(net=Net(), lanes=(Lane(learning_rate=0.1),), seed=seed))
            for seed in range(plan.seeds)
        ]

    def measure(self, cell, data):
        self.measured.append(cell.run.seed)
        return {"value": np.array([cell.run.seed + data.chance]), "diverged": np.zeros(1)}

    def conclude(self, results):
        values = tuple(float(measured["value"][0]) for measured in results.values())
        comparison = Comparison(name="value", values=values, margin=0.0)
        figure = Figure(name="counting", title="t", x="x", y="y", series=(Series(label="a", x=values, y=values),))
        return Conclusion(verdict="mixed", sentence="It counts.", comparisons=(comparison,), figures=(figure,))


@pytest.fixture
def counting(monkeypatch):
    found = Counting()
    monkeypatch.setattr(driver, "experiments", lambda: {"counting": found.experiment})
    return found


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


@pytest.fixture
def settings(tmp_path):
    return StudySettings(out=str(tmp_path / "study"), seeds=6)


def test_nothing_is_measured_twice(counting, digits, settings):
    first = run_study(settings, dataset=digits)
    assert (sorted(counting.measured), first.num_done_here) == ([0, 1, 2, 3, 4, 5], 6)
    second = run_study(settings, dataset=digits)
    assert (len(counting.measured), second.num_done_here) == (6, 0)
    assert second.outcomes[0].conclusion == first.outcomes[0].conclusion
    assert {path.suffix for path in first.files} == {".csv", ".svg", ".png"}


def test_the_table_has_every_cell(counting, digits, settings):
    run_study(settings, dataset=digits)
    rows = [json.loads(line) for line in (Path(settings.out) / "cells.jsonl").read_text().splitlines()]
    assert [row["cell"]["run"]["seed"] for row in rows] == [0, 1, 2, 3, 4, 5]
    assert [row["measured"]["value"] for row in rows] == [[seed + 0.1] for seed in range(6)]


def test_a_stopped_study_goes_on(counting, digits, settings):
    asked = iter([False, False, True])
    with pytest.raises(TrainingInterruptedError, match="stopped with 2 of 6 cells measured"):
        run_study(settings, dataset=digits, should_stop=lambda: next(asked))
    assert run_study(settings, dataset=digits).num_done_here == 4
    assert sorted(counting.measured) == [0, 1, 2, 3, 4, 5]


def test_shards_share_the_cells_and_the_last_command_concludes(counting, digits, settings):
    parts = [
        run_study(StudySettings(out=settings.out, seeds=6, shard=Shard(number, 4)), dataset=digits)
        for number in (1, 2, 3, 4)
    ]
    assert [part.num_done_here for part in parts] == [2, 2, 1, 1]
    assert [bool(part.outcomes) for part in parts] == [False, False, False, True]
    assert sorted(counting.measured) == [0, 1, 2, 3, 4, 5]


def test_several_at_once_measure_each_cell_once(counting, digits, settings):
    reports = []
    threads = [threading.Thread(target=lambda: reports.append(run_study(settings, dataset=digits))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(counting.measured) == [0, 1, 2, 3, 4, 5]
    assert sum(report.num_done_here for report in reports) == 6
    assert reports[0].outcomes[0].conclusion == reports[1].outcomes[0].conclusion


def test_a_damaged_cell_is_measured_again(counting, digits, settings, tmp_path):
    run_study(settings, dataset=digits)
    damaged = next((tmp_path / "study" / "cells").glob("*.json"))
    damaged.write_text("{")
    with pytest.warns(BncliWarning, match="is damaged"):
        assert run_study(settings, dataset=digits).num_done_here == 1


def test_progress_counts_up_and_estimates(counting, digits, settings):
    seen = []
    run_study(settings, dataset=digits, on_progress=seen.append)
    assert [(progress.done, progress.total) for progress in seen] == [(count, 6) for count in range(1, 7)]
    assert seen[-1].seconds_left == 0


def test_what_does_not_exist_is_refused(digits, tmp_path):
    with pytest.raises(UsageError, match="no experiment 'sped'"):
        chosen_experiments(["sped"])
    with pytest.raises(UsageError, match="--shard 5/4"):
        Shard(5, 4)
    with pytest.raises(UsageError, match="--seeds 0"):
        run_study(StudySettings(out=str(tmp_path / "s"), seeds=0), dataset=digits)
    with pytest.raises(UsageError, match="several jobs"):
        driver.study(data=digits, jobs=2)
