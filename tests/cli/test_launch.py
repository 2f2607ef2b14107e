"""``bncli launch``: several processes train as one, to the bytes of one process, and end together."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bncli.cli.app import app

TRAIN = ("train", "--model", "mlp", "--model-arg", "features=[8]", "--batch-size", "64", "--save-every", "5")


def start(*words, devices=1):
    return subprocess.Popen(
        [sys.executable, "-m", "bncli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"},
    )


def launch(out, *words, epochs=2, processes=2):
    train = (*TRAIN, "--epochs", str(epochs), "--out", str(out), "--json", *words)
    return start(
        "launch", "--processes", str(processes), "--logs", str(out.with_suffix(".logs")), "--resume", "--", *train
    )


def finish(process, seconds=120):
    """The document of a run that ends well."""
    printed, errors = process.communicate(timeout=seconds)
    assert process.returncode == 0, errors
    return json.loads(printed)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The document of one process with two devices."""
    out = tmp_path_factory.mktemp("alone") / "run"
    return finish(start(*TRAIN, "--epochs", "2", "--out", str(out), "--json", devices=2))


@pytest.mark.cluster
def test_two_processes_train_to_the_bytes_of_one_with_two_devices(alone, tmp_path):
    together = finish(launch(tmp_path / "run"))
    assert together["sha256"] == alone["sha256"]
    assert together["test"] == alone["test"]
    for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy"):
        assert [row[name] for row in together["history"]] == [row[name] for row in alone["history"]]
    log = (tmp_path / "run.logs" / "process-1.log").read_text()
    assert "test" not in log  # process 0 alone prints
    score = ("eval", str(tmp_path / "run"), "--json")
    evaluated = finish(start("launch", "--logs", str(tmp_path / "eval.logs"), "--", *score))
    assert evaluated["loss"] == pytest.approx(together["test"]["loss"], rel=1e-6)


@pytest.mark.cluster
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children are looked up in /proc")
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_all_and_the_run_goes_on_to_the_same_bytes(alone, tmp_path, victim):
    out = tmp_path / "run"
    process = launch(out)
    wait_for(lambda: list(out.glob("steps/*.sha256")), process)
    os.kill(children(process)[victim], signal.SIGKILL)
    killed = time.monotonic()
    process.communicate(timeout=60)
    assert process.returncode == 1
    assert time.monotonic() - killed < 30
    log = (tmp_path / "run.logs" / f"process-{1 - victim}.log").read_text()
    assert f"process {victim} (pid" in log
    assert "it was killed, or it crashed" in log
    assert "internal error" not in log
    assert finish(launch(out))["sha256"] == alone["sha256"]


@pytest.mark.cluster
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children are looked up in /proc")
def test_a_signal_to_one_process_stops_all_after_the_same_step(tmp_path):
    out = tmp_path / "run"
    process = launch(out, epochs=400)
    wait_for(lambda: list(out.glob("steps/*.sha256")), process)
    os.kill(children(process)[1], signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert errors.count("interrupted in epoch") == 1
    assert "interrupted" not in (tmp_path / "run.logs" / "process-1.log").read_text()


@pytest.mark.cluster
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children are looked up in /proc")
def test_processes_end_when_the_launcher_is_killed_and_the_run_goes_on_to_the_same_bytes(alone, tmp_path):
    out = tmp_path / "run"
    process = launch(out)
    wait_for(lambda: list(out.glob("steps/*.sha256")), process)
    started = children(process)
    assert len(started) == 2
    process.kill()
    process.communicate(timeout=60)
    deadline = time.monotonic() + 30
    while any(is_running(pid) for pid in started):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert finish(launch(out))["sha256"] == alone["sha256"]


def is_running(pid):
    """True if a process that is not this one's child still runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, process, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def children(process):
    """The processes that a launcher has started, in their order."""
    return sorted(map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("launch", "--", "fold", "ckpt", "out"), "several processes can run train, eval"),
        (("launch", "--", "train", "--coordinator", "a:1"), "bncli launch sets it"),
        (("launch", "--resume", "--", "eval", "ckpt"), "eval has no run to continue"),
        (("train", "--distributed", "auto", "--process-id", "0"), "exclude each other"),
        (("train", "--coordinator", "here:1"), "belong together"),
        (("eval", "ckpt", "--coordinator", "here", "--num-processes", "2", "--process-id", "0"), "must be HOST:PORT"),
        (("train", "--coordinator", "here:1", "--num-processes", "2", "--process-id", "2"), "there are 2 processes"),
        (
            ("train", "--report", "--coordinator", "here:1", "--num-processes", "2", "--process-id", "1"),
            "--report is written by a process that is alone",
        ),
    ],
)
def test_a_wrong_call_is_answered_before_anything_starts(words, message):
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2, result.output
    assert message in result.output


def test_a_launcher_needs_a_folder_for_its_logs(tmp_path):
    (tmp_path / "taken").write_text("")
    result = CliRunner().invoke(app, ("launch", "--logs", str(tmp_path / "taken"), "--", "doctor"))
    assert result.exit_code == 1, result.output
    assert "Name another --logs" in result.output
