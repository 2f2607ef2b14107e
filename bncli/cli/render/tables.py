"""Tables and blocks of text for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from bncli.cli.render.words import MIN_NAME, shorten
from bncli.cli.untrusted import visible

# More columns than any terminal has: what a table measures there is its own width.
_UNLIMITED = 10_000


def plain_table(*columns: str, title: str | None = None, words: tuple[str, ...] = ()) -> Table:
    """Return an empty table without lines.

    Args:
        columns: their titles. The first column holds words, the others numbers, which are never wrapped.
        title: of the table.
        words: titles of further columns that hold words.
    """
    table = Table(title=title, box=None, padding=(0, 1), title_justify="left", header_style="bold", pad_edge=False)
    for index, column in enumerate(columns):
        if index == 0 or column in words:
            table.add_column(column, overflow="fold", min_width=max(map(cell_len, column.split()), default=None))
        else:
            table.add_column(column, justify="right", no_wrap=True, min_width=cell_len(column))
    return table


class Name:
    """A layer's name or a path, shortened in the middle to the width of its column.

    Args:
        name: the name.
        style: rich's style.
        room: the width that it needs to be told from the other names of its column.
    """

    def __init__(self, name: str, style: str = "", *, room: int = MIN_NAME) -> None:
        self._text = visible(name)
        self._style = style
        self._room = room

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        length = cell_len(self._text)
        return Measurement(min(length, self._room), length)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(shorten(self._text, options.max_width), style=self._style, no_wrap=True)


@dataclass(frozen=True)
class FirstFitting:
    """The first of several forms of a table that fits the terminal; the last one if none does.

    Attributes:
        forms: makers of the table, from the widest form to the narrowest.
    """

    forms: Sequence[Callable[[], Table]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        *wider, narrowest = self.forms
        unlimited = options.update(width=_UNLIMITED)
        for form in wider:
            table = form()
            if Measurement.get(console, unlimited, table).minimum <= options.max_width:
                yield table
                return
        yield narrowest()


def spaced(blocks: Iterable[RenderableType]) -> RenderableType:
    """Return the blocks with a blank line between each two."""
    parts: list[RenderableType] = []
    for block in blocks:
        parts += [Text(), block] if parts else [block]
    return Group(*parts)
