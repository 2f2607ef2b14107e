"""One training for each directory, and a lock that outlives nobody."""

import errno
import json
import os
import subprocess
import sys
from contextlib import nullcontext

import pytest

from bncli import checkpoint
from bncli.checkpoint import locking
from bncli.errors import BncliWarning, CheckpointError
from bncli.process import distributed
from bncli.process.distributed import Cluster, Member

HOLD = """
import sys, time
from pathlib import Path
from bncli import checkpoint
with checkpoint.locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has the directory."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.communicate()


def test_the_second_is_refused_and_told_who_has_it_and_the_lock_of_a_killed_process_is_none(holder, tmp_path):
    words = rf"{tmp_path} is in use: process {holder.pid} on '.+', for \d+ seconds,"
    with pytest.raises(CheckpointError, match=words) as caught, checkpoint.locked(tmp_path):
        pass
    assert "--out" in caught.value.remedy
    holder.kill()
    holder.wait()
    assert (tmp_path / ".lock.json").is_file()  # what it left
    with checkpoint.locked(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("holder")
def test_who_has_it_may_not_be_known(tmp_path):
    for owner in ("", "{", "[]", '{"pid": "x", "host": 1, "since": null}'):
        (tmp_path / ".lock.json").write_text(owner)
        with pytest.raises(CheckpointError, match="in use: another process"), checkpoint.locked(tmp_path):
            pass


@pytest.mark.parametrize("sees_it", [True, False])
def test_another_process_must_see_the_folder_of_process_0(tmp_path, monkeypatch, sees_it):
    class Line:
        def __init__(self):
            self.said = ["", "the owner"]  # process 0 has the lock, and has written so

        def exchange(self, text):
            return [self.said.pop(0), text]

    member = Member(Cluster(), lambda loss: None, "train", 1, 2, Line())
    monkeypatch.setattr(distributed._PROCESS, "member", member)
    monkeypatch.setattr(locking, "SEEN_WITHIN_SECONDS", 0.1)
    (tmp_path / ".lock.json").write_text("the owner" if sees_it else "the owner of before")
    expected = (
        nullcontext() if sees_it else pytest.raises(CheckpointError, match="not the folder that process 0 writes")
    )
    with expected, checkpoint.locked_for_all(tmp_path):
        assert sees_it


def test_hours_are_told_as_hours(holder, tmp_path):
    owner = json.loads((tmp_path / ".lock.json").read_text())
    (tmp_path / ".lock.json").write_text(json.dumps({**owner, "since": owner["since"] - 5 * 3600}))
    with pytest.raises(CheckpointError, match="for 5 hours,"), checkpoint.locked(tmp_path):
        pass


@pytest.fixture(params=[errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO, errno.ENOSYS], ids=errno.errorcode.get)
def without_locks(request, monkeypatch):
    """A file system whose locks answer with an error."""

    def flock(descriptor, operation):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr("fcntl.flock", flock)


@pytest.mark.usefixtures("without_locks")
def test_without_locks_the_work_goes_on_with_a_warning(tmp_path):
    with pytest.warns(BncliWarning, match=rf"the file system of {tmp_path} has no locks"), checkpoint.locked(tmp_path):
        assert json.loads((tmp_path / ".lock.json").read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("without_locks", [errno.ENOLCK], indirect=True)
@pytest.mark.usefixtures("without_locks")
def test_without_locks_an_owner_that_runs_is_respected(holder, tmp_path):
    with (
        pytest.raises(CheckpointError, match=rf"{tmp_path} is in use: process {holder.pid}"),
        checkpoint.locked(tmp_path),
    ):
        pass
    assert (tmp_path / ".lock.json").is_file()
    holder.kill()
    holder.wait()
    with pytest.warns(BncliWarning), checkpoint.locked(tmp_path):
        pass


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path):
    below = tmp_path / "file" / "below"
    below.parent.touch()
    with pytest.raises(CheckpointError, match=r"cannot write in .*file/below"), checkpoint.locked(below):
        pass
