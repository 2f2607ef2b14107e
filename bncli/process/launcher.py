"""Start the processes of one run on this machine, pass signals on, and end all when one ends badly.

The launcher may be killed itself, and can then end nobody. So each process holds the end of a pipe whose other end the
launcher alone has: the system closes it, however the launcher ends, and the processes stop.

Importing this module imports no JAX.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, BinaryIO

_BOOT = (
    "import json, sys; given = json.loads(sys.argv.pop(1)); sys.path[:] = given['path']; sys.argv[0] = 'bncli'; "
    "from bncli.process.launcher import end_with_launcher; end_with_launcher(given['pipe']); "
    "from bncli.cli.app import main; main()"
)
_SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1")
# The processes hear of the end of one at once, and have a few seconds to save and end by themselves.
_PATIENCE_SECONDS = 20.0
_KILL_SECONDS = 5.0
_POLL_SECONDS = 0.05
_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class Ended:
    """The end of one process.

    Attributes:
        process: its index.
        code: its exit code, negative for a signal.
        log: the file with what it has printed.
    """

    process: int
    code: int
    log: Path

    def __str__(self) -> str:
        """Such as ``process 1 was killed by SIGKILL``."""
        if self.code < 0:
            return f"process {self.process} was killed by {signal.Signals(-self.code).name}"
        return f"process {self.process} ended with exit code {self.code}"


def launch(
    command: Sequence[str], *, processes: int, logs: Path, port: int | None = None, on_end: Callable[[Ended], None]
) -> int:
    """Run a bncli command in several processes; return the exit code of all.

    What process 0 prints goes to this process's stdout and stderr too.

    Args:
        command: the words after ``bncli``.
        processes: how many.
        logs: an existing folder for ``process-0.log`` and so on.
        port: of the coordinator; None takes a free one.
        on_end: called with the first process that does not end with 0.

    Returns:
        0 if all processes end so; else the exit code of the first that does not, or 1 if a signal ended it.
    """
    coordinator = f"127.0.0.1:{port or free_port()}"
    started: list[_Started] = []
    pipe, alive = os.pipe()  # nobody inherits the end that is alive with this process
    try:
        for index in range(processes):
            started.append(_start([*command, *_of_cluster(coordinator, index, processes)], index, logs, pipe))
        with _passed_on(started):
            return _wait(started, on_end)
    finally:
        for one in started:
            one.end()
        os.close(pipe)
        os.close(alive)


def end_with_launcher(pipe: int) -> None:
    """Stop this process when the launcher has ended: as after SIGTERM, and for good if that takes too long.

    Args:
        pipe: its end of the launcher's pipe.
    """

    def watch() -> None:
        while os.read(pipe, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_PATIENCE_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="bncli-launcher", daemon=True).start()


def free_port() -> int:
    """A TCP port of this machine that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
class _Started:
    """A running process and the threads that copy what it prints."""

    index: int
    process: subprocess.Popen[bytes]
    log: Path
    copiers: tuple[threading.Thread, ...]

    def end(self) -> None:
        """Kill the process if it still runs, and wait for what it has printed."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for copier in self.copiers:
            copier.join(_KILL_SECONDS)


def _of_cluster(coordinator: str, index: int, processes: int) -> list[str]:
    return ["--coordinator", coordinator, "--num-processes", str(processes), "--process-id", str(index)]


def _start(words: Sequence[str], index: int, logs: Path, pipe: int) -> _Started:
    given = json.dumps({"path": [str(Path(entry).absolute()) for entry in sys.path], "pipe": pipe})
    log = logs / f"process-{index}.log"
    file = log.open("wb", buffering=0)
    is_shown = index == 0
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _BOOT, given, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if is_shown else file,
        stderr=subprocess.PIPE if is_shown else file,
        pass_fds=[pipe],
        start_new_session=True,  # Ctrl-C comes once, through the launcher
    )
    if not is_shown:
        file.close()
        return _Started(index, process, log, ())
    assert process.stdout is not None
    assert process.stderr is not None
    copiers = (
        _copy(process.stdout, (file, sys.stdout.buffer)),
        _copy(process.stderr, (file, sys.stderr.buffer)),
    )
    return _Started(index, process, log, copiers)


def _copy(source: IO[bytes], targets: Sequence[BinaryIO | IO[bytes]]) -> threading.Thread:
    """Copy a stream to several, as it comes, on a thread."""

    def run() -> None:
        while chunk := os.read(source.fileno(), _CHUNK_BYTES):
            for target in targets:
                with suppress(OSError, ValueError):  # a reader may be gone, and the work goes on
                    target.write(chunk)
                    target.flush()

    thread = threading.Thread(target=run, name="bncli-output", daemon=True)
    thread.start()
    return thread


@contextmanager
def _passed_on(started: Sequence[_Started]) -> Iterator[None]:
    """Pass Ctrl-C, SIGTERM and SIGUSR1 on to all processes."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        for one in started:
            if one.process.poll() is None:
                with suppress(ProcessLookupError):
                    one.process.send_signal(number)

    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    previous = {number: signal.signal(number, pass_on) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _wait(started: Sequence[_Started], on_end: Callable[[Ended], None]) -> int:
    """Wait for all processes; once one has ended badly, the others have a while to end too."""
    first: Ended | None = None
    deadline = float("inf")
    while running := [one for one in started if one.process.poll() is None]:
        first = first or _bad_end(started)
        if first is not None and deadline == float("inf"):
            on_end(first)
            deadline = time.monotonic() + _PATIENCE_SECONDS
        if time.monotonic() > deadline:
            for one in running:
                one.process.kill()
        time.sleep(_POLL_SECONDS)
    if first is None and (first := _bad_end(started)) is not None:
        on_end(first)
    if first is None:
        return 0
    return first.code if first.code > 0 else 1


def _bad_end(started: Sequence[_Started]) -> Ended | None:
    """The first process that has not ended with 0."""
    for one in started:
        code = one.process.poll()
        if code:
            return Ended(one.index, code, one.log)
    return None
