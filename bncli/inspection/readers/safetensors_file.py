"""BN layers of a safetensors file, by the names of any framework.

The format is a length, a JSON object and bytes (https://huggingface.co/docs/safetensors/index#format). Reading the few
arrays of BN takes less time than importing the library.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bncli.errors import CheckpointError
from bncli.inspection.readers.arrays import Stored, bfloat16_bits, naturally, split_name
from bncli.inspection.readers.assembly import contents_of
from bncli.inspection.readers.contents import Contents
from bncli.inspection.readers.settings import Asked
from bncli.process.files import open_regular

# Enough for 100,000 arrays; a parsed header takes 30 times its size.
MAX_HEADER = 16 << 20
# Name in the format -> (dtype, bytes a value). A file may have other dtypes, but not for a BN layer.
DTYPES = {
    "BF16": ("bfloat16", 2),
    "BOOL": ("bool", 1),
    "F16": ("float16", 2),
    "F32": ("float32", 4),
    "F64": ("float64", 8),
    "I16": ("int16", 2),
    "I32": ("int32", 4),
    "I64": ("int64", 8),
    "I8": ("int8", 1),
    "U16": ("uint16", 2),
    "U32": ("uint32", 4),
    "U64": ("uint64", 8),
    "U8": ("uint8", 1),
}
# NumPy's limits: the number of axes of an array, and the length of one.
MAX_RANK, MAX_LENGTH = 32, 1 << 62
# The "format" that bncli's own export writes.
_OWN = "bncli"


def read(path: Path, asked: Asked) -> Contents:
    """Read the BN layers of a safetensors file; no other arrays are read.

    Raises:
        CheckpointError: the file is damaged.
    """
    found, metadata = stored_arrays(path)
    arrays = {split_name(name): array for name, array in found.items()}
    own = isinstance(metadata, Mapping) and metadata.get("format") == _OWN
    notes = ("written by `bncli fold --export safetensors`: its BN layers are folded",) if own else ()
    return contents_of(
        {path: arrays[path] for path in sorted(arrays, key=naturally)},
        file_format="safetensors",
        asked=asked,
        notes=notes,
    )


def stored_arrays(path: Path) -> tuple[dict[str, Stored], object]:
    """(the arrays of a safetensors file by name, its metadata); the values are read when asked for.

    Raises:
        CheckpointError: the file is damaged.
    """
    header, start = _read_header(path)
    metadata = header.pop("__metadata__", {})
    size = path.stat().st_size - start
    try:
        return {name: _stored(path, start, size, entry) for name, entry in header.items()}, metadata
    except (KeyError, OverflowError, TypeError, ValueError) as error:
        raise _damaged(path, f"its header does not match its content ({type(error).__name__}: {error})") from None


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """(the header, the offset of the arrays)."""
    with open_regular(path) as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER:
            raise _damaged(path, f"its header claims to be {length:,} bytes long")
        text = file.read(length)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its header is no JSON ({error})") from None
    if not isinstance(header, dict):
        raise _damaged(path, "its header is no JSON object")
    return header, 8 + length


def _stored(path: Path, start: int, size: int, entry: Mapping[str, Any]) -> Stored:
    """An array in the file, whose arrays take ``size`` bytes from ``start`` on.

    Raises:
        ValueError: it does not lie in the file, or not in as many bytes as it should.
    """
    shape = tuple(entry["shape"])
    begin, end = entry["data_offsets"]
    dtype, itemsize = DTYPES.get(entry["dtype"], (f"of dtype {entry['dtype']}", None))
    numbers = (*shape, begin, end)
    if len(shape) > MAX_RANK or not all(isinstance(n, int) and 0 <= n <= MAX_LENGTH for n in numbers):
        raise ValueError(f"{entry['dtype']} {shape} at {begin}")
    if not begin <= end <= size:
        raise ValueError(f"bytes {begin} to {end} of {size}")
    if itemsize is not None and math.prod(shape) * itemsize != end - begin:
        raise ValueError(f"{end - begin} bytes for {dtype} {list(shape)}")
    return Stored(shape, dtype, lambda: _read_array(path, start + begin, end - begin, dtype, shape))


def _read_array(path: Path, offset: int, length: int, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    with open_regular(path) as file:
        file.seek(offset)
        content = file.read(length)
    if len(content) < length:
        raise _damaged(path, "it was truncated while it was being read")
    if dtype == "bfloat16":
        return bfloat16_bits(np.frombuffer(content, "<u2")).reshape(shape)
    return np.frombuffer(content, np.dtype(dtype).newbyteorder("<")).reshape(shape)


def _damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path} is a damaged safetensors file: {why[:300]}", remedy="Restore it from a copy.")
