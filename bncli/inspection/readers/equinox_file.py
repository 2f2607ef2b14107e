"""A file of ``eqx.tree_serialise_leaves``: NumPy records without names, which only the user's model can tell apart."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import numpy as np

from bncli.errors import CheckpointError
from bncli.inspection.readers.settings import Asked
from bncli.process.files import open_regular

MAGIC = b"\x93NUMPY"
# Hyperparameters in one line of JSON before the first record.
MAX_LINE = 64 << 10
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def is_equinox(path: Path) -> bool:
    """True if a NumPy record is followed by another, or comes after a line of JSON; one alone is an array of NumPy."""
    with open_regular(path) as file:
        line = file.readline(MAX_LINE)
        if line.startswith(b"{"):
            return file.read(len(MAGIC)) == MAGIC
        file.seek(0)
        try:
            read_header = _HEADERS[np.lib.format.read_magic(file)]
            shape, _, dtype = read_header(file)
            count = dtype.itemsize
            for length in shape:
                count *= length
            file.seek(count, 1)
        except (KeyError, OSError, OverflowError, ValueError):
            return False
        return file.read(len(MAGIC)) == MAGIC


def read(path: Path, asked: Asked) -> NoReturn:
    """Refuse the file, because its model is not named.

    Raises:
        CheckpointError: always.
    """
    raise CheckpointError(
        f"{path} is a file of Equinox, whose arrays have no names",
        remedy="Add --model file.py:Class and --input-shape H,W,C.",
    )
