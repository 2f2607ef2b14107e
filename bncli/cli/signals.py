"""Signals that ask a training to end: the first one saves the run, a second one ends it at once."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

# A shell reports a process that a signal ended by this exit code plus the signal's number.
_BY_SIGNAL = 128
_INTERRUPTED = _BY_SIGNAL + signal.SIGINT
# Schedulers send SIGUSR1 shortly before a job's time is over.
_NAMES = ("SIGINT", "SIGTERM", "SIGUSR1")


@contextmanager
def stopping(request_stop: Callable[[int], None], *, quiet: bool) -> Iterator[None]:
    """Call ``request_stop`` with the exit code at the first Ctrl-C, SIGTERM or SIGUSR1.

    A second signal ends the process at once. Python's own handlers wait for the main thread, which may compile for a
    minute, so a separate thread reads the signals as they come. Complete saves stay untouched.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def watch() -> None:
        asked = False
        while numbers := reader.recv(1):
            number = numbers[0]
            code = _BY_SIGNAL + number if number == signal.SIGTERM else _INTERRUPTED
            if asked:
                os._exit(code)
            asked = True
            request_stop(code)
            if not quiet:
                with suppress(OSError, ValueError):  # nobody may listen any more
                    sys.stderr.write("\nstopping after this step, then saving; a second signal stops at once\n")
                    sys.stderr.flush()

    def leave_to_the_thread(number: int, frame: FrameType | None) -> None:
        """Do nothing, so that the signal does not end the process."""

    numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    thread = threading.Thread(target=watch, name="bncli-signals", daemon=True)
    previous_writer = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    previous = {number: signal.signal(number, leave_to_the_thread) for number in numbers}
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous_writer)
        for number, handler in previous.items():
            signal.signal(number, handler)
        writer.close()
        thread.join()
        reader.close()
