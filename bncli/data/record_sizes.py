"""The memory that the records of an ArrayRecord file need once they are unpacked, by its chunks' headers alone.

Its format is Riegeli's: blocks of 64 KiB, each with a header of 24 bytes, and through them chunks one after another,
each with one of 40 bytes. The library unpacks whatever a chunk holds, so its size is compared with the memory first.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from bncli.process.files import open_regular
from bncli.process.memory import require_memory

_BLOCK, _BLOCK_HEADER = 1 << 16, 24
_CHUNK_HEADER = struct.Struct("<QQQQQ")  # hash, size, hash of the data, type and number of records, unpacked size
_COPIES = 3  # the chunk, the record, the image


def require_room(path: Path) -> None:
    """Raise DataError if a chunk of a file, unpacked, does not fit into memory.

    Raises:
        OSError: the file cannot be read.
    """
    with open_regular(path) as file:
        largest = max(_unpacked_sizes(file, os.fstat(file.fileno()).st_size), default=0)
    require_memory(
        _COPIES * largest,
        what=f"{path}: a record of up to {largest:,} bytes",
        remedy="The file may be made to fill the memory; if it is yours, write each record into a chunk of its own.",
    )


def _unpacked_sizes(file: BinaryIO, num_bytes: int) -> Iterator[int]:
    """The unpacked size of each chunk, up to the first that cannot be one; the library tells such damage itself."""
    begin = 0
    while begin < num_bytes:
        header = _read(file, begin, _CHUNK_HEADER.size)
        if len(header) < _CHUNK_HEADER.size:
            return
        _, size, _, kind, unpacked = _CHUNK_HEADER.unpack(header)
        yield unpacked
        end = max(_after(begin, _CHUNK_HEADER.size + size), _boundary(begin + (kind >> 8)))
        if end <= begin:
            return
        begin = end


def _read(file: BinaryIO, begin: int, count: int) -> bytes:
    """Some bytes of a chunk, without the headers of the blocks between them."""
    content = b""
    while len(content) < count:
        begin = begin + _BLOCK_HEADER if begin % _BLOCK == 0 else begin
        file.seek(begin)
        part = file.read(min(count - len(content), _BLOCK - begin % _BLOCK))
        if not part:
            break
        content, begin = content + part, begin + len(part)
    return content


def _after(begin: int, count: int) -> int:
    """The place behind so many bytes of a chunk."""
    room = _BLOCK - _BLOCK_HEADER
    inside = begin % _BLOCK
    used = max(inside - _BLOCK_HEADER, 0) + count  # without headers, since the beginning of the block
    blocks, rest = divmod(used, room)
    if rest == 0:
        return begin - inside + blocks * _BLOCK
    return begin - inside + blocks * _BLOCK + _BLOCK_HEADER + rest


def _boundary(place: int) -> int:
    """The next place where a chunk may begin: not inside of a block's header."""
    inside = place % _BLOCK
    return place - inside + _BLOCK_HEADER if 0 < inside < _BLOCK_HEADER else place
