"""Closed pipes, full devices and poor encodings: each ends quietly, or with a message that is true."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.torch_files import batch_norm, module, write_torch

from bncli.cli.console import message_console

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "a report": ("inspect-stats", "x.pt"),
    "JSON": ("inspect-stats", "x.pt", "--json"),
    "CSV": ("inspect-stats", "x.pt", "--csv"),
    "the help": ("fold", "--help"),
    "the version": ("--version",),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with a small checkpoint."""
    path = tmp_path_factory.mktemp("streams")
    write_torch(path / "x.pt", module("Net", children={"γ": batch_norm(seed=1), "bn2": batch_norm(seed=2)}))
    return path


def run(place, argv, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    return subprocess.run(
        [sys.executable, "-m", "bncli", *argv], cwd=place, env=environment, timeout=120, check=False, **options
    )


@pytest.mark.sample(1)
@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGPIPE")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_pipe_without_a_reader_ends_the_command_quietly(name, place):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        result = run(place, COMMANDS[name], stdout=closed, stderr=subprocess.PIPE)
    # A shell reports a process that SIGPIPE ended by 128 + 13.
    assert result.returncode in (141, -13)
    assert result.stderr == b""


def test_a_message_without_a_reader_changes_nothing(place):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        result = run(place, ("inspect-stats", "missing"), stdout=subprocess.PIPE, stderr=closed)
    assert (result.returncode, result.stdout) == (1, b"")


@pytest.mark.sample(1)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no full device")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_device_is_named(name, place):
    with Path("/dev/full").open("wb") as full:
        result = run(place, COMMANDS[name], stdout=full, stderr=subprocess.PIPE)
    assert result.returncode == 1
    assert result.stderr.startswith(b"error: cannot write the result to stdout: No space left on device\nremedy: ")
    assert result.stderr.count(b"\n") == 2


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("name", "encoding"),
    [("a report", "ascii"), ("a report", "cp1252"), ("CSV", "cp1252"), ("the help", "ascii")],
)
def test_a_poor_encoding_gets_plain_characters(name, encoding, place):
    result = run(place, COMMANDS[name], capture_output=True, env={"PYTHONIOENCODING": encoding})
    assert (result.returncode, result.stderr) == (0, b"")
    if name == "a report":
        text = result.stdout.decode(encoding)
        assert "g" in text.splitlines()[1]
        assert "#" in text
        assert "?" not in text.splitlines()[2]


def test_a_console_outlives_its_stream(monkeypatch):
    """Python 3.13 reports what a stream raises when it is collected."""
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    console = message_console()
    stream.close()
    console.file.write("late")
    console.file.flush()
