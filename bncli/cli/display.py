"""Progress, warnings and errors, on stderr: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, TextIO

from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from bncli.cli.console import message_console
from bncli.cli.untrusted import inert, visible, visible_lines
from bncli.errors import BncliError, BncliWarning
from bncli.process import distributed

if TYPE_CHECKING:
    from bncli.process.phase_clock import Phase
    from bncli.training.progress import Best, EpochResult, RunProgress, StepProgress

# On a terminal of fewer columns the bar leaves out what it can.
_WIDE = 100
_OTHER_PATH = "Check that the path exists and may be used, or name another one."


def show_error(error: Exception) -> None:
    """Print the message and the remedy, if there is one; no traceback."""
    console = message_console()
    if isinstance(error, OSError) and error.filename is not None:  # a path that no code above expected to fail
        error = BncliError(f"{os.fsdecode(error.filename)[:300]}: {error.strerror or error}", remedy=_OTHER_PATH)
    if isinstance(error, BncliError):
        console.print(f"[bold red]error:[/] {escape(visible_lines(error.message))}", soft_wrap=True)
        if error.remedy:
            console.print(f"[bold]remedy:[/] {escape(visible_lines(error.remedy))}", soft_wrap=True)
        return
    message = visible_lines(f"{type(error).__name__}: {error}")
    console.print(f"[bold red]internal error:[/] {escape(message)}", soft_wrap=True)
    console.print("[bold]remedy:[/] This is a fault of bncli. Run it again with --debug and report the traceback.")


def warn(messages: tuple[str, ...], *, quiet: bool) -> None:
    """Print warnings, unless quiet; of several processes, the first alone does."""
    if not quiet and distributed.is_first():
        for message in messages:
            message_console().print(f"[yellow]warning:[/] {escape(visible_lines(message))}", soft_wrap=True)


@contextmanager
def shown_warnings(*, quiet: bool) -> Iterator[None]:
    """Show the warnings raised inside as bncli's own, each time they come."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, BncliWarning):
            warn((str(message),), quiet=quiet)
        else:
            others(inert(str(message)), category, filename, lineno, file, line)

    with warnings.catch_warnings():
        warnings.simplefilter("always", BncliWarning)
        others, warnings.showwarning = warnings.showwarning, show
        yield


def note(message: str, *, quiet: bool) -> None:
    """Print one line about the work in progress, unless quiet; of several processes, the first alone does."""
    if not quiet and distributed.is_first():
        message_console().print(f"[dim]{escape(inert(message))}[/]", soft_wrap=True)


Show = Callable[[str, int, int | None], None]  # what, done, total
# phase of the run -> what the bar says of it; in other phases it keeps what it says
_PHASE_WORDS: dict[Phase, str] = {
    "start": "starting",
    "data": "reading data",
    "compile": "compiling",
    "validation": "validating",
    "saving": "saving",
}


class _Done(ProgressColumn):
    """The steps done of all steps, or nothing while their number is not known."""

    def render(self, task: Task) -> Text:
        """Draw the column."""
        return Text("" if task.total is None else f"{int(task.completed)}/{int(task.total)}", style="progress.download")


class _Elapsed(ProgressColumn):
    """The time since the start."""

    def render(self, task: Task) -> Text:
        """Draw the column."""
        return Text(f"{timedelta(seconds=int(task.elapsed or 0))}", style="progress.elapsed")


class _Left(ProgressColumn):
    """The time that the rest of the steps will take, once it can be told."""

    def render(self, task: Task) -> Text:
        """Draw the column."""
        left = task.time_remaining
        return Text("" if left is None else f"{timedelta(seconds=int(left))} left", style="progress.remaining")


class TrainingDisplay:
    """The picture of a run: a table that grows by a row per finished epoch and, on a terminal, a bar below it.

    The bar is there from the start of the command. It says what the run does, and its clock never stands still.
    """

    def __init__(self, *, quiet: bool) -> None:
        self.epochs = 0  # of the whole run, once it is known
        self._quiet = quiet or not distributed.is_first()
        self._console = message_console()
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._description = _PHASE_WORDS["start"]
        self._has_head = False

    @contextmanager
    def running(self) -> Iterator[None]:
        """Keep the bar on the screen during the run, and remove it at its end."""
        if self._quiet or not self._console.is_terminal:
            yield
            return
        is_narrow = self._console.width < _WIDE
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            _Done(),
            TextColumn("{task.fields[numbers]}"),
            *(() if is_narrow else (_Left(),)),
            _Elapsed(),
            console=self._console,
            transient=True,
            expand=True,
        ) as self._progress:
            self._task = self._progress.add_task(self._description, total=None, numbers="")
            yield
        self._progress = None
        self._console.print()  # between the lines of the epochs and the result

    def show_phase(self, phase: Phase) -> None:
        """Say what the run does now."""
        if self._progress is not None and self._task is not None and phase in _PHASE_WORDS:
            self._progress.update(self._task, description=_PHASE_WORDS[phase])

    def show_step(self, event: StepProgress) -> None:
        """Move the bar."""
        if self._progress is None or self._task is None:
            return
        self._progress.update(
            self._task,
            description=f"epoch {event.epoch}/{self.epochs}",
            completed=event.step + (event.epoch - 1) * event.steps,
            total=self.epochs * event.steps,
            numbers=self._numbers(event),
        )

    def _numbers(self, event: StepProgress) -> str:
        speed = f"{event.images_per_second:,.0f} img/s"
        if self._console.width < _WIDE:
            return f"{event.loss:.3f}  {speed}"
        return f"loss {event.loss:.3f}  acc {event.accuracy:.3f}  {speed}"

    def show_earlier(self, progress: RunProgress) -> None:
        """Print the rows of the epochs that an earlier part of the run has done."""
        for row in progress.history:
            self.show_epoch(row, progress.best)

    def show_epoch(self, event: EpochResult, best: Best | None) -> None:
        """Print the row of a finished epoch; an asterisk marks the best one so far."""
        if self._quiet:
            return
        from bncli.cli.render.train import epoch_lines

        is_best = best is not None and best.epoch == event.epoch
        for line in epoch_lines(event, self.epochs, is_best=is_best, with_head=not self._has_head):
            self._console.print(line, soft_wrap=True)
        self._has_head = True

    @contextmanager
    def counting(self) -> Iterator[Show | None]:
        """A callback (what, done, total) that draws bars above that of the run; None if nothing is drawn."""
        progress = self._progress
        if progress is None:
            yield None
            return
        tasks: set[TaskID] = set()
        yield _bars(progress, tasks)
        for task in tasks:
            progress.remove_task(task)


@contextmanager
def counting(*, quiet: bool, unit: Literal["bytes", "files"]) -> Iterator[Show | None]:
    """A callback (what, done, total) that draws a bar per ``what``; None if nothing is to be drawn."""
    console = message_console()
    if quiet or not console.is_terminal or not distributed.is_first():
        yield None
        return
    amount = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), amount, TimeRemainingColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield _bars(progress, set())


@contextmanager
def stages(*, quiet: bool, is_timed: bool = True) -> Iterator[Show]:
    """A callback (what, done, total) that draws a bar per ``what`` on a terminal, and elsewhere writes a line for it.

    Args:
        quiet: draw nothing.
        is_timed: draw nothing between its calls, so that work timed there has the process to itself.
    """
    console = message_console()
    if quiet or not console.is_terminal:
        yield _lines(quiet=quiet)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), _Done(), _Elapsed())
    with Progress(*columns, console=console, transient=True, auto_refresh=not is_timed) as progress:
        yield _bars(progress, set(), refresh=True)


def _bars(progress: Progress, shown: set[TaskID], *, refresh: bool = False) -> Show:
    """A callback that draws a bar per ``what``, and adds each to ``shown``."""
    tasks: dict[str, TaskID] = {}

    def show(what: str, done: int, total: int | None) -> None:
        if what not in tasks:
            tasks[what] = progress.add_task(escape(visible(what)), total=total, numbers="")
            shown.add(tasks[what])
        progress.update(tasks[what], completed=done, total=total, refresh=refresh)

    return show


def _lines(*, quiet: bool) -> Show:
    begun: set[str] = set()

    def show(what: str, done: int, total: int | None) -> None:
        if what not in begun:
            begun.add(what)
            note(f"{visible(what)} …", quiet=quiet)

    return show
