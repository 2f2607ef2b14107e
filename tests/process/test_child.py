"""Work in a process of its own: its answers arrive, however it ends is reported, and it never outlives its parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bncli.errors import DataError
from bncli.process import child
from bncli.process.child import Answer, ChildError, ask_child, run_child

PREAMBLE = """
import os, signal, sys, time
from bncli.errors import DataError
from bncli.process import child
from bncli.process.child import Answer, limit_this_process

def serve(request):
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """(body of a generator of answers, request) -> the result of running it in a process of its own."""
    monkeypatch.syspath_prepend(tmp_path)

    def run(body, request=None, ask=False, **options):
        lines = body.splitlines()
        (tmp_path / "work.py").write_text(PREAMBLE + "".join(f"    {line}\n" for line in lines) + "    yield from ()\n")
        return (ask_child if ask else run_child)("work:serve", request, **options)

    return run


def test_the_request_and_the_answers_arrive_as_they_are(run):
    request = {"text": "é\n\udcff", "numbers": [1, 0.1, None], "large": "x" * 10**6}
    result = run("for n in range(3): yield Answer({'n': n, **request}, bytes(range(256)) * n)", request)
    assert result.answers == tuple(Answer({"n": n, **request}, bytes(range(256)) * n) for n in range(3))
    assert result.error is None
    assert result.end.code == 0


def test_one_answer(run):
    assert run("yield Answer({'pid': os.getpid()})", ask=True).document["pid"] != os.getpid()


def test_an_error_is_raised_again_with_its_remedy_and_its_traceback(run):
    with pytest.raises(DataError, match="no such file") as caught:
        run("raise DataError('no such file', remedy='Look again.')", ask=True)
    assert caught.value.remedy == "Look again."
    assert "work.py" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("body", "end"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "the process crashed: SIGSEGV"),
        ("os.abort()", "the process crashed: SIGABRT"),
        ("os._exit(3)", "the process ended with 3: no message"),
        ("sys.exit('no room')", "the process ended with 1: no room"),
        ("{}['key']", "the process ended with 1: KeyError: 'key'"),
    ],
)
def test_an_end_without_an_answer_is_reported(run, body, end):
    with pytest.raises(ChildError) as caught:
        run(body, ask=True)
    assert caught.value.message == end


def test_what_came_before_a_crash_is_kept(run):
    result = run("yield Answer({'n': 1}); yield Answer({'n': 2}, b'12345'); os._exit(7)")
    assert [answer.document["n"] for answer in result.answers] == [1, 2]
    assert result.end.code == 7


def test_an_answer_that_was_cut_short_is_left_out():
    whole = b'{"document": {"n": 1}, "size": 3}\nabc'
    for length in range(len(whole)):
        assert child.parse(whole + whole[:length]) == ((Answer({"n": 1}, b"abc"),), None)


def test_a_child_that_takes_too_long_is_killed(run):
    started = time.perf_counter()
    result = run("yield Answer({'pid': os.getpid()}); time.sleep(600)", seconds=5.0)
    assert str(result.end) == "no answer within 5 s"
    assert time.perf_counter() - started < 60
    assert not Path(f"/proc/{result.answers[0].document['pid']}").exists()


def test_a_process_that_the_child_leaves_behind_does_not_keep_the_parent(run, monkeypatch):
    monkeypatch.setattr(child, "_DRAIN_SECONDS", 1.0)
    started = time.perf_counter()
    body = "import subprocess; pid = subprocess.Popen(['sleep', '600']).pid; yield Answer({'pid': pid})"
    (answer,) = run(body).answers
    os.kill(answer.document["pid"], signal.SIGKILL)
    assert time.perf_counter() - started < 60


def test_what_is_printed_is_no_answer_and_only_its_end_is_kept(run, capfd):
    result = run("print('x' * 10**6); os.write(1, b'y' * 10**6); print('last', file=sys.stderr); yield Answer({})")
    assert result.answers == (Answer({}),)
    assert len(result.end.printed) <= 1 << 18
    assert "last" in result.end.printed
    assert capfd.readouterr() == ("", "")


def test_memory_and_time_have_limits(run):
    pytest.importorskip("resource")
    body = """
limit_this_process(cpu_seconds=1, memory=64 << 20)
try:
    bytearray(1 << 30)
except MemoryError:
    yield Answer({'refused': True})
while True: pass
"""
    result = run(body)
    assert [answer.document for answer in result.answers] == [{"refused": True}]
    assert result.end.signal == signal.SIGXCPU


PARENT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
sys.path[:] = {path!r}
from bncli.process.child import run_child
run_child("sleeper:serve", {pid_file!r})
"""
SLEEPER = """
import os, pathlib, time

def serve(pid_file):
    pathlib.Path(pid_file + ".new").write_text(str(os.getpid()))
    os.rename(pid_file + ".new", pid_file)
    time.sleep(600)
    yield from ()
"""


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for the process in /proc")
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_child_does_not_outlive_its_parent(tmp_path, ending):
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    pid_file = tmp_path / "pid"
    code = PARENT.format(path=[str(tmp_path), *sys.path], pid_file=str(pid_file))
    parent = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    try:
        _wait_for(pid_file.exists)
        child = Path(f"/proc/{pid_file.read_text()}")
        assert child.exists()
        parent.send_signal(ending)
        assert parent.wait(60) == -ending
        _wait_for(lambda: not child.exists() or _is_zombie(child))
    finally:
        parent.kill()
        parent.wait()


def _wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _is_zombie(process):
    """True if the process has ended and whoever inherited it has not noticed yet."""
    try:
        return process.joinpath("stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
