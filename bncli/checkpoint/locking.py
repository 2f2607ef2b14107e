"""One training per checkpoint directory: a second one is refused with a message that names the first."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from bncli.checkpoint.directory import LOCK, LOCK_OWNER, write_atomically
from bncli.errors import CheckpointError


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Reserve ``out`` for this process; it is created if it is missing.

    The operating system releases the lock when its owner ends in any way. The lock file of a killed training blocks
    nobody.

    Raises:
        CheckpointError: another process has the lock, or the directory cannot be written.
    """
    lock = FileLock(out / LOCK)
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        raise CheckpointError(
            f"{out} is in use: {_owner(out)} trains into it", remedy="Wait for it, or name another --out."
        ) from None
    except NotImplementedError:  # a file system without locks
        yield
        return
    except OSError as error:
        raise CheckpointError(
            f"cannot write in {out}: {error.strerror or error}", remedy="Choose another directory."
        ) from error
    try:
        with contextlib.suppress(OSError):  # it only tells others who has the lock
            write_atomically(out / LOCK_OWNER, json.dumps(_this_process()).encode())
        yield
    finally:
        (out / LOCK_OWNER).unlink(missing_ok=True)
        (out / LOCK).unlink(missing_ok=True)
        lock.release()


def _this_process() -> dict[str, str | int | float]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}


def _owner(out: Path) -> str:
    """A description of the process that has the lock."""
    try:
        owner = json.loads((out / LOCK_OWNER).read_bytes())
        age = max(0.0, time.time() - float(owner["since"]))
        return f"process {int(owner['pid'])} on {str(owner['host'])[:100]!r}, for {_duration(age)},"
    except (OSError, ValueError, TypeError, KeyError):
        return "another process"


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
