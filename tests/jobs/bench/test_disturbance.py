"""The load of other programs: all work of this process's cores minus the work of this process."""

import os

import pytest

from bncli.jobs.bench import disturbance

TICKS = os.sysconf("SC_CLK_TCK")

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="read from Linux's /proc")


def stat(*cores):
    """A /proc/stat; each core by its seconds of user, nice, system, idle, iowait, irq, softirq, steal and guest."""
    rows = [f"cpu{number} " + " ".join(str(value * TICKS) for value in row) for number, row in enumerate(cores)]
    return "\n".join(["cpu  1 2 3 4 5 6 7 8 9", *rows, "intr 5 0 0", ""])


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A function that sets the readings of the system and the clocks: (cores, own seconds, time)."""

    def say(cores, own, now):
        (tmp_path / "stat").write_text(stat(*cores))
        monkeypatch.setattr(disturbance.time, "process_time", lambda: own)
        monkeypatch.setattr(disturbance.time, "perf_counter", lambda: now)

    monkeypatch.setattr(disturbance, "_STAT", tmp_path / "stat")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2})
    return say


IDLE = [0] * 9
# Waiting, and the time of a virtual machine, which is in user already, are no work.
BUSY = [1, 2, 3, 100, 100, 4, 5, 6, 100]  # 21 seconds


@pytest.mark.parametrize(
    ("after", "own", "expected"),
    [
        ([IDLE, IDLE, IDLE], 0, 0),
        ([BUSY, IDLE, IDLE], 0, 2.1),
        ([BUSY, IDLE, BUSY], 32, 1),
        ([IDLE, BUSY, IDLE], 0, 0),  # a core that this process must not use
        ([BUSY, IDLE, IDLE], 22, 0),  # the clocks' rounding is no negative load
    ],
)
def test_other_programs_cores(machine, after, own, expected):
    machine([IDLE, IDLE, IDLE], 100, 50)
    watch = disturbance.start_watch()
    machine(after, 100 + own, 60)
    assert watch() == pytest.approx(expected)


def test_where_the_system_does_not_tell(monkeypatch, tmp_path):
    monkeypatch.setattr(disturbance, "_STAT", tmp_path / "missing")
    assert disturbance.start_watch()() is None


def test_on_this_machine_it_is_a_number_of_cores():
    watch = disturbance.start_watch()
    assert sum(range(10**6)) > 0
    assert 0 <= watch() <= os.cpu_count() + 1
