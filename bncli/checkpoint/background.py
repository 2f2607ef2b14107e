"""Saves written by a thread of their own, while the training continues."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from bncli.errors import CheckpointError


@dataclass
class BackgroundSaver:
    """Writes one save after another. The next waits for the previous one, so that at most one is held in memory.

    An error is kept until somebody asks: ``failure`` does not wait, ``wait`` does.
    """

    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="bncli-save"))
    _pending: Future[None] | None = None

    def submit(self, write: Callable[[], None]) -> None:
        """Run ``write`` in the thread. Nothing may be pending: ``wait`` first."""
        assert self._pending is None, "the previous save was not waited for"
        self._pending = self._pool.submit(write)

    def failure(self) -> CheckpointError | None:
        """The error of a save that has ended since the last call; None if it is fine or not finished."""
        return self.wait() if self._pending is not None and self._pending.done() else None

    def wait(self) -> CheckpointError | None:
        """Wait for the current save; return its error, if it has one that was not reported yet."""
        pending, self._pending = self._pending, None
        error = pending.exception() if pending is not None else None
        if error is None or isinstance(error, CheckpointError):
            return error
        if isinstance(error, OSError):
            return CheckpointError(
                f"cannot save: {error.strerror or error}", remedy="Free some space, then go on with --resume."
            )
        raise error
