"""Cold starts are measured in a process of their own, whose errors reach the caller unchanged."""

import sys

import pytest

from bncli.errors import BncliError, CheckpointError
from bncli.jobs.bench import cold, cold_starts, measure_cold_start


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The compile cache of the processes started here, empty."""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "bncli" / "xla"


def test_every_part_takes_its_time_and_the_compile_cache_is_left_alone(kinds, target, cache):
    told = []
    (start,) = cold_starts([kinds["trained"]], target, (2, 1), progress=lambda *event: told.append(event))
    assert start.start > 0
    assert start.open > 0
    assert len(start.first_calls) == 2
    assert min(start.first_calls) > 0
    if sys.platform == "linux":
        assert start.memory_peak > start.memory_before > 0
    assert not list(cache.rglob("*-cache"))
    assert told == [("cold start", 0, 1), ("cold start", 1, 1)]


def test_an_error_of_the_process_is_raised_here(trained, target):
    with pytest.raises(CheckpointError, match="has no step '77'") as caught:
        measure_cold_start(trained.out, target, (1,), step="77")
    assert "best, last" in caught.value.remedy


DYING = """
import os

def serve(request):
    os.write(2, b"first\\nlast word")
    os._exit(9)
"""


def test_a_process_that_dies_is_reported_with_its_last_word(trained, target, monkeypatch, tmp_path):
    (tmp_path / "dying.py").write_text(DYING)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(cold, "_SERVE", "dying:serve")
    with pytest.raises(BncliError, match=r"ended with 9: last word") as caught:
        measure_cold_start(trained.out, target, (1,))
    assert "--no-cold" in caught.value.remedy
    assert "first" in caught.value.__notes__[0]


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_memory_is_this_process_own_and_none_where_nothing_tells(monkeypatch, tmp_path):
    held, most = cold._memory("VmRSS"), cold._memory("VmHWM")
    assert most >= held > 1 << 20
    monkeypatch.setattr(cold, "_STATUS", tmp_path / "missing")
    assert cold._memory("VmRSS") is None
