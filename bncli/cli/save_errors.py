"""One report for each failed save: the error it raises, and nothing from the threads that wrote it.

Orbax writes with threads and an event loop of its own. If one write fails, Orbax logs the error, each of its threads
prints another, and tensorstore's pending writes find the loop closed and print that, even after the save has raised.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, TypeVar


class HookArguments(Protocol):
    """The arguments of both hooks that are read here."""

    @property
    def exc_value(self) -> BaseException | None:
        """The error."""

    @property
    def exc_traceback(self) -> TracebackType | None:
        """Its traceback."""


Arguments = TypeVar("Arguments", bound=HookArguments)


def report_once() -> None:
    """Silence the threads of a failed save, for the rest of the process: only an application may do that."""
    if getattr(threading.excepthook, "__module__", None) == __name__:
        return  # done before
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_is_critical)  # a level would be set anew when JAX is configured
    of_threads, of_callbacks = threading.excepthook, sys.unraisablehook
    threading.excepthook = unless_of_a_save(of_threads)
    sys.unraisablehook = unless_of_a_save(of_callbacks)


def unless_of_a_save(show: Callable[[Arguments], object]) -> Callable[[Arguments], None]:
    """``show``, but for errors of a save."""
    is_of_a_save = _is_of_a_save  # when the interpreter ends, callbacks come after the module's globals have gone

    def show_others(arguments: Arguments) -> None:
        if not is_of_a_save(arguments.exc_value, arguments.exc_traceback):
            show(arguments)

    return show_others


def _is_critical(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.CRITICAL


def _is_of_a_save(error: BaseException | None, place: TracebackType | None) -> bool:
    """True if the error comes from Orbax, or from a callback to its closed event loop. It uses no globals."""
    if place is not None and str(error) == "Event loop is closed":
        return place.tb_frame.f_code.co_name == "call_soon_threadsafe"
    while place is not None:
        if "/orbax/" in place.tb_frame.f_code.co_filename.replace("\\", "/"):
            return True
        place = place.tb_next
    return False
