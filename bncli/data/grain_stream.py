"""Batches read ahead of their use, by threads or by worker processes: the door to Grain.

Grain gets a sequence of batches that can be read in any order, so it has no state worth saving: a stream starts at any
batch. Its workers end with this process, however it ends.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Protocol

import numpy as np

from bncli.errors import BncliError, DataError
from bncli.process.hardware import num_cores

_BYTES_AHEAD = 256 << 20  # of batches that wait to be used
_MOST_AHEAD = 8  # batches of each process
_SHARED_MEMORY = Path("/dev/shm")
_NEVER_SHARED = 1 << 62
_WATCH_SECONDS = 1.0


class BatchSequence(Protocol):
    """Batches of images by number: picklable, and read in any order from any thread or process."""

    @property
    def batch_bytes(self) -> int:
        """The memory of one batch."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> np.ndarray:
        """The images of a batch, uint8 [B, H, W, C]."""


def read_ahead(batches: BatchSequence, *, workers: int) -> Generator[np.ndarray, None, None]:
    """The batches in their order, read before they are needed; close the iterator to end the reading.

    Args:
        batches: the sequence.
        workers: processes that read; 0 reads by threads of this process.

    Raises:
        BncliError: reading failed, or a worker ended.
    """
    import grain
    from absl import flags

    if not flags.FLAGS.is_parsed():  # Grain asks for flags of its own, which only a program of absl would parse
        flags.FLAGS.mark_as_parsed()
    _silence_pillow()
    ahead = max(2, min(_MOST_AHEAD, _BYTES_AHEAD // max(1, batches.batch_bytes) // max(1, workers)))
    threads = 1 if workers else min(num_cores(), ahead)
    read = grain.MapDataset.source(batches).to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, ahead if workers == 0 else 1))
    )
    if workers:
        if not _fits_shared_memory(batches.batch_bytes * (ahead + 2) * workers):
            options = grain.experimental.DatasetOptions(min_shm_size=_NEVER_SHARED)
            read = grain.experimental.WithOptionsIterDataset(read, options)
        read = read.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=ahead), worker_init_fn=_Worker()
        )
    with closing(iter(read)) as iterator:
        yield from _explained(iterator)


def _explained(iterator: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """The same batches; the end of a worker becomes an error with a remedy."""
    try:
        yield from iterator
    except BncliError:
        raise
    except RuntimeError as error:
        if "Worker process was terminated" not in str(error):
            raise
        code = str(error).partition("exit code ")[2].partition(".")[0]
        raise DataError(
            f"a worker that reads images ended with exit code {code}",
            remedy="Use fewer --workers, or 0 if memory is short. A script that trains with workers needs the line "
            "`if __name__ == '__main__':`.",
        ) from error


class _Worker:
    """Prepares a worker: it ignores the signals meant for its parent, and ends when the parent has ended."""

    def __init__(self) -> None:
        self._parent = os.getpid()

    def __call__(self, number: int, count: int) -> None:
        """Prepare worker ``number`` of ``count``."""
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, signal.SIG_IGN)
        _silence_pillow()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while os.getppid() == self._parent:
            time.sleep(_WATCH_SECONDS)
        os._exit(1)


def _silence_pillow() -> None:
    """Silence Pillow's warnings about odd metadata, as in the first reading of the files."""
    warnings.filterwarnings("ignore", module=r"PIL\.")


def _fits_shared_memory(num_bytes: int) -> bool:
    """True if batches can go through shared memory, which containers often limit to 64 MB."""
    try:
        return shutil.disk_usage(_SHARED_MEMORY).free > 2 * num_bytes
    except OSError:
        return True
