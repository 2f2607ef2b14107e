"""The cells of a study on disk: one file each, written whole, with a checksum, under a lock that the system releases.

Processes and hosts that share the directory share the work: a cell is measured by whoever locks it first.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from bncli.config.json_types import JSON, Document
from bncli.errors import BncliError, BncliWarning
from bncli.process.files import read_regular, write_whole
from bncli.studies.experiment import Cell
from bncli.studies.training import Measured

FOLDER = "cells"
TABLE = "cells.jsonl"
_LOCKS = ".locks"
# Raised when the form of the files, or the training that all experiments share, changes.
_FORMAT = 1
_KEY_LENGTH = 20
_MAX_BYTES = 1 << 28
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class StoredCell:
    """A cell that has been measured.

    Attributes:
        measured: the result.
        seconds: wall time that it took, compilation included.
    """

    measured: Measured
    seconds: float


class CellStore:
    """The cells of one data set in one directory."""

    def __init__(self, out: Path, data_sha256: str) -> None:
        """Open the directory, or create it.

        Raises:
            BncliError: it cannot be written, or holds something else than a study.
        """
        self._out, self._folder = out, out / FOLDER
        self._data = data_sha256
        try:
            strangers = out.is_dir() and any(out.iterdir()) and not self._folder.is_dir()
            if not strangers:
                (self._folder / _LOCKS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror or str(error)
            raise BncliError(f"cannot write in {out}: {reason}", remedy="Choose another --out.") from error
        if strangers:
            raise BncliError(f"{out} is not empty, and holds no study", remedy="Choose another --out.")

    def path(self, cell: Cell) -> Path:
        """The file of a cell; its name has the hash of the cell's settings and of the data."""
        return self._folder / f"{cell.experiment}-{self._key(cell)}.json"

    def has(self, cell: Cell) -> bool:
        """True if the cell's file is there; its content is not looked at."""
        return self.path(cell).is_file()

    def read(self, cell: Cell) -> StoredCell | None:
        """The stored result; None if there is none. A damaged file is reported and removed, to be measured again."""
        path = self.path(cell)
        if not path.is_file():
            return None
        try:
            return _parsed(json.loads(read_regular(path, limit=_MAX_BYTES)), self._settings(cell))
        except (KeyError, OSError, RecursionError, TypeError, ValueError) as error:
            warnings.warn(f"{path} is damaged ({error}): it is measured again", BncliWarning, stacklevel=2)
            path.unlink(missing_ok=True)
            return None

    def write(self, cell: Cell, measured: Measured, seconds: float) -> None:
        """Store a result, whole or not at all.

        Raises:
            BncliError: the file cannot be written.
        """
        path = self.path(cell)
        document: Document = {
            "cell": self._settings(cell),
            "seconds": round(seconds, 3),
            "measured": {name: _listed(values) for name, values in measured.items()},
        }
        write_result(path, _canonical({**document, "sha256": _sha256(document)}).encode())

    def write_table(self, cells: Iterable[Cell]) -> None:
        """Write the settings and results of cells that have been measured as one file, a cell a line.

        Raises:
            BncliError: the file cannot be written.
            OSError: a cell's file cannot be read.
        """
        lines = [read_regular(self.path(cell), limit=_MAX_BYTES) for cell in cells]
        write_result(self._out / TABLE, b"".join(line + b"\n" for line in lines))

    @contextmanager
    def claimed(self, cell: Cell) -> Iterator[bool]:
        """True inside if this process is the one to measure the cell; False if another one measures it now.

        Raises:
            BncliError: the file system has no locks.
        """
        lock = FileLock(self._folder / _LOCKS / f"{self._key(cell)}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        except (NotImplementedError, OSError) as error:
            raise BncliError(
                f"the file system of {self._folder} has no locks, which the processes of a study need",
                remedy="Choose another --out.",
            ) from error
        try:
            yield True
        finally:
            lock.release()

    def _settings(self, cell: Cell) -> Document:
        """All that the result depends on."""
        settings: Document = json.loads(json.dumps({**asdict(cell), "data": self._data, "format": _FORMAT}))
        return settings

    def _key(self, cell: Cell) -> str:
        return _sha256(self._settings(cell))[:_KEY_LENGTH]


def write_result(path: Path, content: bytes) -> None:
    """Write a file of a study, whole or not at all.

    Raises:
        BncliError: it cannot be written.
    """
    try:
        write_whole(path, content)
    except OSError as error:
        reason = error.strerror or str(error)
        raise BncliError(f"cannot write {path}: {reason}", remedy="Free space, and run the study again.") from error


def _parsed(document: Document, settings: Document) -> StoredCell:
    """The content of a file.

    Raises:
        ValueError: its checksum is wrong, or it is of another cell.
    """
    stated = document.pop("sha256")
    if stated != _sha256(document):
        raise ValueError("its checksum is wrong")
    if document["cell"] != settings:
        raise ValueError("it is of another cell")
    return StoredCell(arrays(document["measured"]), float(document["seconds"]))


def arrays(measured: Mapping[str, JSON]) -> Measured:
    """Lists of numbers as float64; null is NaN."""
    return {name: np.array(values, dtype=np.float64) for name, values in measured.items()}


def _listed(values: np.ndarray) -> JSON:
    """Nested lists, with null for NaN; infinities are the largest float32."""
    listed: JSON = np.clip(values, -_LARGEST, _LARGEST).astype(object)
    listed[np.isnan(values)] = None
    return listed.tolist()


def _canonical(document: Document) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _sha256(document: Document) -> str:
    return hashlib.sha256(_canonical(document).encode()).hexdigest()
