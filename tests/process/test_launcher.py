"""Local processes: one log each, the exit code of the first that fails, and none is left over."""

import re
import subprocess
import sys
import time

import pytest

# The words of the command come before those of the cluster; each process of this stand-in is told what to do by them.
STAND_IN = """
import os, signal, sys, time
words = sys.argv[1:]
process = int(words[words.index("--process-id") + 1])
print(f"process {process} prints", flush=True)
if words[0] == "kill" and process == 1:
    os.kill(os.getpid(), signal.SIGKILL)
if words[0] == "fail" and process == 1:
    sys.exit(3)
if words[0] == "signal":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print("ready", flush=True)
    time.sleep(60)
if words[0] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if words[0] in ("orphan", "stubborn"):
    print(os.getpid(), flush=True)
    time.sleep(60)
if words[0] in ("kill", "fail"):
    time.sleep(60)
"""
# As in a process of bncli, with less patience.
WATCH = """
import json, sys
from bncli.process import launcher
launcher._PATIENCE_SECONDS = 0.5
launcher.end_with_launcher(json.loads(sys.argv.pop(1))["pipe"])
"""
PARENT = """
import sys
from pathlib import Path
from bncli.process import launcher
launcher._BOOT = sys.argv[3]
launcher._PATIENCE_SECONDS = 0.5
sys.exit(launcher.launch(
    [sys.argv[1]], processes=2, logs=Path(sys.argv[2]), on_end=lambda ended: print(ended, flush=True)
))
"""


def start(word, logs):
    boot = WATCH + STAND_IN
    return subprocess.Popen(
        [sys.executable, "-c", PARENT, word, str(logs), boot], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(
    ("word", "code", "told"),
    [
        ("work", 0, ""),
        ("kill", 1, "process 1 was killed by SIGKILL\n"),
        ("fail", 3, "process 1 ended with exit code 3\n"),
    ],
)
def test_the_exit_code_is_that_of_the_first_process_that_fails(tmp_path, word, code, told):
    process = start(word, tmp_path)
    printed, errors = process.communicate(timeout=30)
    assert process.returncode == code, errors
    assert printed.replace("process 0 prints\n", "") == told
    logs = [(tmp_path / f"process-{index}.log").read_text() for index in range(2)]
    assert logs == ["process 0 prints\n", "process 1 prints\n"]


def test_signals_reach_all_processes(tmp_path):
    process = start("signal", tmp_path)
    deadline = time.monotonic() + 30
    logs = [tmp_path / f"process-{index}.log" for index in range(2)]
    while not all(log.is_file() and re.search("ready", log.read_text()) for log in logs):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 143


@pytest.mark.parametrize("word", ["orphan", "stubborn"])
def test_processes_end_when_the_launcher_is_killed(tmp_path, word):
    process = start(word, tmp_path)
    logs = [tmp_path / f"process-{index}.log" for index in range(2)]
    wait_until(lambda: all(log.is_file() and re.search(r"^\d+$", log.read_text(), re.MULTILINE) for log in logs))
    process.kill()
    process.communicate(timeout=30)
    pids = [int(re.search(r"^\d+$", log.read_text(), re.MULTILINE).group()) for log in logs]
    wait_until(lambda: not any(is_running(pid) for pid in pids))


def is_running(pid):
    """True if a process runs that is nobody's child here; one that has ended may wait to be reaped."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")


def wait_until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
