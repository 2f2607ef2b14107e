"""The arrays in an HDF5 file. The only importer of h5py; called in a process of its own (``apart``).

HDF5 can point to other files in three ways (external links, external storage, virtual datasets): none is followed.
https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path as FilePath
from typing import Any, BinaryIO

import numpy as np

from bncli.errors import CheckpointError
from bncli.inspection.readers.arrays import MAX_DEPTH, Path, Stored, bfloat16_bits, naturally

NEEDS_EXTRA = "pip install 'bncli[keras]'"
# A group with more members is no network's; a file may claim any number.
MAX_OBJECTS = 1_000_000
# Of NumPy's kinds of numbers; "V" are opaque bytes, as which h5py writes bfloat16.
_KINDS = "fiuV"


@dataclass(frozen=True)
class Hdf5:
    """What lies in a file.

    Attributes:
        arrays: by path, as far as they are numbers; as Keras 2 lists them (``layer_names``, ``weight_names``), others
            in the order of the numbers in their paths.
        groups: the paths of all groups, in that order.
        names: path of a group -> its attribute "name".
        config: the file's attribute "model_config"; None where it has none.
    """

    arrays: dict[Path, Stored]
    groups: tuple[Path, ...]
    names: dict[Path, str]
    config: str | bytes | None


def require_h5py() -> None:
    """Raises CheckpointError where h5py is not installed."""
    try:
        import h5py  # noqa: F401 - loaded here, before the limits of ``apart``
    except ImportError:
        raise CheckpointError("a Keras file needs h5py, which is not here", remedy=NEEDS_EXTRA) from None


def read_hdf5(source: FilePath | BinaryIO) -> Hdf5:
    """What lies in an HDF5 file; the arrays are read later, from the file that stays open.

    Raises:
        CheckpointError: a part lies in another file or was never written, or there are more parts than a network has.
        Exception: of any class, from h5py, where the file is damaged.
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


def _walk(root: Any) -> Iterator[tuple[Path, Any]]:  # noqa: ANN401 - h5py has no types
    """All groups, each once, since a group may be a member of itself, and all datasets in them."""
    import h5py

    pending: list[tuple[Path, Any]] = [((), root)]
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
                    f"more than {MAX_OBJECTS:,} objects, or {MAX_DEPTH} levels of them, are no network's",
                    remedy="Is the file damaged?",
                )
            # Keras on Windows joined paths by backslashes, which are no separators to HDF5.
            pending += [((*path, *name.split("\\")), item[name]) for name in reversed(_members(path, item))]
        yield path, item


def _members(path: Path, group: Any) -> list[str]:  # noqa: ANN401 - h5py has no types
    """The names in a group, in its order.

    Raises:
        CheckpointError: one is a link that may lead to another file.
    """
    import h5py

    names = list(group)
    for name in names:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise CheckpointError(
                f"{'/'.join((*path, name))} is a link to somewhere else, which is not followed",
                remedy="Save the network in one file, as Keras does.",
            )
    order = {name: number for number, name in enumerate(_strings(group, "layer_names"))}
    return sorted(names, key=lambda name: (order.get(name, len(order)), naturally((name,))))


def _strings(item: Any, name: str) -> list[str]:  # noqa: ANN401 - h5py has no types
    """A list of names in an attribute; a long one is in several, with numbers, since each has an end at 64 KiB."""
    keys = [name] if name in item.attrs else takewhile(item.attrs.__contains__, (f"{name}{n}" for n in count()))
    words = [word for key in keys for word in np.ravel(item.attrs[key])]
    return [word.decode(errors="replace") if isinstance(word, bytes) else str(word) for word in words]


def _check_own(path: Path, dataset: Any) -> None:  # noqa: ANN401 - h5py has no types
    """Raises CheckpointError unless the values lie in this file."""
    name = "/".join(path)
    if dataset.is_virtual or dataset.external:
        raise CheckpointError(f"{name} lies in another file, which is not opened", remedy="Save it in one file.")
    stored = dataset.id.get_storage_size()
    whole = math.prod(dataset.shape) * dataset.dtype.itemsize
    if (stored < whole and dataset.chunks is None) or (stored == 0 and whole > 0):
        raise CheckpointError(
            f"{name} claims {whole:,} bytes, and {stored:,} are in the file", remedy="Restore it from a copy."
        )


def _stored(dataset: Any) -> Stored:  # noqa: ANN401 - h5py has no types
    if dataset.dtype == np.dtype("V2"):
        return Stored(dataset.shape, "bfloat16", lambda: bfloat16_bits(np.asarray(dataset[()]).view("<u2")))
    return Stored(dataset.shape, str(dataset.dtype.name), lambda: np.asarray(dataset[()]))
