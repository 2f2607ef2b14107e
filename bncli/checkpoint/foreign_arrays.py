"""Checkpoints that bncli did not write: a tree of host arrays, and the BN network's variables in it.

Which format it is says the content, not the name. Nothing in a file is ever unpickled or run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flax import serialization

from bncli.checkpoint.directory import CONFIG, is_checkpoint
from bncli.checkpoint.orbax_layout import find_steps, read_items
from bncli.errors import CheckpointError
from bncli.frameworks.linen import Variables
from bncli.process.memory import available_memory, format_bytes

READABLE = "bncli reads its own directories, Orbax directories, and files written by flax.serialization.to_bytes."

COLLECTIONS = ("params", "batch_stats")
# How far below the top of a tree variables are looked for: {"state": {"model": {"params": …}}}.
MAX_DEPTH = 3
# A msgpack map begins with one of these bytes: fixmap, map 16, map 32.
_MAP_BYTES = (*range(0x80, 0x90), 0xDE, 0xDF)
# While a file is decoded, its arrays are in memory beside it.
_COPIES = 2

Place = tuple[str, Mapping[str, Any]]  # path in a tree, and what is there


@dataclass(frozen=True)
class ForeignCheckpoint:
    """What lies in a checkpoint of another program.

    Attributes:
        path: where it was read.
        format: in words.
        step: of the save that was read; None where the format has no steps.
        tree: nested dicts of host arrays; anything else where the file holds it.
    """

    path: Path
    format: str
    step: int | None
    tree: Mapping[str, Any]

    @property
    def description(self) -> str:
        """Such as "an Orbax directory, step 300"."""
        return self.format if self.step is None else f"{self.format}, step {self.step}"


def is_foreign(path: Path) -> bool:
    """Whether another program wrote what lies at ``path``, as far as a look at ``config.json`` tells.

    One that cannot be read counts as bncli's, whose reader says what is wrong with it.
    """
    if not (path / CONFIG).is_file():
        return path.exists()
    try:
        json.loads((path / CONFIG).read_bytes())
    except (OSError, RecursionError, ValueError):
        return False
    return not is_checkpoint(path)


def read_foreign(path: Path, *, step: str = "best") -> ForeignCheckpoint:
    """The checkpoint at ``path``: an Orbax directory, or a Flax msgpack file.

    Args:
        path: a file or a directory.
        step: "best" or "last" for the newest complete save, or a step's number.

    Raises:
        CheckpointError: nothing there, nothing that bncli reads, no such step, or a damaged file; names it.
    """
    try:
        if path.is_dir():
            return _read_orbax(path, step)
        return _read_msgpack(path, step)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file or directory", remedy=READABLE) from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}", remedy=READABLE) from error


def find_variables(foreign: ForeignCheckpoint) -> tuple[str, Variables]:
    """(place, {"params": …, "batch_stats": …}): the variables nearest to the top of the tree.

    Both stand side by side as a rule, at the top or in a training state. Where they never do, as in a checkpoint with
    one item for each, the nearest of each is taken.

    Raises:
        CheckpointError: one of them is missing, or there are several equally near.
    """
    together = _nearest(foreign.tree, COLLECTIONS)
    if together:
        place, node = _only(foreign, COLLECTIONS, together)
        return place, {name: node[name] for name in COLLECTIONS}
    return "", {name: _only(foreign, (name,), _nearest(foreign.tree, (name,)))[1][name] for name in COLLECTIONS}


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


def _read_msgpack(path: Path, step: str) -> ForeignCheckpoint:
    with path.open("rb") as file:
        start = file.read(1)
        if not start or start[0] not in _MAP_BYTES:
            raise CheckpointError(f"{path} is no checkpoint that bncli reads", remedy=READABLE)
        _refuse_step(path, step)
        _require_memory(path)
        content = start + file.read()
    try:
        tree = serialization.msgpack_restore(content)
    except Exception as error:  # the errors of msgpack, NumPy and Flax for bytes that are no such tree
        raise CheckpointError(
            f"{path} is damaged, or no Flax msgpack file: {type(error).__name__}: {str(error)[:300]}",
            remedy=f"Restore it from a copy. {READABLE}",
        ) from error
    if not isinstance(tree, Mapping):
        raise CheckpointError(f"{path} holds a single array and no tree", remedy=READABLE)
    return ForeignCheckpoint(path, "a Flax msgpack file", None, tree)


def _refuse_step(path: Path, step: str) -> None:
    if step not in ("best", "last"):
        raise CheckpointError(f"{path} is one save and has no step {step!r}", remedy="Leave --step out.")


def _require_memory(path: Path) -> None:
    needed, available = _COPIES * path.stat().st_size, available_memory()
    if available is not None and needed > available:
        raise CheckpointError(
            f"{path}: {format_bytes(needed)} of memory needed to read it, {format_bytes(available)} available",
            remedy="Use a machine with more memory, or save params and batch_stats without the optimizer.",
        )


def _nearest(tree: Mapping[str, Any], names: Sequence[str]) -> list[Place]:
    """The nodes that have a tree under each of these names, of those at the least depth that has any."""
    level: list[Place] = [("", tree)]
    for _ in range(MAX_DEPTH):
        found = [(path, node) for path, node in level if all(_holds(node, name) for name in names)]
        if found:
            return found
        level = [child for path, node in level for child in _children(path, node)]
    return []


def _holds(node: Mapping[str, Any], name: str) -> bool:
    """Whether ``node`` has a tree under this name with something in it."""
    return isinstance(node.get(name), Mapping) and len(node[name]) > 0


def _children(path: str, node: Mapping[str, Any]) -> Iterator[Place]:
    for key, child in node.items():
        if isinstance(child, Mapping):
            yield f"{path}/{key}" if path else str(key), child


def _only(foreign: ForeignCheckpoint, names: Sequence[str], places: list[Place]) -> Place:
    if not places:
        raise _missing(foreign, names[0])
    if len(places) > 1:
        raise CheckpointError(
            f"{foreign.path} holds {' and '.join(names)} in several places: {', '.join(path for path, _ in places)}",
            remedy='Save the one to use by itself, as {"params": …, "batch_stats": …}.',
        )
    return places[0]


def _missing(foreign: ForeignCheckpoint, name: str) -> CheckpointError:
    if name == "batch_stats":
        return CheckpointError(
            f"{foreign.path} holds params and no batch_stats: without BN's running statistics there is nothing to fold",
            remedy='Save both: {"params": state.params, "batch_stats": state.batch_stats}.',
        )
    keys = ", ".join(str(key) for key in list(foreign.tree)[:8])
    return CheckpointError(
        f"{foreign.path} is {foreign.description}, and holds no params: its keys are {keys or '(none)'}",
        remedy='Save the variables of a linen module, {"params": …, "batch_stats": …}, or a training state with both.',
    )
