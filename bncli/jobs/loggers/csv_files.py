"""Tables for spreadsheets and scripts: ``epochs.csv``, ``layers.csv`` and ``mistakes.csv`` in ``OUT/logs/csv``."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from bncli.jobs.loggers.logger import LoggedImage, LoggedRun, finite

FOLDER = "csv"
EPOCHS, LAYERS, MISTAKES = "epochs.csv", "layers.csv", "mistakes.csv"
PERCENTILES = (0, 15, 50, 85, 100)
_LAYER_HEAD = ("epoch", "array", *(f"p{number}" for number in PERCENTILES), "not_finite")
# A spreadsheet takes a cell that begins so for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class CsvFiles:
    """Appends rows to the tables of a run; each row is on the disk when its epoch ends."""

    id = ""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def epoch(self, scalars: Mapping[str, float], layers: Mapping[str, np.ndarray], *, number: int) -> None:
        """Append the epoch to both tables."""
        self._append(EPOCHS, ("epoch", *scalars), [(number, *scalars.values())])
        self._append(LAYERS, _LAYER_HEAD, [(number, _text(name), *_percentiles(a)) for name, a in layers.items()])

    def end(self, scalars: Mapping[str, float], images: Sequence[LoggedImage], *, number: int) -> None:
        """Write the mistakes as a table; the scores of the run are in its result."""
        path = self._folder / MISTAKES
        path.unlink(missing_ok=True)
        self._append(MISTAKES, ("epoch", "mistake"), [(number, _text(image.caption)) for image in images])

    def close(self) -> None:
        """Do nothing: no file is open."""

    def _append(self, name: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        path = self._folder / name
        is_new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerows([head] if is_new else [])
            writer.writerows(rows)


def create(run: LoggedRun) -> CsvFiles:
    """The tables of a run, without the epochs that it does again."""
    folder = run.folder / FOLDER
    folder.mkdir(exist_ok=True)
    for name in (EPOCHS, LAYERS):
        _rewind(folder / name, run.epochs_done)
    return CsvFiles(folder)


def _rewind(path: Path, epochs_done: int) -> None:
    """Drop the rows after an epoch, and a last row that was cut short."""
    if not path.exists():
        return
    with path.open(newline="", encoding="utf-8") as file:
        head, *rows = list(csv.reader(file)) or [[]]
    kept = [row for row in rows if len(row) == len(head) and row[0].isdecimal() and int(row[0]) <= epochs_done]
    if not kept:
        path.unlink()
        return
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *kept])


def _percentiles(array: np.ndarray) -> tuple[float | int, ...]:
    values = finite(array)
    missing = int(array.size - values.size)
    found = np.percentile(values, PERCENTILES).tolist() if values.size else [float("nan")] * len(PERCENTILES)
    return (*found, missing)


def _text(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text
