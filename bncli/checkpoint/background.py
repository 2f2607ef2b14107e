"""Saves written by a thread of their own, while the training goes on."""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from bncli.errors import CheckpointError


@dataclass
class BackgroundSaver:
    """Writes one save after another; the next waits for the one before, so that at most one is held in memory.

    An error is kept until somebody asks: ``failure`` does not wait, ``wait`` does.
    """

    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="bncli-save"))
    _pending: Future[None] | None = None

    def __post_init__(self) -> None:
        _leave_errors_to_their_caller()

    def submit(self, write: Callable[[], None]) -> None:
        """Has ``write`` run in the thread. Nothing may be pending: ``wait`` first."""
        assert self._pending is None, "the save before was not waited for"
        self._pending = self._pool.submit(write)

    def failure(self) -> CheckpointError | None:
        """The error of a save that has ended since the last call; None where there is none, or it is under way."""
        return self.wait() if self._pending is not None and self._pending.done() else None

    def wait(self) -> CheckpointError | None:
        """Waits for the save under way; its error, if it had one that was not told yet."""
        pending, self._pending = self._pending, None
        error = pending.exception() if pending is not None else None
        if error is None or isinstance(error, CheckpointError):
            return error
        if isinstance(error, OSError):
            return CheckpointError(
                f"cannot save: {error.strerror or error}", remedy="Free some space, then go on with --resume."
            )
        raise error


def _leave_errors_to_their_caller() -> None:
    """Has a save that fails tell of it once: by the error it raises.

    Orbax writes with threads and an event loop of its own. Where one write fails it logs the error, its threads each
    print another, and tensorstore's writes that are still under way find the loop closed and print that, even after
    the save has raised.
    """
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if getattr(threading.excepthook, "__module__", None) == __name__:
        return
    of_threads, of_callbacks = threading.excepthook, sys.unraisablehook

    def show_thread(arguments: Any) -> None:  # noqa: ANN401 - threading.ExceptHookArgs
        if not _is_of_a_save(arguments.exc_value, arguments.exc_traceback):
            of_threads(arguments)

    def show_callback(arguments: Any) -> None:  # noqa: ANN401 - sys.UnraisableHookArgs
        if not _is_of_a_save(arguments.exc_value, arguments.exc_traceback):
            of_callbacks(arguments)

    threading.excepthook, sys.unraisablehook = show_thread, show_callback


def _is_of_a_save(error: BaseException | None, place: TracebackType | None) -> bool:
    frames = traceback.extract_tb(place)
    late = str(error) == "Event loop is closed" and frames and frames[0].name == "call_soon_threadsafe"
    return bool(late) or any("/orbax/" in frame.filename.replace("\\", "/") for frame in frames)
