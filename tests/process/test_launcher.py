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
if words[0] in ("kill", "fail"):
    time.sleep(60)
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
    boot = "import sys; sys.argv.pop(1)\n" + STAND_IN
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
