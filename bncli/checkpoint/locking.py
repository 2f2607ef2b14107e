"""One training per checkpoint directory: a second one is refused with a message that names the first."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from bncli.checkpoint.directory import LOCK, LOCK_OWNER, write_atomically
from bncli.errors import BncliWarning, CheckpointError
from bncli.process import distributed
from bncli.process.files import read_regular

# The answers of file systems whose locks are missing or out of order, such as NFS without its lock service.
_WITHOUT_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EIO, errno.ENOSYS)
_MAX_OWNER = 1 << 16
# A network file system shows a new file to another machine within so long.
SEEN_WITHIN_SECONDS = 60.0


@contextmanager
def locked_for_all(out: Path) -> Iterator[None]:
    """Reserve ``out`` for all processes of a run, by process 0.

    Raises:
        CheckpointError: as in ``locked``, or this process sees another folder there than process 0.
    """
    with ExitStack() as stack:
        distributed.by_first(lambda: stack.enter_context(locked(out)), CheckpointError)
        _check_same_folder(out)
        yield


def _check_same_folder(out: Path) -> None:
    """Raise CheckpointError unless the lock that process 0 has taken is seen here."""
    if distributed.is_alone():
        return
    owner = distributed.text_from_first(_owner_text(out))
    end = time.monotonic() + SEEN_WITHIN_SECONDS
    while owner and _owner_text(out) != owner:
        if time.monotonic() > end:
            raise CheckpointError(
                f"--out {out} is not the folder that process 0 writes",
                remedy="Name a folder that all machines see, the same in all processes.",
            )
        time.sleep(0.2)


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
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # filelock warns of ENOSYS, and takes a lock that never ends
            lock.acquire(blocking=False)
    except Timeout:
        raise CheckpointError(
            f"{out} is in use: {_owner(out)} trains into it", remedy="Wait for it, or name another --out."
        ) from None
    except (NotImplementedError, UserWarning):  # the answer to ENOSYS
        _go_on_without_lock(out)
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS or not out.is_dir():
            raise CheckpointError(
                f"cannot write in {out}: {error.strerror or error}", remedy="Choose another directory."
            ) from error
        _go_on_without_lock(out)
    try:
        with contextlib.suppress(OSError):  # it only tells others who has the lock
            write_atomically(out / LOCK_OWNER, json.dumps(_this_process()).encode())
        yield
    finally:
        (out / LOCK_OWNER).unlink(missing_ok=True)
        (out / LOCK).unlink(missing_ok=True)
        lock.release()


def _go_on_without_lock(out: Path) -> None:
    """Warn that nothing but the name of the owner keeps others out.

    Raises:
        CheckpointError: the owner is a process of this machine that runs.
    """
    if _owner_runs(out):
        raise CheckpointError(
            f"{out} is in use: {_owner(out)} trains into it", remedy="Wait for it, or name another --out."
        )
    warnings.warn(
        f"the file system of {out} has no locks: do not write into it from two machines at once",
        BncliWarning,
        stacklevel=4,
    )


def _owner_runs(out: Path) -> bool:
    """True if the process that wrote its name into the directory is another one of this machine, and still runs."""
    try:
        owner = json.loads(_owner_text(out))
        pid, is_here = int(owner["pid"]), owner["host"] == socket.gethostname()
        if not is_here or pid in (0, os.getpid()):
            return False
        os.kill(pid, 0)  # no signal, only the question
    except PermissionError:
        return True  # it runs, as another user
    except (OSError, OverflowError, ValueError, TypeError, KeyError):
        return False
    return True


def _owner_text(out: Path) -> str:
    """The words about itself of the process that has the lock; "" if it could not write them."""
    try:
        return read_regular(out / LOCK_OWNER, limit=_MAX_OWNER).decode()
    except (OSError, ValueError):
        return ""


def _this_process() -> dict[str, str | int | float]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}


def _owner(out: Path) -> str:
    """A description of the process that has the lock."""
    try:
        owner = json.loads(_owner_text(out))
        age = max(0.0, time.time() - float(owner["since"]))
        return f"process {int(owner['pid'])} on {str(owner['host'])[:100]!r}, for {_duration(age)},"
    except (OSError, ValueError, TypeError, KeyError):
        return "another process"


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
