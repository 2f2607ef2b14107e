"""The programs that XLA has compiled in this process or read from the compile cache, and the time that this took."""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache

# Events of JAX. The first comes within the second, in the same thread.
_READ_FROM_CACHE = "/jax/compilation_cache/cache_hits"
_COMPILED = "/jax/core/compile/backend_compile_duration"


@dataclass
class Compilations:
    """An account that grows while the process runs.

    Attributes:
        compiled: names of the programs that were compiled, in order.
        read: names of the programs that came from the cache.
        seconds: time of both by thread.
    """

    compiled: list[str] = field(default_factory=list)
    read: list[str] = field(default_factory=list)
    seconds: defaultdict[int, float] = field(default_factory=lambda: defaultdict(float))
    _listens: bool = False
    _is_read: set[int] = field(default_factory=set)  # threads whose present program came from the cache

    def on_event(self, event: str, **kwargs: str | int) -> None:
        """Take an event of JAX."""
        if event == _READ_FROM_CACHE:
            self._is_read.add(threading.get_ident())

    def on_duration(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        """Take an event of JAX that has lasted."""
        if event != _COMPILED:
            return
        thread = threading.get_ident()
        names = self.read if thread in self._is_read else self.compiled
        self._is_read.discard(thread)
        names.append(str(kwargs.get("fun_name", "")))
        self.seconds[thread] += duration_secs

    def listen(self) -> None:
        """Keep the account from now on; the first call imports JAX."""
        if not self._listens:
            from jax import monitoring

            self._listens = True
            monitoring.register_event_listener(self.on_event)
            monitoring.register_event_duration_secs_listener(self.on_duration)


@cache
def compilations() -> Compilations:
    """The account of this process."""
    return Compilations()
