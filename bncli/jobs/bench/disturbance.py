"""The load of other programs, which distorts every time measured beside them.

Interleaved rounds do not remove the effect. With one busy program on 2 cores, a network in onnxruntime was measured at
0.87× the speed of the same one in JAX; on the idle machine it runs at 1.26× (6-conv net, 32×32, batch 256).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

_STAT = Path("/proc/stat")
# user, nice, system, irq, softirq, steal: everything except waiting
_BUSY_FIELDS = (0, 1, 2, 5, 6, 7)


def start_watch() -> Callable[[], float | None]:
    """Return a function that gives the cores of this process that other programs have used since, on average.

    It gives None if the system does not report them.
    """
    busy, own, start = _busy_seconds(), time.process_time(), time.perf_counter()

    def other_cores() -> float | None:
        now = _busy_seconds()
        if busy is None or now is None:
            return None
        others = (now - busy) - (time.process_time() - own)
        return max(0.0, others / (time.perf_counter() - start))

    return other_cores


def _busy_seconds() -> float | None:
    """Return the seconds that the cores of this process have worked for any program since the system started."""
    try:
        lines = _STAT.read_text().splitlines()
        mine = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    except (OSError, AttributeError):  # not on Linux
        return None
    rows = [words[1:] for words in map(str.split, lines) if words and words[0] in mine]
    return sum(int(row[field]) for row in rows for field in _BUSY_FIELDS) / os.sysconf("SC_CLK_TCK")
