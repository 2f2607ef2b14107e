"""Signals sent to a real ``bncli train``: it saves, says how to go on, and its exit code says what it was."""

import signal
import subprocess
import sys
import time

import pytest
from support import compile_time
from support.breadth import broad

from bncli import checkpoint

# So many epochs that none of these runs comes to its end.
RUN = ("train", "--data", "digits", "--model", "mlp", "--epochs", "10000", "--patience", "9999", "--save-every", "50")
SOON = 60  # seconds; on a machine with other work


def start(out, *options):
    return subprocess.Popen(
        [sys.executable, "-m", "bncli", *RUN, "--out", str(out), *options],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=compile_time.children() | {"COLUMNS": "1000"},
    )


def wait_for_a_save(process, out):
    end = time.monotonic() + SOON
    while not (out / "steps").is_dir() or not checkpoint.complete_steps(out):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("name", "code"), broad([("SIGINT", 130), ("SIGTERM", 143), ("SIGUSR1", 130)], lambda case: case[0] == "SIGTERM")
)
def test_a_signal_has_the_run_saved(tmp_path, name, code):
    out = tmp_path / "ckpt"
    process = start(out)
    wait_for_a_save(process, out)
    process.send_signal(getattr(signal, name))
    asked = time.monotonic()
    _, words = process.communicate(timeout=SOON)
    assert process.returncode == code, words
    assert time.monotonic() - asked < 10
    assert "stopping after this step, then saving; a second signal stops at once" in words
    assert f"Continue with: bncli train --resume --out {out}" in words
    assert "Traceback" not in words
    last = checkpoint.complete_steps(out)[-1]
    assert f"saved at step {last} in {out}" in words
    checkpoint.verify(out, last)
    assert {path.name for path in out.iterdir()} == {"config.json", "layers.jsonl", "metrics.jsonl", "steps"}


STUCK = """
import os, signal, sys, time
from bncli.cli import signals
asked = []
with signals.stopping(asked.append, quiet=True):
    os.kill(os.getpid(), signal.SIGTERM)
    while not asked:
        time.sleep(0.01)
    assert asked == [143], asked
    print("asked", flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(600)  # as in a long compilation: Python's own handlers would wait
"""


def test_the_second_signal_ends_the_process_at_once_wherever_it_is():
    done = subprocess.run([sys.executable, "-c", STUCK], capture_output=True, text=True, timeout=SOON, check=False)
    assert (done.returncode, done.stdout) == (130, "asked\n"), done.stderr


def test_after_it_the_handlers_are_as_before():
    from bncli.cli import signals

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with signals.stopping(lambda code: None, quiet=True):
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert signal.set_wakeup_fd(-1) == -1
