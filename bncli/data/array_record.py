"""Records of an ArrayRecord file, read one by one and written: the door to ``array_record``.

Its library checks a hash of each block, so a changed byte becomes an error, never another record.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol, cast

from bncli.errors import DataError
from bncli.process.files import open_regular

# Each record is read alone, in any order.
_READ_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
_READ_BUFFER = 32_768
_WRITE_OPTIONS = "group_size:1,uncompressed,max_parallelism:1"
_OPEN_FILES = 256  # of the 1,024 that a process may usually have; opening one takes milliseconds


class _Reader(Protocol):
    def ok(self) -> bool: ...

    def num_records(self) -> int: ...

    def read(self, places: Sequence[int]) -> list[bytes]: ...


class _Writer(Protocol):
    def write(self, record: bytes) -> None: ...

    def close(self) -> None: ...


def num_records(path: Path) -> int:
    """The number of records of a file.

    Raises:
        DataError: it is missing, or is no whole ArrayRecord file.
    """
    return _reader(path).num_records()


def read_record(path: Path, place: int) -> bytes:
    """One record of a file.

    Raises:
        DataError: the file or the record is damaged.
    """
    return read_records(path, [place])[0]


def read_records(path: Path, places: Sequence[int]) -> list[bytes]:
    """Some records of a file."""
    try:
        return _reader(path).read(places)
    except (RuntimeError, IndexError, ValueError) as error:
        raise DataError(
            f"{path}: {_which(places)} cannot be read: {_first_line(error)}", remedy="The file is damaged: restore it."
        ) from error


def write_records(path: Path, records: Iterable[bytes]) -> None:
    """Write a file of records; records that are pixels are not compressed.

    Raises:
        OSError: it cannot be written.
    """
    writer = _library().ArrayRecordWriter(os.fspath(path), _WRITE_OPTIONS)
    try:
        for record in records:
            writer.write(record)
        writer.close()
    except RuntimeError as error:
        raise OSError(0, _first_line(error), str(path)) from error


def _which(places: Sequence[int]) -> str:
    return f"record {places[0]}" if len(places) == 1 else f"one of the records {places[0]} … {places[-1]}"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def _reader(path: Path) -> _Reader:
    try:
        with open_regular(path) as file:  # the library would also open a pipe, and wait
            found = os.fstat(file.fileno())
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    return _opened(os.fspath(path), (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))


@lru_cache(maxsize=_OPEN_FILES)
def _opened(path: str, version: tuple[int, ...]) -> _Reader:
    """A reader that stays open; a file that was replaced is opened anew."""
    try:
        reader = _library().ArrayRecordReader(path, _READ_OPTIONS, file_reader_buffer_size=_READ_BUFFER)
    except (RuntimeError, ValueError) as error:
        raise _not_whole(path) from error
    if not reader.ok():
        raise _not_whole(path)
    return reader


def _not_whole(path: str) -> DataError:
    return DataError(f"{path}: not a whole ArrayRecord file", remedy="It is damaged, or of another format.")


class _Library(Protocol):
    def ArrayRecordReader(self, path: str, options: str, *, file_reader_buffer_size: int) -> _Reader: ...  # noqa: N802 - its name

    def ArrayRecordWriter(self, path: str, options: str) -> _Writer: ...  # noqa: N802 - its name


def _library() -> _Library:
    try:
        from array_record.python import array_record_module
    except ImportError as error:
        raise DataError(
            "ArrayRecord files need the package array-record, which is not installed here",
            remedy="pip install array-record",
        ) from error
    return cast("_Library", array_record_module)
