"""Work in a process of its own: where it may crash, hang, or must find nothing loaded.

A function named "package.module:function" runs there. It takes a JSON document and yields its answers::

    parent                                      child
    run_child("bncli.x:serve", request)  ────>  for answer in serve(request): ...
    ChildResult(answers, end)            <────  answer by answer, so a crash loses only what comes after it

An answer is a JSON document and, if there is need, bytes: no objects are unpickled. A BncliError of the function is
raised again in the parent by ``ask_child``. The child cannot outlive its parent: it ends when its stdin closes.
Importing this module imports no JAX.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bncli import errors
from bncli.config.json_types import JSON, Document
from bncli.errors import BncliError

_BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from bncli.process.child import main; main()"
_CHUNK_BYTES = 1 << 16
# Of what the child prints, which may be any amount, only the end is kept.
_TAIL_CHUNKS = 4
# After the child has ended: a process that it started may hold its pipes open.
_DRAIN_SECONDS = 10.0
# Characters of an error's traceback that reach the parent.
_MAX_DETAILS = 20_000


@dataclass(frozen=True)
class Answer:
    """One answer of the child.

    Attributes:
        document: JSON.
        payload: bytes beside it, for large arrays.
    """

    document: Document
    payload: bytes = b""


@dataclass(frozen=True)
class End:
    """The end of the child.

    Attributes:
        code: its exit code, negative for a signal; None if it was killed at the time limit.
        seconds: the time limit; None if there was none.
        printed: the last lines that it printed.
    """

    code: int | None
    seconds: float | None
    printed: str

    @property
    def signal(self) -> int | None:
        """The signal that ended the child; None if no signal did."""
        return -self.code if self.code is not None and self.code < 0 else None

    def __str__(self) -> str:
        """Such as ``the process crashed: SIGSEGV``."""
        if self.code is None:
            return f"no answer within {self.seconds:g} s"
        if self.signal is not None:
            return f"the process crashed: {signal.Signals(self.signal).name}"
        lines = self.printed.strip().splitlines() or ["no message"]
        return f"the process ended with {self.code}: {lines[-1]}"


class ChildError(BncliError):
    """The child ended without an answer.

    Args:
        end: the way it ended.
    """

    def __init__(self, end: End) -> None:
        super().__init__(str(end))
        self.end = end


@dataclass(frozen=True)
class ChildResult:
    """The outcome of a child.

    Attributes:
        answers: the complete answers, in order.
        error: the BncliError that the function raised; None if it raised none.
        end: the way the process ended.
    """

    answers: tuple[Answer, ...]
    error: BncliError | None
    end: End


def ask_child(
    function: str, request: JSON, *, seconds: float | None = None, environment: Mapping[str, str] | None = None
) -> Answer:
    """The single answer of a function that runs in a process of its own; for the arguments see ``run_child``.

    Raises:
        BncliError: the function raised it.
        ChildError: the process ended without an answer.
    """
    result = run_child(function, request, seconds=seconds, environment=environment)
    if result.error is not None:
        raise result.error
    if not result.answers:
        raise ChildError(result.end)
    return result.answers[0]


def run_child(
    function: str, request: JSON, *, seconds: float | None = None, environment: Mapping[str, str] | None = None
) -> ChildResult:
    """Run a function in a process of its own until it ends or its time is up.

    The child finds modules where this process does: neither fewer (a checkout that is not installed) nor more. Nothing
    that it prints reaches the terminal. Ctrl-C, or any other exception here, kills it.

    Args:
        function: "package.module:function"; takes ``request`` and yields answers.
        request: JSON.
        seconds: wall time that the process may take; None sets no limit.
        environment: variables in addition to this process's own.
    """
    path = json.dumps([str(Path(entry).absolute()) for entry in sys.path])
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _BOOT, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **(environment or {})},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    sent, printed = deque[bytes](), deque[bytes](maxlen=_TAIL_CHUNKS)
    readers = [_drain(process.stdout, sent), _drain(process.stderr, printed)]
    code: int | None = None
    try:
        with suppress(subprocess.TimeoutExpired):
            _send_request(process.stdin, {"function": function, "request": request})
            code = process.wait(seconds)
    finally:
        process.kill()
        process.wait()
        for reader in readers:
            reader.join(_DRAIN_SECONDS)
        _close(process.stdin)
    end = End(code, seconds, b"".join(printed).decode(errors="replace"))
    return ChildResult(*parse(b"".join(sent)), end)


def _send_request(pipe: IO[bytes], request: JSON) -> None:
    """Write the request and keep the pipe open: the child ends when it closes."""
    with suppress(BrokenPipeError):  # the child has ended already, and its end tells why
        pipe.write(json.dumps(request).encode() + b"\n")
        pipe.flush()


def _close(pipe: IO[bytes]) -> None:
    with suppress(BrokenPipeError):  # part of a request that was never read
        pipe.close()


def _drain(pipe: IO[bytes], chunks: deque[bytes]) -> threading.Thread:
    """Start a thread that moves everything in ``pipe`` to ``chunks``."""

    def read() -> None:
        with pipe:
            while chunk := os.read(pipe.fileno(), _CHUNK_BYTES):
                chunks.append(chunk)

    thread = threading.Thread(target=read, name="bncli-child", daemon=True)
    thread.start()
    return thread


def parse(sent: bytes) -> tuple[tuple[Answer, ...], BncliError | None]:
    """The answers and the error in what a child sent; one that was cut short is left out."""
    answers: list[Answer] = []
    while b"\n" in sent:
        line, _, rest = sent.partition(b"\n")
        head = json.loads(line)
        if "error" in head:
            return tuple(answers), _rebuilt(**head["error"])
        if len(rest) < head["size"]:
            break
        answers.append(Answer(head["document"], rest[: head["size"]]))
        sent = rest[head["size"] :]
    return tuple(answers), None


def _rebuilt(name: str, message: str, remedy: str | None, details: str) -> BncliError:
    """The error that the function raised; its traceback, which ``--debug`` shows, is the cause."""
    cls: type[BncliError] = getattr(errors, name, BncliError)
    error = cls(message, remedy=remedy)
    error.__cause__ = RuntimeError(f"in a process of its own:\n{details}")
    return error


# In the child.


def limit_this_process(*, cpu_seconds: float, memory: int) -> None:
    """Limit what this process may take from now on, and keep it from writing files; on Windows there are no limits.

    Lower limits that the user has set stay.

    Args:
        cpu_seconds: CPU time; SIGXCPU ends a process that takes more.
        memory: bytes of address space beyond those in use; an allocation beyond it raises MemoryError.
    """
    try:
        import resource
    except ImportError:
        return
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _lower(resource.RLIMIT_CPU, int(usage.ru_utime + usage.ru_stime + cpu_seconds) + 1)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, 0)
    statm = Path("/proc/self/statm")
    if statm.exists():  # other systems do not tell the address space in use
        used = int(statm.read_text().split()[0]) * resource.getpagesize()
        _lower(resource.RLIMIT_AS, used + memory)


def _lower(limit: int, value: int) -> None:
    """Set a limit unless a lower one is set."""
    import resource

    _, hard = resource.getrlimit(limit)
    resource.setrlimit(limit, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def main() -> None:
    """Serve one request: read it from stdin, write the answers to stdout."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is not part of an answer
    task = json.loads(_read_line(0))
    threading.Thread(target=_end_with_parent, name="bncli-parent", daemon=True).start()
    for frame in frames(task["function"], task["request"]):
        out.write(frame)
        out.flush()
    out.close()


def _read_line(fd: int) -> bytes:
    """The first line of ``fd``; unbuffered, since a thread reads on at the same time as the process may end."""
    line = b""
    while not line.endswith(b"\n"):
        chunk = os.read(fd, _CHUNK_BYTES)
        if not chunk:
            raise EOFError("the parent ended before its request was complete")
        line += chunk
    return line


def _end_with_parent() -> None:
    """End this process when the parent's end of stdin closes."""
    while os.read(0, _CHUNK_BYTES):
        pass
    os._exit(1)


def frames(function: str, request: JSON) -> Iterator[bytes]:
    """Each answer, or the error, as a line of JSON and the payload."""
    try:
        for answer in _load(function)(request):
            head = {"document": answer.document, "size": len(answer.payload)}
            yield json.dumps(head).encode() + b"\n" + answer.payload
    except BncliError as error:
        details = traceback.format_exc()[-_MAX_DETAILS:]
        head = {"name": type(error).__name__, "message": error.message, "remedy": error.remedy, "details": details}
        yield json.dumps({"error": head}).encode() + b"\n"


def _load(function: str) -> Callable[[JSON], Iterable[Answer]]:
    module, _, name = function.partition(":")
    loaded: Callable[[JSON], Iterable[Answer]] = getattr(importlib.import_module(module), name)
    return loaded
