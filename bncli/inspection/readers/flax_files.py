"""BN layers of an Orbax directory, or of a ``flax.serialization`` file."""

from __future__ import annotations

from pathlib import Path

from bncli.inspection.readers.arrays import in_memory, naturally
from bncli.inspection.readers.assembly import contents_of
from bncli.inspection.readers.contents import Contents
from bncli.inspection.readers.msgpack_size import check_msgpack
from bncli.inspection.readers.settings import Asked


def read_orbax(path: Path, asked: Asked) -> Contents:
    """Read the BN layers of one save in an Orbax directory.

    Raises:
        CheckpointError: there is no such step, or a file is missing or damaged.
    """
    return _read(path, asked, file_format="orbax")


def read_msgpack(path: Path, asked: Asked) -> Contents:
    """Read the BN layers of a file written by ``flax.serialization.to_bytes``.

    Raises:
        CheckpointError: the file is damaged, or would take far more memory than its size.
    """
    check_msgpack(path)
    return _read(path, asked, file_format="flax-msgpack")


def _read(path: Path, asked: Asked, *, file_format: str) -> Contents:
    from bncli.checkpoint import read_foreign

    arrays = in_memory(read_foreign(path, step=asked.step).tree)
    in_order = {place: arrays[place] for place in sorted(arrays, key=naturally)}
    return contents_of(in_order, file_format=file_format, asked=asked)
