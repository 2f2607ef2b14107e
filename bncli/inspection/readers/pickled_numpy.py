"""NumPy arrays in a pickle, from the records of the calls that would make them.

``numpy.core.multiarray._reconstruct`` makes an empty array, whose state is then (version, shape, dtype, True for
Fortran's order, bytes). A dtype is made from its code, and its state tells the byte order.
"""

from __future__ import annotations

import math
import re

import numpy as np

from bncli.errors import CheckpointError
from bncli.inspection.readers.arrays import Path, Stored
from bncli.inspection.readers.inert_pickle import Global, Record

_MODULES = ("numpy._core.multiarray", "numpy.core.multiarray")
_ARRAY = {Global(module, "_reconstruct") for module in _MODULES}
_DTYPE = Global("numpy", "dtype")
# Records that hold a plain value, not an object of a class.
VALUES = {_DTYPE, *(Global(module, "scalar") for module in _MODULES)}
_NUMBERS = re.compile(r"[biuf][1248]")


def array_in(record: Record, place: Path) -> Stored | None:
    """The array of numbers that a record stands for; None for anything else.

    Raises:
        CheckpointError: its bytes do not fit its shape.
    """
    if record.made_by not in _ARRAY or not isinstance(record.state, tuple):
        return None
    match record.state:
        case (_, tuple(shape), Record() as dtype, order, str() | bytes() as content) if _is_shape(shape):
            kind = _dtype(dtype)
            if kind is None:
                return None
            raw = content.encode("latin1") if isinstance(content, str) else content
            if len(raw) != math.prod(shape) * kind.itemsize:
                raise CheckpointError("a NumPy array does not fit its bytes", remedy="Is the file damaged?")
            return Stored(shape, kind.name, lambda: _numbers(raw, kind, shape, in_fortran_order=bool(order)), place)
    return None


def _is_shape(shape: tuple[object, ...]) -> bool:
    return all(isinstance(length, int) and length >= 0 for length in shape)


def _dtype(record: Record) -> np.dtype | None:
    """The dtype of numbers that a record stands for; None for any other."""
    match record.made_by, record.args, record.state:
        case made_by, (str() as code, *_), (_, str() as order, *_) if made_by == _DTYPE and _NUMBERS.fullmatch(code):
            return np.dtype(code).newbyteorder(">" if order == ">" else "<")
    return None


def _numbers(content: bytes, dtype: np.dtype, shape: tuple[int, ...], *, in_fortran_order: bool) -> np.ndarray:
    return np.frombuffer(content, dtype).reshape(shape, order="F" if in_fortran_order else "C")
