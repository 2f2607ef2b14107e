"""Where known data sets are looked for, and in which order."""

from pathlib import Path

import pytest
from support.dataset_writers import write_idx_folder

from bncli.data import KNOWN, known_datasets, locate, user_data_dir

MNIST = KNOWN["mnist"]


def test_the_first_place_that_holds_the_data_set_wins(tmp_path, monkeypatch):
    monkeypatch.setenv("BNCLI_DATA", str(tmp_path / "environment"))
    places = [
        tmp_path / "given" / "mnist",
        tmp_path / "given",
        tmp_path / "environment" / "mnist",
        tmp_path / "environment" / "MNIST" / "raw",
        user_data_dir() / "mnist",
        tmp_path / "system" / "mnist",
    ]
    assert locate(MNIST, tmp_path / "given") is None
    for place in reversed(places):
        write_idx_folder(place)
        assert locate(MNIST, tmp_path / "given") == place


def test_the_listing_says_where(tmp_path):
    write_idx_folder(tmp_path / "mnist")
    found = {known.name: known.found for known in known_datasets(tmp_path)}
    assert found == {
        "cifar10": None,
        "cifar100": None,
        "digits": "bncli",
        "fashion-mnist": None,
        "mnist": str(tmp_path / "mnist"),
    }


@pytest.mark.parametrize("value", ["", "relative/cache", None])
def test_the_user_cache_is_below_home_without_an_absolute_setting(monkeypatch, value):
    if value is None:
        monkeypatch.delenv("XDG_CACHE_HOME")
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert user_data_dir() == Path.home() / ".cache" / "bncli" / "data"


def test_the_user_cache_follows_xdg(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_data_dir() == tmp_path / "bncli" / "data"
