"""Any Orbax directory, whoever wrote it, as a tree of host arrays.

::

    root/                     a CheckpointManager's
      100/ 200/ …             one save each, named by its step, with or without a prefix
        default/ or NAME/     an item; one saved without a manager is the directory itself
          _METADATA           JSON: the tree, and which leaf is what
          manifest.ocdbt, d/  the arrays in one database; older ones have a directory an array

The layout is documented (https://orbax.readthedocs.io/en/latest/guides/checkpoint/checkpoint_format.html). The arrays
are read by tensorstore, as Orbax does, but not through Orbax: that answers damage with the tracebacks of its threads,
and an array lost with "no metadata"; here the array is named.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore

from bncli.errors import CheckpointError
from bncli.process.memory import available_memory, format_bytes

METADATA = "_METADATA"
MANIFEST = "manifest.ocdbt"
# Written last where a file system cannot rename a whole directory.
COMMIT = "commit_success.txt"
DEFAULT_ITEM = "default"

# A network's tree is not so deep, and its metadata, 300 bytes an array, not so large; a directory may claim anything.
MAX_DEPTH, MAX_METADATA = 64, 32 << 20
# Numbers of training hardly compress, and the zeros of a new optimizer are two thirds of its state: what unpacks to
# so much more than the directory takes is a bomb. Up to that many bytes, any ratio will do.
MAX_RATIO, ANY_RATIO = 100, 128 << 20

_STEP = re.compile(r"(?:.*_)?(\d+)")
_DICT_KEY = 2
_ARRAYS = ("jax.Array", "np.ndarray", "scalar")
_EMPTY_DICT = "Dict"
_VALUES = (*_ARRAYS, _EMPTY_DICT)
_COPY = "Restore it from a copy"


@dataclass(frozen=True)
class _Leaf:
    """One line of ``_METADATA``: where a value stands in the tree, and what it is."""

    path: tuple[str, ...]
    kind: str

    @property
    def name(self) -> str:
        """Under which its array is stored."""
        return ".".join(self.path)


@dataclass(frozen=True)
class _Metadata:
    """What ``_METADATA`` says: the values that stand under dict keys alone, and how arrays are stored."""

    leaves: tuple[_Leaf, ...]
    in_database: bool
    driver: str


def find_steps(root: Path) -> dict[int, Path]:
    """The complete saves of a CheckpointManager by step, ascending; none where ``root`` is something else.

    A save under way has a name that is no step or, where the others have a commit file, none.
    """
    found = {int(match[1]): path for path in root.iterdir() if (match := _STEP.fullmatch(path.name)) and path.is_dir()}
    committed = {step: path for step, path in found.items() if (path / COMMIT).exists()}
    steps = committed or found
    return dict(sorted(steps.items())) if any(find_items(path) for path in steps.values()) else {}


def find_items(directory: Path) -> dict[str, Path]:
    """The trees saved in a directory by name; "" is the directory itself."""
    if (directory / METADATA).is_file():
        return {"": directory}
    return {path.name: path for path in sorted(directory.iterdir()) if (path / METADATA).is_file()}


def read_items(directory: Path) -> dict[str, Any]:
    """The tree in a save; where it holds several under names, {name: tree}.

    Raises:
        CheckpointError: a file is missing or damaged, or the arrays do not fit into memory; names it.
    """
    items = find_items(directory)
    if not items:
        raise CheckpointError(
            f"{directory} holds no tree of arrays: neither it nor a directory in it has a {METADATA}",
            remedy=f"{_COPY}, or name another save by --step.",
        )
    trees = {name: _read_item(path) for name, path in items.items()}
    return next(iter(trees.values())) if set(trees) in ({""}, {DEFAULT_ITEM}) else trees


def _read_item(item: Path) -> dict[str, Any]:
    """The tree of one item: nested dicts of arrays, without what lies under a list.

    A list holds an optimizer's state and no variables, at twice their size.
    """
    metadata = _read_metadata(item)
    if metadata.in_database and not (item / MANIFEST).exists():
        raise CheckpointError(f"{item / MANIFEST} is missing", remedy=f"{_COPY}.")
    arrays = _read_arrays(item, metadata)
    tree: dict[str, Any] = {}
    for leaf in metadata.leaves:
        if leaf.kind in _VALUES:
            parent = tree
            for key in leaf.path[:-1]:
                parent = parent.setdefault(key, {})
            parent[leaf.path[-1]] = {} if leaf.kind == _EMPTY_DICT else arrays[leaf.name]
    return tree


def _read_metadata(item: Path) -> _Metadata:
    try:
        if (size := (item / METADATA).stat().st_size) > MAX_METADATA:
            raise ValueError(f"{size:,} bytes")
        document = json.loads((item / METADATA).read_bytes())
        return _Metadata(
            leaves=tuple(_leaves(document["tree_metadata"].values())),
            in_database=document.get("use_ocdbt", (item / MANIFEST).exists()),
            driver="zarr3" if document.get("use_zarr3") else "zarr",
        )
    # No JSON, or not the fields and types that Orbax writes.
    except (AttributeError, KeyError, OSError, RecursionError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{item / METADATA} is damaged: {type(error).__name__}: {str(error)[:300]}", remedy=f"{_COPY}."
        ) from error


def _leaves(entries: Iterable[Mapping[str, Any]]) -> Iterator[_Leaf]:
    """The values under dict keys alone.

    Raises:
        ValueError: a value stands where another has its keys, or too deep.
    """
    paths = set()
    for entry in entries:
        keys = entry["key_metadata"]
        if keys and all(key["key_type"] == _DICT_KEY for key in keys):
            if len(keys) > MAX_DEPTH:
                raise ValueError(f"{len(keys)} levels")
            leaf = _Leaf(tuple(str(key["key"]) for key in keys), entry["value_metadata"]["value_type"])
            paths.add(leaf.path)
            yield leaf
    for path in paths:
        if any(path[:length] in paths for length in range(1, len(path))):
            raise ValueError(f"{path} lies within a value")


def _read_arrays(item: Path, metadata: _Metadata) -> dict[str, np.ndarray]:
    """All arrays at once, since each waits for the disk; the first that fails is named."""
    context = tensorstore.Context({"cache_pool#ocdbt": {"total_bytes_limit": 100_000_000}})
    opening, stores, arrays = {}, {}, {}
    for name in (leaf.name for leaf in metadata.leaves if leaf.kind in _ARRAYS):
        with _naming(item, name):
            spec = _array_spec(item, metadata, name)
            opening[name] = tensorstore.open(spec, read=True, open=True, context=context)
    for name, future in opening.items():
        with _naming(item, name):
            stores[name] = future.result()
    _require_memory(item, stores.values())
    reading = {name: store.read() for name, store in stores.items()}
    for name, read in reading.items():
        with _naming(item, name):
            arrays[name] = np.asarray(read.result())
    return arrays


def _array_spec(item: Path, metadata: _Metadata, name: str) -> dict[str, Any]:
    """Where tensorstore finds an array. A part of it that is missing is an error, as Orbax has it too: not zeros."""
    files = {"driver": "file", "path": f"{item.absolute()}/"}
    database = {"driver": "ocdbt", "base": files, "path": f"{name}/"}
    directory = {"driver": "file", "path": f"{item.absolute()}/{name}/"}
    return {
        "driver": metadata.driver,
        "kvstore": database if metadata.in_database else directory,
        "fill_missing_data_reads": False,
    }


@contextmanager
def _naming(item: Path, name: str) -> Iterator[None]:
    """An error of tensorstore, which comes as a ValueError, as a CheckpointError that names the array."""
    try:
        yield
    except (ValueError, OSError, MemoryError) as error:
        reason = str(error).partition(" [")[0]  # without tensorstore's own settings
        raise CheckpointError(f"{item}: cannot read the array {name}: {reason}", remedy=f"{_COPY}.") from error


def _require_memory(item: Path, stores: Iterable[Any]) -> None:
    """Raises CheckpointError where the arrays are said to be larger than the memory, before any is read.

    The parts an array is stored in count too: one of a few bytes that claims terabytes would end the process.
    """
    needed = sum(_num_bytes(store) for store in stores)
    available = available_memory()
    if available is not None and needed > available:
        raise CheckpointError(
            f"{item}: {format_bytes(needed)} of memory needed for its arrays, {format_bytes(available)} available",
            remedy=f"{_COPY} if it is not so large, or use a machine with more memory.",
        )
    stored = sum(file.stat().st_size for file in item.rglob("*") if file.is_file())
    if needed > max(ANY_RATIO, MAX_RATIO * stored):
        raise CheckpointError(
            f"{item} is damaged: {format_bytes(stored)} in its files cannot be arrays of {format_bytes(needed)}",
            remedy=f"{_COPY}.",
        )


def _num_bytes(store: Any) -> int:  # noqa: ANN401 - tensorstore has no types
    elements = max(math.prod(store.shape), math.prod(store.chunk_layout.read_chunk.shape or ()))
    return elements * store.dtype.numpy_dtype.itemsize
