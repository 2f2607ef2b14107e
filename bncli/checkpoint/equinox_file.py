"""A file of ``eqx.tree_serialise_leaves``: one NumPy record after the other, without names.

The model gives the order. Its author may have written a line of JSON with the hyperparameters in front, as Equinox's
documentation shows. Records of objects are refused, because they hold a pickle.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import BinaryIO

import numpy as np

from bncli.errors import CheckpointError
from bncli.process.files import open_regular

MAGIC = b"\x93NUMPY"
# Hyperparameters in one line of JSON.
MAX_LINE = 64 << 10
_COPY = "Restore it from a copy, or write it again with eqx.tree_serialise_leaves(path, (model, state))."
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def is_equinox(path: Path) -> bool:
    """True if the file begins with a NumPy record, or with a line of JSON in front of one."""
    with open_regular(path) as file:
        return _at_first_record(file)


def read_records(path: Path) -> dict[str, np.ndarray]:
    """The records by their numbers, "0", "1", ….

    Raises:
        CheckpointError: the file is damaged; the message names the record.
    """
    records: dict[str, np.ndarray] = {}
    size = path.stat().st_size
    with open_regular(path) as file:
        _at_first_record(file)
        while file.tell() < size:
            try:
                records[str(len(records))] = _read_record(file, size)
            except (EOFError, OSError, ValueError) as error:
                raise CheckpointError(
                    f"{path} is damaged in its record {len(records)}: {str(error)[:300]}", remedy=_COPY
                ) from error
    return records


def _at_first_record(file: BinaryIO) -> bool:
    """True if there is a first record, to which the file is then moved."""
    if file.read(len(MAGIC)) == MAGIC:
        file.seek(0)
        return True
    file.seek(0)
    line = file.readline(MAX_LINE)
    start = file.tell()
    if not line.startswith(b"{") or file.read(len(MAGIC)) != MAGIC:
        return False
    try:
        json.loads(line)
    except (RecursionError, ValueError):
        return False
    file.seek(start)
    return True


def _read_record(file: BinaryIO, size: int) -> np.ndarray:
    """The array at the present place; nothing larger than the rest of the file is allocated."""
    read_header = _HEADERS.get(np.lib.format.read_magic(file))
    if read_header is None:
        raise ValueError("it is of a version of NumPy's format that bncli does not read")
    shape, is_fortran, dtype = read_header(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which bncli does not load because they may run code")
    count = 1
    for length in shape:
        count *= length
    if min(shape, default=0) < 0 or count * dtype.itemsize > size - file.tell():
        raise ValueError(f"it claims an array of shape {shape}, and the file ends before")
    array = np.frombuffer(file.read(count * dtype.itemsize), dtype)
    return array.reshape(shape, order="F" if is_fortran else "C")
