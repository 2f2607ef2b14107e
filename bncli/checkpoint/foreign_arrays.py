"""Checkpoints that bncli did not write: a tree of host arrays, and the BN network's variables in it.

The format is detected from the content, not the name. Nothing in a file is ever unpickled or run.
"""

from __future__ import annotations

import functools
import json
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from flax import serialization

from bncli.checkpoint.directory import CONFIG, MAX_CONFIG, is_checkpoint
from bncli.checkpoint.equinox_file import is_equinox, read_records
from bncli.checkpoint.orbax_layout import find_steps, read_items
from bncli.checkpoint.safetensors_file import is_safetensors, read_tree
from bncli.config.json_types import JSON
from bncli.errors import CheckpointError
from bncli.frameworks.linen import Variables
from bncli.process.files import open_regular, read_regular
from bncli.process.memory import available_memory, format_bytes

READABLE = (
    "bncli reads its own directories, Orbax directories, and files written by flax.serialization.to_bytes, "
    "safetensors.flax.save_file or eqx.tree_serialise_leaves."
)

_TORCH = (
    "It looks like weights of PyTorch: bncli convert {path} OUT makes a checkpoint of those of torchvision and timm, "
    "for every command."
)
_KERAS = (
    "It looks like a model of Keras. Use it in Python, with KERAS_BACKEND=jax: bncli.fold(model, example), "
    "bncli.recalibrate(model, batches) and bncli.inspect_stats(model, data=batches) take "
    "model = keras.models.load_model({name})."
)
_ONNX = (
    "It looks like an ONNX file. Fold the network before its export: bncli.fold takes any JAX function and the models "
    "of Flax, Equinox, Haiku and Keras. bncli inspect-stats {path} shows its BN layers."
)
_EQUINOX = (
    "It looks like a model of Equinox. Add --model file.py:Class and --input-shape H,W,C; or fold it in Python: "
    "bncli.fold(model, example, state=state), with both from eqx.tree_deserialise_leaves({name}, …)."
)
_PICKLE = (
    "It looks like a pickle, which bncli does not load because it may run code. Load it yourself, and fold the network "
    "in Python: bncli.fold(transformed, params, state, example) for Haiku. Or save its arrays with "
    'flax.serialization.to_bytes({{"params": params, "state": state}}), which every command reads with --model.'
)
# suffix of another program's file -> what to do with one
ELSEWHERE = {
    ".bin": _TORCH,
    ".ckpt": _TORCH,
    ".eqx": _EQUINOX,
    ".h5": _KERAS,
    ".hdf5": _KERAS,
    ".keras": _KERAS,
    ".onnx": _ONNX,
    ".pickle": _PICKLE,
    ".pkl": _PICKLE,
    ".pt": _TORCH,
    ".pth": _TORCH,
    ".safetensors": _TORCH,
}

EQUINOX = "a file of Equinox"
SAFETENSORS = "a safetensors file"
COLLECTIONS = ("params", "batch_stats")
# Depth of the search for variables below the top of a tree: {"state": {"model": {"params": …}}}.
MAX_DEPTH = 3
# Modules inside each other, in a tree that is put together from parts.
MAX_NESTING = 100
# A msgpack map begins with one of these bytes: fixmap, map 16, map 32.
_MAP_BYTES = (*range(0x80, 0x90), 0xDE, 0xDF)
# A pickle begins with its protocol. As msgpack the first byte would be an empty map, after which nothing may come.
_PICKLED, _PROTOCOLS = b"\x80", (b"\x02", b"\x03", b"\x04", b"\x05")
# While a file is decoded, both its content and its arrays are in memory.
_COPIES = 2

Key: TypeAlias = tuple[str, ...]  # path of an array in a tree
Place: TypeAlias = tuple[str, Variables]  # path in a tree, and the node there


@dataclass(frozen=True)
class ForeignCheckpoint:
    """The content of another program's checkpoint.

    Attributes:
        path: the file or directory.
        format: the format in words.
        step: the step of the save that was read; None if the format has no steps.
        tree: nested dicts of host arrays; a file may hold other values too.
    """

    path: Path
    format: str
    step: int | None
    tree: Variables

    @property
    def description(self) -> str:
        """The format and step in words, such as "an Orbax directory, step 300"."""
        return self.format if self.step is None else f"{self.format}, step {self.step}"


def is_foreign(path: Path) -> bool:
    """True if another program wrote ``path``, judging by ``config.json``.

    An unreadable ``config.json`` counts as bncli's own, because bncli's reader then reports the damage.
    """
    if not (path / CONFIG).is_file():
        return path.exists()
    try:
        json.loads(read_regular(path / CONFIG, limit=MAX_CONFIG))
    except (OSError, RecursionError, ValueError):
        return False
    return not is_checkpoint(path)


def read_foreign(path: Path, *, step: str = "best") -> ForeignCheckpoint:
    """The checkpoint at ``path``: an Orbax directory, or a file of Flax, safetensors or Equinox.

    Args:
        path: a file or a directory.
        step: "best" or "last" for the newest complete save, or the number of a step.

    Raises:
        CheckpointError: there is nothing, nothing that bncli reads, no such step, or a damaged file; the message names
            it.
    """
    try:
        if path.is_dir():
            return _read_orbax(path, step)
        if is_equinox(path):
            return _read_whole(path, step, EQUINOX, read_records)
        if is_safetensors(path):
            return _read_whole(path, step, SAFETENSORS, read_tree)
        return _read_msgpack(path, step)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file or directory", remedy=READABLE) from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}", remedy=READABLE) from error


def find_variables(foreign: ForeignCheckpoint, collections: Iterable[str] = COLLECTIONS) -> tuple[str, Variables]:
    """(path, {"params": …, "batch_stats": …}): the variables nearest to the top of the tree.

    Usually both lie side by side, at the top or in a training state. If they never do, as in a checkpoint with one item
    for each, the nearest of each is taken.

    Args:
        foreign: the content of the checkpoint.
        collections: the network's; one without BN has no ``batch_stats``.

    Raises:
        CheckpointError: one of them is missing, or several are equally near.
    """
    names = tuple(collections)
    together = _nearest(foreign.tree, names)
    if together:
        place, node = _only(foreign, names, together)
        return place, {name: node[name] for name in names}
    return "", {name: _only(foreign, (name,), _nearest(foreign.tree, (name,)))[1][name] for name in names}


def find_saved(foreign: ForeignCheckpoint, places: Iterable[Key]) -> tuple[str, Variables] | None:
    """(path, tree): the node nearest to the top that has all these places' first names; None if there is none.

    If the arrays are parted by their kinds, ``{"params": …, "batch_stats": …}``, the parts are put together.

    Args:
        foreign: the content of the checkpoint.
        places: of a network's arrays as the users of its framework save them.

    Raises:
        CheckpointError: several nodes are equally near.
    """
    places = tuple(places)
    names = tuple({place[0] for place in places})
    levels = _levels(foreign.tree)

    def first_of(kind: Callable[[Place], Place | None]) -> Place | None:
        nearest = next((found for level in levels if (found := list(filter(None, map(kind, level))))), None)
        return None if nearest is None else _only(foreign, names[:1], nearest)

    return (
        first_of(lambda place: place if all(_has(place[1], wanted) for wanted in places) else None)
        or first_of(lambda place: _put_together(place, places))
        or first_of(lambda place: place if all(name in place[1] for name in names) else None)
    )


def _levels(tree: Variables) -> list[list[Place]]:
    """The nodes by their depth, down to the deepest that is searched."""
    levels: list[list[Place]] = [[("", tree)]]
    for _ in range(MAX_DEPTH - 1):
        levels.append([child for path, node in levels[-1] for child in _children(path, node)])
    return levels


def _put_together(place: Place, wanted: Sequence[Key]) -> Place | None:
    """The node's parts as one tree; None if that lacks something, or two parts have an array in the same place."""
    path, node = place
    names = {key[0] for key in wanted}
    parts = [child for _, child in _children(path, node) if not names.isdisjoint(child)]
    try:
        merged: Variables = functools.reduce(_merged, parts, {})
    except ValueError:
        return None
    return (path, merged) if all(_has(merged, key) for key in wanted) else None


def _merged(one: Variables, other: Variables, depth: int = 0) -> Variables:
    """Both trees as one.

    Raises:
        ValueError: both have an array in the same place, or lie deeper than a network does.
    """
    merged = dict(one)
    for name, child in other.items():
        mine = merged.get(name, {})
        if name in merged and not (isinstance(mine, Mapping) and isinstance(child, Mapping) and depth < MAX_NESTING):
            raise ValueError(f"two arrays at {name}")
        merged[name] = _merged(mine, child, depth + 1) if name in merged else child
    return merged


def _has(tree: Variables, place: Key) -> bool:
    """True if the tree has something at this place."""
    node: JSON = tree
    for name in place:
        if not isinstance(node, Mapping) or name not in node:
            return False
        node = node[name]
    return True


def _read_orbax(directory: Path, step: str) -> ForeignCheckpoint:
    steps = find_steps(directory)
    if not steps:
        _refuse_step(directory, step)
        return ForeignCheckpoint(directory, "an Orbax directory", None, read_items(directory))
    number = max(steps) if step in ("best", "last") else int(step) if step.isdecimal() else -1
    if number not in steps:
        raise CheckpointError(
            f"{directory} has no step {step!r}", remedy=f"It has {', '.join(str(known) for known in steps)}."
        )
    return ForeignCheckpoint(directory, "an Orbax directory", number, read_items(steps[number]))


def _read_whole(path: Path, step: str, words: str, read: Callable[[Path], Variables]) -> ForeignCheckpoint:
    _refuse_step(path, step)
    _require_memory(path)
    return ForeignCheckpoint(path, words, None, read(path))


def remedy_of(path: Path) -> str:
    """The way to use a file of another framework, by its suffix; else the formats that bncli reads."""
    return ELSEWHERE.get(path.suffix.lower(), READABLE).format(path=shlex.quote(str(path)), name=repr(str(path)))


def _unreadable(path: Path) -> str:
    """The complaint about a file that is no checkpoint of JAX; `inspect-stats` may still read its layers."""
    if path.suffix.lower() in ELSEWHERE:
        return f"{path} holds no network that bncli can run"
    return f"{path} is no checkpoint that bncli reads"


def _read_msgpack(path: Path, step: str) -> ForeignCheckpoint:
    with open_regular(path) as file:
        start = file.read(2)
        if _is_pickle(start) and ELSEWHERE.get(path.suffix.lower(), _PICKLE) == _PICKLE:
            raise CheckpointError(f"{path} is a pickle, and opening one can run any program", remedy=_PICKLE.format())
        if not start or start[0] not in _MAP_BYTES:
            raise CheckpointError(_unreadable(path), remedy=remedy_of(path))
        _refuse_step(path, step)
        _require_memory(path)
        content = start + file.read()
    try:
        tree = serialization.msgpack_restore(content)
    except Exception as error:  # the errors of msgpack, NumPy and Flax for other bytes
        if path.suffix.lower() in ELSEWHERE:
            raise CheckpointError(_unreadable(path), remedy=remedy_of(path)) from error
        raise CheckpointError(
            f"{path} is damaged, or not a Flax msgpack file: {type(error).__name__}: {str(error)[:300]}",
            remedy=f"Restore it from a copy. {READABLE}",
        ) from error
    if not isinstance(tree, Mapping):
        raise CheckpointError(f"{path} holds a single array, not a tree", remedy=remedy_of(path))
    return ForeignCheckpoint(path, "a Flax msgpack file", None, tree)


def _is_pickle(start: bytes) -> bool:
    return start[:1] == _PICKLED and start[1:] in _PROTOCOLS


def _refuse_step(path: Path, step: str) -> None:
    if step not in ("best", "last"):
        raise CheckpointError(f"{path} is one save and has no step {step!r}", remedy="Leave out --step.")


def _require_memory(path: Path) -> None:
    needed, available = _COPIES * path.stat().st_size, available_memory()
    if available is not None and needed > available:
        raise CheckpointError(
            f"{path}: {format_bytes(needed)} of memory needed to read it, {format_bytes(available)} available",
            remedy="Use a machine with more memory, or save params and batch_stats without the optimizer.",
        )


def _nearest(tree: Variables, names: Sequence[str]) -> list[Place]:
    """The nodes that have a tree under each of these names, at the smallest depth that has any."""
    level: list[Place] = [("", tree)]
    for _ in range(MAX_DEPTH):
        found = [(path, node) for path, node in level if all(_holds(node, name) for name in names)]
        if found:
            return found
        level = [child for path, node in level for child in _children(path, node)]
    return []


def _holds(node: Variables, name: str) -> bool:
    """True if ``node`` has a tree under this name that is not empty."""
    return isinstance(node.get(name), Mapping) and len(node[name]) > 0


def _children(path: str, node: Variables) -> Iterator[Place]:
    for key, child in node.items():
        if isinstance(child, Mapping):
            yield f"{path}/{key}" if path else str(key), child


def _only(foreign: ForeignCheckpoint, names: Sequence[str], places: list[Place]) -> Place:
    if not places:
        raise _missing(foreign, names[0])
    if len(places) > 1:
        raise CheckpointError(
            f"{foreign.path} holds {' and '.join(names)} in several places: {', '.join(path for path, _ in places)}",
            remedy='Save the variables to use by themselves, as {"params": …, "batch_stats": …}.',
        )
    return places[0]


def _missing(foreign: ForeignCheckpoint, name: str) -> CheckpointError:
    if name == "batch_stats":
        return CheckpointError(
            f"{foreign.path} holds params but no batch_stats: without BN's running statistics there is nothing to fold",
            remedy='Save both: {"params": state.params, "batch_stats": state.batch_stats}.',
        )
    if foreign.format == EQUINOX:
        return CheckpointError(
            f"{foreign.path} is a file of Equinox, and the model is not of Equinox",
            remedy="Name the model that was saved.",
        )
    keys = ", ".join(str(key) for key in list(foreign.tree)[:8])
    save = 'Save the variables of a linen module, {"params": …, "batch_stats": …}, or a training state with both. '
    if foreign.format == SAFETENSORS:
        save = f"{remedy_of(foreign.path)} Arrays of a linen module need names such as params.Conv_0.kernel. "
    return CheckpointError(
        f"{foreign.path} is {foreign.description}, and holds no params: its keys are {keys or '(none)'}",
        remedy=f"{save}A state of NNX is read with --model file.py:Class and --input-shape H,W,C.",
    )
