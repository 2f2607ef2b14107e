"""The arrays in an HDF5 file. The only importer of h5py; called in a process of its own (``apart``).

HDF5 can point to other files in three ways (external links, external storage, virtual datasets): none is followed.
https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, BinaryIO

import numpy as np

from bncli.errors import CheckpointError
from bncli.inspection.readers.arrays import MAX_DEPTH, Path, Stored, bfloat16_bits

NEEDS_EXTRA = "pip install 'bncli[keras]'"
# A group with more members is no network's; a file may claim any number.
MAX_OBJECTS = 1_000_000
# Of NumPy's kinds of numbers; "V" are opaque bytes, as which Keras writes bfloat16.
_KINDS = "fiuV"


@dataclass(frozen=True)
class Hdf5:
    """What lies in a file.

    Attributes:
        arrays: by path, as far as they are numbers.
        names: path of a group -> its attribute "name".
        config: the file's attribute "model_config"; None where it has none.
    """

    arrays: dict[Path, Stored]
    names: dict[Path, str]
    config: str | bytes | None


def require_h5py() -> None:
    """Raises CheckpointError where h5py is not installed."""
    try:
        import h5py  # noqa: F401
    except ImportError:
        raise CheckpointError("a Keras file needs h5py, which is not here", remedy=NEEDS_EXTRA) from None


def read_hdf5(source: FilePath | BinaryIO) -> Hdf5:
    """What lies in an HDF5 file; the arrays are read later, from the file that stays open.

    Raises:
        CheckpointError: an array lies in another file, or was never written, or there are too many objects.
        Exception: of any class, from h5py, where the file is damaged.
    """
    import h5py

    file = h5py.File(source, "r")
    arrays, names = {}, {}
    for path, item in _walk(file):
        if isinstance(item, h5py.Group):
            name = item.attrs.get("name")
            if isinstance(name, str):
                names[path] = name
        elif isinstance(item, h5py.Dataset) and item.shape is not None and item.dtype.kind in _KINDS:
            _check_own(path, item)
            arrays[path] = Stored(item.shape, _dtype(item), _reader(item))
    return Hdf5(arrays, names, file.attrs.get("model_config"))


def _walk(root: Any) -> Iterator[tuple[Path, Any]]:  # noqa: ANN401 - h5py has no types
    """All groups and datasets, each once: a group may be a member of itself."""
    import h5py

    pending, seen, count = [((), root)], set(), 0
    while pending:
        path, item = pending.pop()
        address = h5py.h5o.get_info(item.id).addr
        if address in seen:
            continue
        seen.add(address)
        yield path, item
        if isinstance(item, h5py.Group) and len(path) < MAX_DEPTH:
            count += len(item)
            if count > MAX_OBJECTS:
                raise CheckpointError(f"more than {MAX_OBJECTS:,} objects are no network's", remedy="Is it damaged?")
            members = [name for name in item if isinstance(item.get(name, getlink=True), h5py.HardLink)]
            pending += [((*path, name), item[name]) for name in reversed(members)]


def _check_own(path: Path, dataset: Any) -> None:  # noqa: ANN401 - h5py has no types
    """Raises CheckpointError unless the values lie in this file."""
    name = "/".join(path)
    if dataset.is_virtual or dataset.external:
        raise CheckpointError(f"{name} lies in another file, which is not opened", remedy="Save it in one file.")
    stored = dataset.id.get_storage_size()
    whole = dataset.size * dataset.dtype.itemsize
    if (stored < whole and dataset.chunks is None) or (stored == 0 and whole > 0):
        raise CheckpointError(
            f"{name} claims {whole:,} bytes, and {stored:,} are in the file", remedy="Restore it from a copy."
        )


def _dtype(dataset: Any) -> str:  # noqa: ANN401 - h5py has no types
    if dataset.dtype.itemsize == 2 and dataset.attrs.get("dtype") == "bfloat16":
        return "bfloat16"
    return str(dataset.dtype.name)


def _reader(dataset: Any) -> Any:  # noqa: ANN401 - h5py has no types
    if _dtype(dataset) == "bfloat16":
        return lambda: bfloat16_bits(np.asarray(dataset[()]).view("<u2"))
    return lambda: np.asarray(dataset[()])
