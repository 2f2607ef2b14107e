"""The progress of a run comes back from its stored form, and nothing else is taken for one."""

import json

import pytest

from bncli.training.progress import Best, EpochResult, RunProgress

ROWS = tuple(
    EpochResult(number, 1.0 / number, 0.5, float("inf"), 0.25, 0.1, 2.0, 100.0, val_statistics="running")
    for number in (1, 2)
)
PROGRESS = RunProgress(steps_into_epoch=3, best=Best(2, 14, 0.25, 1.5), history=ROWS, skipped=(5,), rollbacks=1)


def stored(**changes):
    return {**json.loads(json.dumps(PROGRESS.to_json())), **changes}


@pytest.mark.parametrize("progress", [PROGRESS, RunProgress()])
def test_what_is_stored_comes_back(progress):
    assert RunProgress.from_json(json.loads(json.dumps(progress.to_json()))) == progress


def test_rows_of_earlier_versions_have_no_statistics():
    row = stored()["history"][0]
    del row["val_statistics"]
    assert RunProgress.from_json(stored(history=[row])).history[0].val_statistics is None


@pytest.mark.parametrize("name", stored())
def test_each_part_is_needed(name):
    document = stored()
    del document[name]
    with pytest.raises(ValueError, match=name):
        RunProgress.from_json(document)


@pytest.mark.parametrize(
    "changes",
    [
        {"steps_into_epoch": "3"},
        {"best": []},
        {"best": {"epoch": 1}},
        {"history": None},
        {"history": [{"epoch": 1, "train_loss": "much"}]},
        {"history": list(reversed(stored()["history"]))},
        {"skipped": 5},
        {"skipped": [0.5]},
        {"rollbacks": None},
    ],
    ids=str,
)
def test_other_types_and_other_orders_are_refused(changes):
    with pytest.raises(ValueError, match=r".+"):
        RunProgress.from_json(stored(**changes))
