"""Saves in a thread of their own: one at a time, and no error is lost or told twice."""

import subprocess
import sys
import threading

import pytest

from bncli.checkpoint import BackgroundSaver
from bncli.errors import CheckpointError


def test_a_save_does_not_keep_its_caller_and_is_waited_for():
    saver, gate, done = BackgroundSaver(), threading.Event(), []
    saver.submit(lambda: (gate.wait(), done.append(1)))
    assert saver.failure() is None  # it is under way, and not waited for
    assert not done
    gate.set()
    assert saver.wait() is None
    assert done == [1]


def test_an_error_is_told_once_and_the_next_save_is_written():
    saver, done = BackgroundSaver(), []

    def full():
        raise OSError(28, "No space left on device")

    saver.submit(full)
    error = saver.wait()
    assert isinstance(error, CheckpointError)
    assert error.message == "cannot save: No space left on device"
    assert saver.wait() is None
    saver.submit(lambda: done.append(1))
    assert saver.wait() is None
    assert done == [1]


def test_a_fault_of_ours_is_no_failed_save():
    saver = BackgroundSaver()
    saver.submit(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        saver.wait()


THREAD = """
import threading
from bncli.checkpoint import BackgroundSaver
BackgroundSaver()
BackgroundSaver()
def fail():
    raise RuntimeError("of the user's own thread")
thread = threading.Thread(target=fail)
thread.start()
thread.join()
"""


def test_errors_of_other_threads_are_still_printed():
    done = subprocess.run([sys.executable, "-c", THREAD], capture_output=True, text=True, check=True)
    assert done.stderr.count("Exception in thread") == 1
