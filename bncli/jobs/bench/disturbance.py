"""What other programs did meanwhile: a time measured beside them is partly theirs.

An interleaved ratio does not save it. Beside one busy program on 2 cores, a network in onnxruntime that is 1.26 times
as fast as the same one in JAX (6-conv net, 32×32, batch 256) was seen 0.87 times as fast.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

_STAT = Path("/proc/stat")
# user, nice, system, irq, softirq, steal: all but waiting
_BUSY_FIELDS = (0, 1, 2, 5, 6, 7)


def start_watch() -> Callable[[], float | None]:
    """A function that tells how many of this process's cores other programs have used since, on average.

    It tells None where the system does not say.
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
    """Seconds that the cores this process may use have worked since the system started, for any program."""
    try:
        lines = _STAT.read_text().splitlines()
        mine = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    except (OSError, AttributeError):  # no Linux
        return None
    rows = [words[1:] for words in map(str.split, lines) if words and words[0] in mine]
    return sum(int(row[field]) for row in rows for field in _BUSY_FIELDS) / os.sysconf("SC_CLK_TCK")
