"""The size of a msgpack file in memory, counted before it is read.

An empty map is one byte in the file and 64 in Python: a hundred megabytes of them become six gigabytes. A dtype of a
hundred megabytes, "i4,i4,…", becomes eight.
https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from bncli.errors import CheckpointError
from bncli.inspection.readers.arrays import MAX_DEPTH
from bncli.process.files import open_regular

# A training state with Adam has three objects an array; a file may claim any number.
MAX_OBJECTS = 1_000_000

# First byte -> bytes in all (_FIXED); -> bytes of the length field (_SIZED); -> the same, members per unit of length
# (_CONTAINERS).
_UNSIGNED = {**dict.fromkeys(range(0x80), 1), 0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9}
_SHORT_TEXTS = {0xA0 + length: 1 + length for length in range(32)}
_FIXED = {**_UNSIGNED, **_SHORT_TEXTS, 0xCA: 5, 0xCB: 9, 0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9}
_SIZED = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_CONTAINERS = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}
# Extension types -> bytes of the header, whose last byte is the code.
_EXTENSIONS = {0xC7: 3, 0xC8: 4, 0xC9: 6, **dict.fromkeys(range(0xD4, 0xD9), 2)}
# Flax's extension types: an array, a complex number, a scalar as an array of no axes.
_ARRAYS = (1, 3)
_COMPLEX = 2
# Bytes of two float64 in an array.
_COMPLEX_LENGTH = 19


def check_msgpack(path: Path) -> None:
    """Raise CheckpointError if the file holds more objects, or deeper ones, than a network has.

    Other damage is left to the reader.
    """
    with open_regular(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        try:
            for count, depth in enumerate(_depths(content), start=1):
                if count > MAX_OBJECTS or depth > MAX_DEPTH:
                    raise _damaged(
                        path, f"more than {MAX_OBJECTS:,} objects or {MAX_DEPTH} levels, too many for a network"
                    )
        except (IndexError, ValueError):
            raise _damaged(path, "an array that Flax did not write") from None


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path} holds {what}", remedy="Is the file damaged? Restore it from a copy.")


def _depths(content: mmap.mmap) -> Iterator[int]:
    """The number of containers around each object; an array or a number is one object.

    Raises:
        IndexError: an array is cut short.
        ValueError: Flax does not write such an array.
    """
    pending = [1]  # members still to come in each open container
    offset = 0
    while pending and offset < len(content):
        if pending[-1] == 0:
            pending.pop()
            continue
        yield len(pending)
        pending[-1] -= 1
        length, members = _measure(content, offset)
        offset += length
        if members:
            pending.append(members)


def _measure(content: mmap.mmap, offset: int) -> tuple[int, int]:
    """(bytes before its members, or in all; number of members) of the object at ``offset``."""
    kind = content[offset]
    if 0x80 <= kind < 0x90:
        return 1, 2 * (kind - 0x80)
    if 0x90 <= kind < 0xA0:
        return 1, kind - 0x90
    if kind in _CONTAINERS:
        width, per_length = _CONTAINERS[kind]
        return 1 + width, per_length * _number(content, offset + 1, width)
    if kind in _EXTENSIONS:
        return _measure_extension(content, offset, _EXTENSIONS[kind]), 0
    if kind in _SIZED:
        return 1 + _SIZED[kind] + _number(content, offset + 1, _SIZED[kind]), 0
    return _FIXED.get(kind, 1), 0


def _measure_extension(content: mmap.mmap, offset: int, header: int) -> int:
    kind, code = content[offset], content[offset + header - 1]
    length = 1 << (kind - 0xD4) if kind >= 0xD4 else _number(content, offset + 1, header - 2)
    if (code in _ARRAYS and not _is_array(content, offset + header)) or (code == _COMPLEX and length > _COMPLEX_LENGTH):
        raise ValueError
    return header + length


def _is_array(content: mmap.mmap, offset: int) -> bool:
    """True if the content starts like an array of Flax: [shape, name of the dtype, bytes]."""
    rank = content[offset + 1] - 0x90
    if content[offset] != 0x93 or not 0 <= rank < 16:
        return False
    offset += 2
    for _ in range(rank):
        if content[offset] not in _UNSIGNED:
            return False
        offset += _UNSIGNED[content[offset]]
    return content[offset] in _SHORT_TEXTS


def _number(content: mmap.mmap, offset: int, width: int) -> int:
    return int.from_bytes(content[offset : offset + width], "big")
