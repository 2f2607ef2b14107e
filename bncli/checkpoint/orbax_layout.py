"""Any Orbax directory as a tree of host arrays, whichever program wrote it.

::

    root/                     the directory of a CheckpointManager
      100/ 200/ …             one save each, named by its step, with or without a prefix
        default/ or NAME/     an item; an item saved without a manager is the directory itself
          _METADATA           JSON: the tree and the kind of each leaf
          manifest.ocdbt, d/  the arrays in one database; older versions have one directory per array
          checkpoint          instead of _METADATA before Orbax 0.5: msgpack, with PLACEHOLDER://NAME for each array

The layout is documented (https://orbax.readthedocs.io/en/latest/guides/checkpoint/checkpoint_format.html). Like Orbax,
this module reads the arrays with tensorstore. It does not go through Orbax, which reports damage with the tracebacks of
its threads, and a lost array with "no metadata". Here the message names the array.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tensorstore
from flax import serialization

from bncli.checkpoint.directory import check_name
from bncli.config.json_types import JSON, Document
from bncli.errors import CheckpointError
from bncli.frameworks.linen import Variables
from bncli.process.files import read_regular, require_contained
from bncli.process.memory import available_memory, format_bytes

METADATA = "_METADATA"
MANIFEST = "manifest.ocdbt"
# The file that is written last if the file system cannot rename a whole directory.
COMMIT = "commit_success.txt"
# Before Orbax 0.5 a msgpack file took the place of _METADATA, with such a text in place of each array.
INDEX = "checkpoint"
PLACEHOLDER = "PLACEHOLDER://"
DEFAULT_ITEM = "default"

# No network's tree is so deep, or its metadata so large (300 bytes per array); but a directory may claim anything.
MAX_DEPTH, MAX_METADATA = 64, 32 << 20
# msgpack takes up to 64 times its size in memory.
MAX_INDEX = 8 << 20
# Trained weights hardly compress, and at most two thirds of a training state are zeros of a new optimizer. Arrays that
# unpack to a far larger size are a bomb. Below ANY_RATIO bytes, any ratio is accepted.
MAX_RATIO, ANY_RATIO = 100, 128 << 20

_STEP = re.compile(r"(?:.*_)?(\d+)")
_KEYS = (1, 2)  # of a list, of a dict
_LIST_KEY = 1
_ARRAYS = ("jax.Array", "np.ndarray", "scalar")
_EMPTY_DICT = "Dict"
_INLINE = "inline"
_VALUES = (*_ARRAYS, _EMPTY_DICT, _INLINE)
# Keys of an optimizer's state.
OPTIMIZER = ("opt_state", "optimizer", "optimizer_state")
_COPY = "Restore it from a copy"


@dataclass(frozen=True)
class _Leaf:
    """One value: its path in the tree, its kind, and the name that its array is stored under."""

    path: tuple[str, ...]
    kind: str
    name: str


@dataclass(frozen=True)
class _Metadata:
    """The values of an item, without an optimizer's lists, and the storage of the arrays.

    ``inline`` holds the arrays that stand in the index itself, by their names.
    """

    leaves: tuple[_Leaf, ...]
    in_database: bool
    driver: str
    inline: Mapping[str, np.ndarray] = field(default_factory=dict)


def find_steps(root: Path) -> dict[int, Path]:
    """The complete saves of a CheckpointManager by step, ascending; none if ``root`` is something else.

    The name of an unfinished save is not a step; or, if the other saves have a commit file, it lacks one.
    """
    found = {int(match[1]): path for path in root.iterdir() if (match := _STEP.fullmatch(path.name)) and path.is_dir()}
    committed = {step: path for step, path in found.items() if (path / COMMIT).exists()}
    steps = committed or found
    return dict(sorted(steps.items())) if any(find_items(path) for path in steps.values()) else {}


def find_items(directory: Path) -> dict[str, Path]:
    """The trees saved in a directory by name; "" is the directory itself."""
    if _is_item(directory):
        return {"": directory}
    return {path.name: path for path in sorted(directory.iterdir()) if _is_item(path)}


def _is_item(directory: Path) -> bool:
    return (directory / METADATA).is_file() or _is_index(directory / INDEX)


def _is_index(path: Path) -> bool:
    """True for the index that Orbax wrote before version 0.5, not for other files of that name."""
    return path.is_file() and path.stat().st_size <= MAX_INDEX and PLACEHOLDER.encode() in read_regular(path)


def read_items(directory: Path) -> Variables:
    """The tree in a save, or {name: tree} if it holds several named items.

    Raises:
        CheckpointError: a file is missing or damaged, or the arrays do not fit into memory; the message names it.
    """
    check_name(directory)
    _require_contained(directory)
    items = find_items(directory)
    if not items:
        raise CheckpointError(
            f"{directory} holds no tree of arrays: neither it nor a directory in it has a {METADATA}",
            remedy=f"{_COPY}, or name another save with --step.",
        )
    trees = {name: _read_item(path) for name, path in items.items()}
    return next(iter(trees.values())) if set(trees) in ({""}, {DEFAULT_ITEM}) else trees


def require_fitting(item: Path) -> None:
    """Raise CheckpointError if an item claims more memory than there is, or than its files can hold; reads no array."""
    _require_memory(item, _open_arrays(item, _read_metadata(item)).values())


def _require_contained(directory: Path) -> None:
    try:
        require_contained(directory)
    except OSError as error:
        raise CheckpointError(f"{error.filename}: {error.strerror}", remedy=f"{_COPY}, without links.") from error


def _read_item(item: Path) -> Variables:
    """The tree of one item: nested dicts of arrays, where the elements of a list stand under their numbers.

    The lists of an optimizer's state are left out: they are twice the size of the variables.
    """
    metadata = _read_metadata(item) if (item / METADATA).is_file() else _read_index(item)
    if metadata.in_database and not (item / MANIFEST).exists():
        raise CheckpointError(f"{item / MANIFEST} is missing", remedy=f"{_COPY}.")
    arrays = {**metadata.inline, **_read_arrays(item, metadata)}
    tree: Document = {}
    for leaf in metadata.leaves:
        if leaf.kind in _VALUES:
            parent = tree
            for key in leaf.path[:-1]:
                parent = parent.setdefault(key, {})
            parent[leaf.path[-1]] = {} if leaf.kind == _EMPTY_DICT else arrays[leaf.name]
    return tree


def _read_metadata(item: Path) -> _Metadata:
    try:
        document = json.loads(read_regular(item / METADATA, limit=MAX_METADATA))
        return _Metadata(
            leaves=tuple(_leaves(document["tree_metadata"].values())),
            in_database=document.get("use_ocdbt", (item / MANIFEST).exists()),
            driver="zarr3" if document.get("use_zarr3") else "zarr",
        )
    # Not JSON, or not the fields and types that Orbax writes.
    except (AttributeError, KeyError, OSError, RecursionError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{item / METADATA} is damaged: {type(error).__name__}: {str(error)[:300]}", remedy=f"{_COPY}."
        ) from error


def _read_index(item: Path) -> _Metadata:
    """The values in the index of an Orbax before 0.5: a tree of placeholders, and of small arrays themselves."""
    try:
        tree = serialization.msgpack_restore(read_regular(item / INDEX))
        leaves, inline = [], {}
        for path, value in _values_of(tree, ()):
            if isinstance(value, str) and value.startswith(PLACEHOLDER):
                leaves.append(_Leaf(path, "jax.Array", value.removeprefix(PLACEHOLDER)))
            elif isinstance(value, np.ndarray):
                leaves.append(_Leaf(path, _INLINE, "/".join(path)))
                inline["/".join(path)] = value
    except Exception as error:  # the errors of msgpack, NumPy and Flax for bytes that are no such tree
        raise CheckpointError(
            f"{item / INDEX} is damaged: {type(error).__name__}: {str(error)[:300]}", remedy=f"{_COPY}."
        ) from error
    return _Metadata(tuple(leaves), in_database=(item / MANIFEST).exists(), driver="zarr", inline=inline)


def _values_of(node: JSON, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], JSON]]:
    """The values under dict keys, without an optimizer's."""
    if len(path) > MAX_DEPTH:
        raise ValueError(f"more than {MAX_DEPTH} levels")
    if not isinstance(node, Mapping):
        yield path, node
        return
    for key, child in node.items():
        if str(key) not in OPTIMIZER:
            yield from _values_of(child, (*path, str(key)))


def _leaves(entries: Iterable[Mapping[str, JSON]]) -> Iterator[_Leaf]:
    """The values, without those in lists of an optimizer.

    Raises:
        ValueError: a value lies within another value, or too deep.
    """
    paths = set()
    for entry in entries:
        keys = entry["key_metadata"]
        if keys and all(key["key_type"] in _KEYS for key in keys) and not _is_in_optimizers_list(keys):
            if len(keys) > MAX_DEPTH:
                raise ValueError(f"{len(keys)} levels")
            path = tuple(str(key["key"]) for key in keys)
            leaf = _Leaf(path, entry["value_metadata"]["value_type"], ".".join(path))
            paths.add(leaf.path)
            yield leaf
    for path in paths:
        if any(path[:length] in paths for length in range(1, len(path))):
            raise ValueError(f"{path} lies within a value")


def _is_in_optimizers_list(keys: Sequence[Mapping[str, JSON]]) -> bool:
    lists = [number for number, key in enumerate(keys) if key["key_type"] == _LIST_KEY]
    return any(str(key["key"]) in OPTIMIZER for number in lists for key in keys[:number])


def _read_arrays(item: Path, metadata: _Metadata) -> dict[str, np.ndarray]:
    """All arrays, read concurrently since each waits for the disk; the first that fails is named."""
    arrays = {}
    stores = _open_arrays(item, metadata)
    _require_memory(item, stores.values())
    reading = {name: store.read() for name, store in stores.items()}
    for name, read in reading.items():
        with _naming(item, name):
            arrays[name] = np.asarray(read.result())
    return arrays


def _open_arrays(item: Path, metadata: _Metadata) -> dict[str, tensorstore.TensorStore]:
    """The arrays by name, of which only shapes and dtypes are read."""
    context = tensorstore.Context({"cache_pool#ocdbt": {"total_bytes_limit": 100_000_000}})
    opening, stores = {}, {}
    for name in (leaf.name for leaf in metadata.leaves if leaf.kind in _ARRAYS):
        with _naming(item, name):
            spec = _array_spec(item, metadata, name)
            opening[name] = tensorstore.open(spec, read=True, open=True, context=context)
    for name, future in opening.items():
        with _naming(item, name):
            stores[name] = future.result()
    return stores


def _array_spec(item: Path, metadata: _Metadata, name: str) -> Document:
    """The tensorstore spec of an array. As in Orbax, a missing part of it is an error and is not read as zeros."""
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
    """Turn an error of tensorstore, which is a ValueError, into a CheckpointError that names the array."""
    try:
        yield
    except (ValueError, OSError, MemoryError) as error:
        reason = str(error).partition(" [")[0]  # without tensorstore's own settings
        raise CheckpointError(f"{item}: cannot read the array {name}: {reason}", remedy=f"{_COPY}.") from error


def _require_memory(item: Path, stores: Iterable[tensorstore.TensorStore]) -> None:
    """Raise CheckpointError if the arrays claim to be larger than the memory, before any is read.

    The chunks of an array count too: a chunk of a few bytes that claims terabytes would end the process.
    """
    needed = sum(_num_bytes(store) for store in stores)
    available = available_memory()
    if available is not None and needed > available:
        raise CheckpointError(
            f"{item}: {format_bytes(needed)} of memory needed for its arrays, {format_bytes(available)} available",
            remedy=f"{_COPY} if the network is not so large, or use a machine with more memory.",
        )
    stored = sum(file.stat().st_size for file in item.rglob("*") if file.is_file())
    if needed > max(ANY_RATIO, MAX_RATIO * stored):
        raise CheckpointError(
            f"{item} is damaged: {format_bytes(stored)} in its files cannot be arrays of {format_bytes(needed)}",
            remedy=f"{_COPY}.",
        )


def _num_bytes(store: tensorstore.TensorStore) -> int:
    chunk = [size or 1 for size in store.chunk_layout.read_chunk.shape or ()]
    return max(math.prod(store.shape), math.prod(chunk)) * int(store.dtype.numpy_dtype.itemsize)
