"""How much memory is left, and what is refused for lack of it."""

import pytest

from bncli.errors import DataError
from bncli.process import memory

MEMINFO = "MemTotal:       8000 kB\nMemFree:        1000 kB\nMemAvailable:   4000 kB\n"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine whose files the test writes: (meminfo, cgroup folder)."""
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    return tmp_path / "meminfo", tmp_path


@pytest.mark.parametrize(
    ("limit", "used", "expected"),
    [(None, None, 4000 * 1024), ("max", "5", 4000 * 1024), ("3000000", "1000000", 2_000_000)],
)
def test_the_tighter_of_machine_and_container_counts(machine, limit, used, expected):
    meminfo, cgroup = machine
    meminfo.write_text(MEMINFO)
    if limit is not None:
        (cgroup / "memory.max").write_text(f"{limit}\n")
        (cgroup / "memory.current").write_text(f"{used}\n")
    assert memory.available_memory() == expected


def test_where_nothing_is_known_nothing_is_refused(machine):
    assert memory.available_memory() is None
    memory.require_memory(1 << 60, what="x", remedy="y")


def test_the_reserve_is_kept_free(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 1 << 30)
    memory.require_memory(768 << 20, what="x", remedy="y")
    with pytest.raises(DataError, match=r"x: 768\.0 MiB of memory needed, 1\.0 GiB available") as caught:
        memory.require_memory((768 << 20) + 1, what="x", remedy="y")
    assert caught.value.remedy == "y"


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 30, "5.0 GiB"), (3 << 50, "3,072.0 TiB")],
)
def test_bytes_are_written_for_people(num_bytes, text):
    assert memory.format_bytes(num_bytes) == text
