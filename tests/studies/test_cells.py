"""Cells on disk: what is stored comes back, what is damaged is noticed, and one process at a time measures a cell."""

import json
from dataclasses import replace

import numpy as np
import pytest

from bncli.errors import BncliError, BncliWarning
from bncli.studies.cells import CellStore
from bncli.studies.experiment import Cell
from bncli.studies.network import Net
from bncli.studies.training import Lane, Run

CELL = Cell(experiment="speed", side="BN", run=Run(net=Net(), lanes=(Lane(learning_rate=0.1),), seed=0))
MEASURED = {"accuracy": np.array([[0.1, np.nan], [1 / 3, np.inf]]), "steps": np.arange(3.0)}


@pytest.fixture
def store(tmp_path):
    return CellStore(tmp_path / "study", "0" * 64)


def test_a_result_comes_back(store):
    assert store.read(CELL) is None
    store.write(CELL, MEASURED, 1.5)
    found = store.read(CELL)
    assert found.seconds == 1.5
    assert found.measured["accuracy"][1, 0] == 1 / 3
    assert np.isnan(found.measured["accuracy"][0, 1])
    assert np.isfinite(found.measured["accuracy"][1, 1])
    np.testing.assert_array_equal(found.measured["steps"], MEASURED["steps"])


@pytest.mark.parametrize(
    "other",
    [
        replace(CELL, side="none"),
        replace(CELL, revision=2),
        replace(CELL, run=replace(CELL.run, seed=1)),
        replace(CELL, run=replace(CELL.run, lanes=(Lane(learning_rate=0.2),))),
        replace(CELL, run=replace(CELL.run, net=Net(norm="none"))),
    ],
)
def test_other_settings_are_another_cell(store, other):
    store.write(CELL, MEASURED, 1.0)
    assert store.read(other) is None


def test_other_data_are_another_cell(store, tmp_path):
    store.write(CELL, MEASURED, 1.0)
    assert CellStore(tmp_path / "study", "1" * 64).read(CELL) is None


def changed(text):
    document = json.loads(text)
    document["measured"]["steps"][0] = 7.0
    return json.dumps(document)


@pytest.mark.parametrize(
    "damage",
    [lambda text: text[:100], lambda text: "", lambda text: "[]", lambda text: "[" * 100_000, changed],
    ids=["cut", "empty", "list", "deep", "changed"],
)
def test_a_damaged_cell_is_reported_and_measured_again(store, damage):
    store.write(CELL, MEASURED, 1.0)
    path = store.path(CELL)
    path.write_text(damage(path.read_text()))
    with pytest.warns(BncliWarning, match="is damaged"):
        assert store.read(CELL) is None
    assert not store.has(CELL)


def test_one_claims_a_cell_at_a_time(store):
    with store.claimed(CELL) as first:
        with store.claimed(CELL) as second:
            assert (first, second) == (True, False)
        with store.claimed(replace(CELL, side="none")) as other:
            assert other
    with store.claimed(CELL) as again:
        assert again


def test_a_directory_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(BncliError, match="holds no study"):
        CellStore(tmp_path, "0" * 64)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
