"""The result on stdout, whatever that is connected to.

A reader that stops reading ends the command as it ends other Unix tools. A full device is an error of its own.
Characters that the encoding lacks become plain ones.
"""

from __future__ import annotations

import codecs
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import typer

from bncli.errors import BncliError
from bncli.process import distributed

# As a shell reports a process that ended by writing to a pipe without a reader.
CLOSED_PIPE = 128 + getattr(signal, "SIGPIPE", 13)
# Stand-ins of one column, so that tables stay aligned; any other character becomes "?".
PLAIN = {
    **dict(zip("▁▂▃▄▅▆▇█", "_.-:=+*#", strict=True)),
    **dict.fromkeys("▏▎▍▌▋▊▉│┃", "|"),
    **dict.fromkeys("─━–—−", "-"),
    **dict.fromkeys("╭╮╰╯", "+"),
    **dict(zip("βγεμσ→←≤≥…·✗×", "bgems><<>~.xx", strict=True)),
}
_HANDLER = "bncli.plain"


def _plain(error: UnicodeError) -> tuple[str, int]:
    """The stand-ins of characters that the encoding lacks, and the place to go on from."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(PLAIN.get(character, "?") for character in error.object[error.start : error.end]), error.end


def prepare() -> None:
    """Let stdout and stderr take every character."""
    codecs.register_error(_HANDLER, _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors != _HANDLER:
            stream.reconfigure(errors=_HANDLER)


def one_place() -> bool:
    """True if stdout and stderr go to the same terminal, file or pipe."""
    try:
        return os.path.samestat(os.fstat(sys.stdout.fileno()), os.fstat(sys.stderr.fileno()))
    except (OSError, ValueError):  # a stream without a file
        return False


def write_result(text: str) -> None:
    """Write a text on stdout, all of it, at once; of several processes, the first alone does.

    Raises:
        BncliError: stdout takes no more, because its device is full, for example.
        typer.Exit: nobody reads it any more.
    """
    if not distributed.is_first():
        return
    prepare()
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        discard_stdout()
        raise typer.Exit(CLOSED_PIPE) from None
    except OSError as error:
        raise unwritable(error) from None


def unwritable(error: OSError) -> BncliError:
    """The error of a device that takes no more, in words; what stdout still holds is dropped."""
    discard_stdout()
    return BncliError(
        f"cannot write the result to stdout: {error.strerror or error}",
        remedy="Make room on the device, or send the result elsewhere.",
    )


@contextmanager
def ending_at_closed_pipe(*, by_signal: bool) -> Iterator[None]:
    """Let SIGPIPE end the process, as it ends other Unix tools, or Python raise BrokenPipeError.

    A command needs the error: it also writes to pipes of its own, whose readers may end without ending the command.
    """
    if not hasattr(signal, "SIGPIPE") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL if by_signal else signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGPIPE, before)


def discard_stdout() -> None:
    """Send nowhere what the buffer still holds: Python writes it at exit, and would fail once more."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
