"""The arrays of an HDF5 file. The only importer of h5py; called in a separate process (``apart``).

HDF5 can refer to other files in three ways (external links, external storage, virtual datasets). None is followed.
https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

import numpy as np

from bncli.errors import CheckpointError
from bncli.inspection.readers.arrays import MAX_DEPTH, Path, Stored, bfloat16_bits, naturally

if TYPE_CHECKING:
    import h5py

    Item: TypeAlias = h5py.Group | h5py.Dataset

NEEDS_EXTRA = "pip install 'bncli[keras]'"
# No network has a file of more objects; a file may claim any number.
MAX_OBJECTS = 1_000_000
# NumPy's kinds of numbers; "V" are opaque bytes, which is how h5py writes bfloat16.
_KINDS = "fiuV"


@dataclass(frozen=True)
class Hdf5:
    """The content of a file.

    Attributes:
        arrays: the numeric arrays by path, in the order in which Keras 2 lists them (``layer_names``,
            ``weight_names``), or of the numbers in their paths.
        groups: the paths of all groups, in the same order.
        names: path of a group -> its attribute "name".
        config: the file's attribute "model_config"; None if it has none.
    """

    arrays: dict[Path, Stored]
    groups: tuple[Path, ...]
    names: dict[Path, str]
    config: str | bytes | None


def require_h5py() -> None:
    """Raise CheckpointError if h5py is not installed."""
    try:
        import h5py  # noqa: F401 - loaded before ``apart`` sets its limits
    except ImportError:
        raise CheckpointError("reading a Keras file needs h5py, which is not installed", remedy=NEEDS_EXTRA) from None


def read_hdf5(source: FilePath | BinaryIO) -> Hdf5:
    """The content of an HDF5 file, which stays open: arrays are read from it later.

    Raises:
        CheckpointError: a part lies in another file or was never written, or there are more parts than a network has.
        Exception: h5py's, of any class, if the file is damaged.
    """
    import h5py

    file = h5py.File(source, "r")
    arrays, groups, names, listed = {}, [], {}, []
    for path, item in _walk(file):
        if isinstance(item, h5py.Group):
            groups.append(path)
            listed += [(*path, *name.split("/")) for name in _strings(item, "weight_names")]
            name = item.attrs.get("name")
            if isinstance(name, str):
                names[path] = name
        elif isinstance(item, h5py.Dataset) and item.shape is not None and item.dtype.kind in _KINDS:
            _check_own(path, item)
            arrays[path] = _stored(item)
    ordered = dict.fromkeys(path for path in (*listed, *arrays) if path in arrays)
    return Hdf5({path: arrays[path] for path in ordered}, tuple(groups), names, file.attrs.get("model_config"))


def _walk(root: h5py.Group) -> Iterator[tuple[Path, Item]]:
    """All groups and their datasets; each group once, since a group can contain itself."""
    import h5py

    pending: list[tuple[Path, Item]] = [((), root)]
    seen, objects = set(), 0
    while pending:
        path, item = pending.pop()
        if isinstance(item, h5py.Group):
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                continue
            seen.add(address)
            objects += len(item)
            if objects > MAX_OBJECTS or len(path) > MAX_DEPTH:
                raise CheckpointError(
                    f"more than {MAX_OBJECTS:,} objects or {MAX_DEPTH} levels are too many for a network",
                    remedy="Is the file damaged?",
                )
            # Keras on Windows joined paths with backslashes, which HDF5 does not split.
            pending += [((*path, *name.split("\\")), item[name]) for name in reversed(_members(path, item))]
        yield path, item


def _members(path: Path, group: h5py.Group) -> list[str]:
    """The names in a group, in its order.

    Raises:
        CheckpointError: one is a link, which can lead to another file.
    """
    import h5py

    names = list(group)
    for name in names:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise CheckpointError(
                f"{'/'.join((*path, name))} is a link, and bncli does not follow links",
                remedy="Save the network in one file, as Keras does.",
            )
    order = {name: number for number, name in enumerate(_strings(group, "layer_names"))}
    return sorted(names, key=lambda name: (order.get(name, len(order)), naturally((name,))))


def _strings(item: Item, name: str) -> list[str]:
    """A list of names in an attribute; a long list is split into numbered attributes of at most 64 KiB."""
    keys = [name] if name in item.attrs else takewhile(item.attrs.__contains__, (f"{name}{n}" for n in count()))
    words = [word for key in keys for word in np.ravel(item.attrs[key])]
    return [word.decode(errors="replace") if isinstance(word, bytes) else str(word) for word in words]


def _check_own(path: Path, dataset: h5py.Dataset) -> None:
    """Raise CheckpointError unless the values lie in this file."""
    name = "/".join(path)
    if dataset.is_virtual or dataset.external:
        raise CheckpointError(
            f"{name} lies in another file, which bncli does not open", remedy="Save the network in one file."
        )
    stored = dataset.id.get_storage_size()
    whole = math.prod(dataset.shape) * dataset.dtype.itemsize
    if (stored < whole and dataset.chunks is None) or (stored == 0 and whole > 0):
        raise CheckpointError(
            f"{name} claims {whole:,} bytes, but the file holds {stored:,} of them", remedy="Restore it from a copy."
        )


def _stored(dataset: h5py.Dataset) -> Stored:
    if dataset.dtype == np.dtype("V2"):
        return Stored(dataset.shape, "bfloat16", lambda: bfloat16_bits(np.asarray(dataset[()]).view("<u2")))
    return Stored(dataset.shape, str(dataset.dtype.name), lambda: np.asarray(dataset[()]))
