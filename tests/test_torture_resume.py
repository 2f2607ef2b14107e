"""``scripts/torture_resume.py`` on a small run: ten kills, and a disk that fails three times, change nothing."""

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest
from zygote import Zygote

SCRIPT = Path(__file__).parents[1] / "scripts" / "torture_resume.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("torture_resume", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_a_run_that_is_killed_ten_times_ends_in_the_bytes_of_one_left_in_peace(script, tmp_path):
    lines, zygote = [], Zygote()
    try:
        tally = script.torture(zygote.start, tmp_path, kills=10, seed=1, show=lines.append)
    finally:
        zygote.close()
    assert tally.differences == [], lines
    assert tally.kills == sum(tally.kills_by_moment.values()) == 10
    assert tally.kills_by_moment["while saving"] > 0, lines


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_a_run_whose_disk_fails_leaves_no_save_that_is_not_whole(script, tmp_path):
    lines, tally = [], script.Tally()
    zygote = Zygote(preload=script.failing_disk(tmp_path))
    try:
        script.torture_disk(zygote.start, tmp_path, tally, faults=3, seed=4, show=lines.append)
    finally:
        zygote.close()
    assert (tally.corrupt_saves, tally.differences) == (0, []), lines
    assert any("cannot save" in line for line in lines), lines
