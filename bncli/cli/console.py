"""Consoles on which no text can move the cursor, change colours or reverse the reading direction."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import TextIO, cast

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from bncli.cli import streams
from bncli.cli.untrusted import inert


class InertConsole(Console):
    """A console that spells out the control characters in texts, and ends as a Unix tool when nobody reads it."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the segments; only those of rich itself may control the terminal."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=inert(segment.text))

    def on_broken_pipe(self) -> None:
        """End the command."""
        streams.discard_stdout()
        raise typer.Exit(streams.CLOSED_PIPE)


def result_console() -> Console:
    """The console for the result, on stdout."""
    streams.prepare()
    return InertConsole(highlight=False)


def drawn(*blocks: RenderableType) -> str:
    """The blocks as text, in the width and the colours of stdout."""
    console = result_console()
    if not console.is_terminal:  # capturing would write to the device
        console = InertConsole(file=io.StringIO(), highlight=False)
    with console.capture() as captured:
        for block in blocks:
            console.print(block)
    return captured.get()


def message_console() -> Console:
    """The console for everything else, on stderr."""
    streams.prepare()
    return InertConsole(file=cast("TextIO", _Tolerant(sys.stderr)), highlight=False)


class _Tolerant(io.TextIOBase):
    """A stream for messages; those that nobody can get are dropped, and the work that they report on goes on."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]  # read-only here
        """Name of the stream's encoding."""
        return self._stream.encoding

    def write(self, text: str) -> int:
        """Write the text, if the stream takes it."""
        if not self._stream.closed:
            with suppress(OSError):
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream, if it can be flushed."""
        if not self._stream.closed:  # Python flushes once more when it collects a console
            with suppress(OSError):
                self._stream.flush()

    def isatty(self) -> bool:
        """True for a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Number of the stream."""
        return self._stream.fileno()
