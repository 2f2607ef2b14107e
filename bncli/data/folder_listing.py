"""The files of an image folder as the file system shows them, by which a change is noticed.

A file counts as unchanged if its path, its size, and the times of the last change of its content and of its entry are
the same. No program can set the time of the entry's change, so a file that is rewritten with its old size and times is
noticed, too. Not noticed is a change while the clock is set back to the very tick of the last one, and a change beneath
the file system, such as damage to the disk. A listing within 50 ms of a change is not remembered, since a second change
may follow in the same tick of the clock.

Letters: N files.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from bncli.data.file_list import FileList

# A file that changed so shortly before it was read may change again within the same tick of the clock.
_TICK_NS = 50_000_000
_MISSING = (-1, 0, 0)


@dataclass(frozen=True)
class Listing:
    """The files of a folder as the file system shows them, in a fixed order.

    Attributes:
        root: the folder.
        names: the paths below it, each ended by a zero byte.
        stats: int64 [N, 3]: size, and the times of the last change of content and of the entry, in ns.
        read_at: the time before the files were listed, in ns.
    """

    root: Path
    names: bytes
    stats: np.ndarray
    read_at: int

    @property
    def is_settled(self) -> bool:
        """True if no file has changed so recently that a second change could go unnoticed."""
        return not len(self.stats) or int(self.stats[:, 1:].max()) < self.read_at - _TICK_NS


def listing_of(files: FileList) -> Listing:
    """The listing of files; one that cannot be looked at has size -1."""
    read_at = time.time_ns()
    names, start = files.names, os.fsencode(files.root) + b"/"
    rows = chain.from_iterable(_stat(start + name) for name in names.split(b"\0")[:-1])
    stats = np.fromiter(rows, np.int64, 3 * len(files)).reshape(-1, 3)
    return Listing(files.root, names, stats, read_at)


def _stat(path: bytes) -> tuple[int, int, int]:
    try:
        found = os.stat(path)  # noqa: PTH116 - half of the time of the method
    except OSError:
        return _MISSING
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns
