"""The wall time of a run by phase. Each moment belongs to one phase, so the phases add up to the whole."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias, get_args

from bncli.process.compilations import compilations

Phase: TypeAlias = Literal["start", "data", "compile", "train", "validation", "saving", "rest"]
PHASES: tuple[Phase, ...] = get_args(Phase)


class PhaseClock:
    """Measures the phases of a run, as its main thread goes through them.

    What this thread waits for XLA's compiler belongs to ``compile``, in whatever phase it happens.

    Attributes:
        on_phase: called with each phase that begins.
    """

    def __init__(self, on_phase: Callable[[Phase], None] | None = None) -> None:
        """Start, in the phase ``start``."""
        self.on_phase = on_phase
        self._phase: Phase = "start"
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._thread = threading.get_ident()
        account = compilations()
        self._programs_before = len(account.compiled), len(account.read)
        self._compiled_until = account.seconds[self._thread]
        self._since = time.perf_counter()

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        """Count the time inside as that of a phase, and not of the one around it."""
        before = self._phase
        self.enter(phase)
        try:
            yield
        finally:
            self.enter(before)

    def enter(self, phase: Phase) -> None:
        """Begin a phase."""
        self._settle()
        self._phase = phase
        if self.on_phase is not None:
            self.on_phase(phase)

    def seconds(self) -> dict[Phase, float]:
        """The time of each phase so far."""
        self._settle()
        return dict(self._seconds)

    @property
    def programs(self) -> tuple[int, int]:
        """(programs compiled, programs read from the compile cache) since the start, by all threads."""
        account = compilations()
        compiled, read = self._programs_before
        return len(account.compiled) - compiled, len(account.read) - read

    def _settle(self) -> None:
        """Add the time since the last call to its phase, and what was compiled in it to ``compile``."""
        now, compiled = time.perf_counter(), compilations().seconds[self._thread]
        spent, compiling = now - self._since, min(now - self._since, compiled - self._compiled_until)
        self._since, self._compiled_until = now, compiled
        self._seconds["compile"] += compiling
        self._seconds[self._phase] += spent - compiling
