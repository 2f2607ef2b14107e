"""No test of this folder sees the data sets of the machine it runs on, unless it asks for them."""

import sys

import pytest


@pytest.fixture(autouse=True)
def _no_data_sets_of_this_machine(tmp_path, tmp_path_factory, monkeypatch):
    import bncli.data  # noqa: F401

    monkeypatch.delenv("BNCLI_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(sys.modules["bncli.data.places"], "_SYSTEM_ROOT", tmp_path / "system")
