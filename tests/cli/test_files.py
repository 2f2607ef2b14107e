"""A file beside the result: whole or not at all, and never over another by accident."""

import os
import stat
import subprocess
import sys

import pytest

from bncli.cli.files import check_new, write_new
from bncli.errors import BncliError


def test_a_new_file_is_written_and_nothing_else(tmp_path):
    write_new(tmp_path / "report.html", "γ\n", overwrite=False)
    assert (tmp_path / "report.html").read_bytes() == "γ\n".encode()
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_what_is_there_is_only_replaced_on_demand(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("before")
    for call in (check_new, lambda path, overwrite: write_new(path, "after", overwrite=overwrite)):
        with pytest.raises(BncliError, match="already there") as error:
            call(path, overwrite=False)
        assert "--overwrite" in error.value.remedy
    assert path.read_text() == "before"
    write_new(path, "after", overwrite=True)
    assert path.read_text() == "after"


def test_places_that_take_no_file_are_refused_before_the_work(tmp_path):
    with pytest.raises(BncliError, match="is a directory"):
        check_new(tmp_path, overwrite=True)
    with pytest.raises(BncliError, match="no directory"):
        check_new(tmp_path / "missing" / "report.html", overwrite=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_is_read_only(tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(BncliError, match="cannot write"):
        write_new(tmp_path / "report.html", "", overwrite=False)


def test_nothing_is_left_of_a_write_that_fails(tmp_path):
    with pytest.raises(UnicodeEncodeError):
        write_new(tmp_path / "report.html", "\ud800", overwrite=False)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_current_directory_does_not_take_the_place_of_a_library(tmp_path):
    (tmp_path / "jax.py").write_text("raise SystemExit('planted')\n")
    run = [sys.executable, "-m", "bncli", "eval", str(tmp_path / "gone")]
    result = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert "planted" not in result.stderr
    assert "gone" in result.stderr
