"""BN layers of an Orbax directory, or of a ``flax.serialization`` file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bncli.errors import CheckpointError
from bncli.inspection.readers.arrays import in_memory, leaves, naturally, not_looked_into
from bncli.inspection.readers.assembly import contents_of
from bncli.inspection.readers.contents import Contents
from bncli.inspection.readers.detection import PLACEHOLDER
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

    tree = read_foreign(path, step=asked.step).tree
    _check_arrays_inside(path, tree)
    arrays = in_memory(tree)
    in_order = {place: arrays[place] for place in sorted(arrays, key=naturally)}
    return contents_of(in_order, file_format=file_format, asked=asked, unread=not_looked_into(tree))


def _check_arrays_inside(path: Path, tree: Mapping[str, object]) -> None:
    """Raise CheckpointError for the index of an old Orbax directory, which names arrays that lie beside it."""
    if path.is_file() and any(isinstance(leaf, str) and leaf.startswith(PLACEHOLDER) for _, leaf in leaves(tree)):
        raise CheckpointError(
            f"{path} is the index of an Orbax directory, and its arrays lie beside it",
            remedy=f"Name the directory: {path.parent}",
        )
