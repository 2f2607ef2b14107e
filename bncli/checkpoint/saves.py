"""The saves in a checkpoint directory: written whole, checked file by file, restored. The only importer of orbax."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from bncli.checkpoint.directory import STEPS, write_atomically
from bncli.errors import CheckpointError
from bncli.models import Variables

Tree = Any  # a pytree of arrays


def save(out: Path, step: int, *, variables: Tree, optimizer: Tree, progress: Mapping[str, Any]) -> None:
    """Saves one step, whole or not at all, and then its manifest.

    Args:
        out: the checkpoint directory.
        step: optimizer steps done; names the save.
        variables: params and batch_stats.
        optimizer: the rest of the training state.
        progress: JSON: epochs done, best so far, history.

    Raises:
        CheckpointError: it could not be written; earlier saves are untouched.
    """
    _save(out, step, variables=variables, optimizer=optimizer, progress=progress)


def _save(
    out: Path,
    step: int | str,
    *,
    variables: Tree,
    optimizer: Tree | None = None,
    progress: Mapping[str, Any] | None = None,
) -> None:
    """Writes the items that are given."""
    target = _step_path(out, step)
    if target.exists():
        _manifest_path(out, step).unlink(missing_ok=True)  # first: without it the save does not count
        shutil.rmtree(target)
    items: dict[str, Any] = {"variables": ocp.args.PyTreeSave(variables)}
    if optimizer is not None:
        items["optimizer"] = ocp.args.PyTreeSave(optimizer)
    if progress is not None:
        items["progress"] = ocp.args.JsonSave(dict(progress))
    try:
        with _checkpointer() as checkpointer:
            checkpointer.save(target.absolute(), args=ocp.args.Composite(**items))
        write_atomically(_manifest_path(out, step), _manifest(target).encode())
    except (OSError, ValueError) as error:  # a ValueError is how tensorstore says that the disk is full
        raise CheckpointError(
            f"cannot save {target}: {getattr(error, 'strerror', None) or error}",
            remedy="Free some space, then go on with --resume.",
        ) from error


def load_variables(directory: Path, step: int) -> Variables:
    """The variables of a save as host arrays, in the tree that was saved.

    Raises:
        CheckpointError: the save is damaged.
    """
    variables = _load_arrays(directory, step)
    if has_precise_statistics(directory, step):
        variables |= _load_arrays(directory, _precise(step))
    return variables


def save_precise_statistics(out: Path, step: int, batch_stats: Tree) -> None:
    """Puts population statistics beside a save: every reader takes them, and a resumed training does not.

    Raises:
        CheckpointError: they could not be written; the save is untouched.
    """
    _save(out, _precise(step), variables={"batch_stats": batch_stats})


def has_precise_statistics(directory: Path, step: int) -> bool:
    """Whether population statistics lie beside a save."""
    name = _precise(step)
    return _manifest_path(directory, name).is_file() and _step_path(directory, name).is_dir()


def _precise(step: int) -> str:
    return f"{step}.precise"


def _load_arrays(directory: Path, step: int | str) -> dict[str, Any]:
    verify(directory, step)
    path = _step_path(directory, step).absolute()
    with _checkpointer() as checkpointer:
        tree = checkpointer.metadata(path).item_metadata["variables"].tree
        restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        restored = checkpointer.restore(
            path, args=ocp.args.Composite(variables=ocp.args.PyTreeRestore(restore_args=restore_args))
        )
    return dict(restored["variables"])


def restore_training(out: Path, step: int, *, variables: Tree, optimizer: Tree) -> tuple[Tree, Tree]:
    """(variables, optimizer) of a save, restored into the shapes, dtypes and shardings of the given trees.

    Raises:
        CheckpointError: the save is damaged, or of another network or optimizer.
    """
    verify(out, step)
    abstract = {"variables": _abstract(variables), "optimizer": _abstract(optimizer)}
    try:
        with _checkpointer() as checkpointer:
            restored = checkpointer.restore(
                _step_path(out, step).absolute(),
                args=ocp.args.Composite(
                    **{
                        name: ocp.args.PyTreeRestore(tree, ocp.checkpoint_utils.construct_restore_args(tree))
                        for name, tree in abstract.items()
                    }
                ),
            )
    except (ValueError, KeyError, OSError) as error:
        raise CheckpointError(
            f"{_step_path(out, step)} does not fit this network and optimizer: {error}",
            remedy="Resume with the options the run was started with, or train into another --out.",
        ) from error
    return restored["variables"], restored["optimizer"]


def read_progress(directory: Path, step: int) -> dict[str, Any]:
    """The progress document of a save.

    Raises:
        CheckpointError: the save is damaged.
    """
    verify(directory, step)
    path = _step_path(directory, step)
    try:
        with _checkpointer() as checkpointer:
            restored = checkpointer.restore(path.absolute(), args=ocp.args.Composite(progress=ocp.args.JsonRestore()))
        return dict(restored["progress"])
    except (KeyError, OSError, RecursionError, TypeError, ValueError) as error:  # its manifest is right all the same
        raise CheckpointError(
            f"{path} holds no progress of a run: {error}", remedy="Restore it from a copy."
        ) from error


def complete_steps(directory: Path) -> list[int]:
    """The steps whose save is complete, ascending."""
    manifests = (directory / STEPS).glob("*.sha256")
    return sorted(int(path.stem) for path in manifests if _is_step(path.stem) and path.with_suffix("").is_dir())


def _is_step(name: str) -> bool:
    """Whether it is a number as ``save`` writes it: not "007", and not "²", which is a digit too."""
    return name.isdecimal() and str(int(name)) == name


def find_step(directory: Path, step: str) -> int:
    """The number of step "best", "last" or "N".

    Raises:
        CheckpointError: the directory has no such save.
    """
    steps = complete_steps(directory)
    if not steps:
        raise CheckpointError(
            f"{directory} holds no complete save", remedy="The training ended before its first save: train again."
        )
    if step == "last":
        return steps[-1]
    if step == "best":
        best = read_progress(directory, steps[-1]).get("best")
        best_step = best.get("step") if isinstance(best, Mapping) else None
        return best_step if best_step in steps else steps[-1]
    if step.isdecimal() and int(step) in steps:
        return int(step)
    raise CheckpointError(
        f"{directory} has no step {step!r}", remedy=f"It has best, last, {', '.join(str(number) for number in steps)}."
    )


def prune(out: Path, *, keep: int, best_step: int | None) -> None:
    """Removes all saves but the last ``keep`` and the best."""
    for step in complete_steps(out)[:-keep]:
        if step != best_step:
            for name in (step, _precise(step)):
                _manifest_path(out, name).unlink(missing_ok=True)  # first: without it the save does not count
                shutil.rmtree(_step_path(out, name), ignore_errors=name != step)


def verify(directory: Path, step: int | str) -> None:
    """Compares each file of a save with its manifest.

    Raises:
        CheckpointError: a file is missing, added or changed; names it.
    """
    target = _step_path(directory, step)
    manifest = _manifest_path(directory, step)
    others = [str(other) for other in complete_steps(directory) if other != step]
    remedy = f"Read another save: --step {others[-1]}." if others else "Restore it from a copy."
    try:
        written, found = manifest.read_bytes(), _manifest(target).encode()
    except OSError as error:
        raise CheckpointError(f"cannot read {error.filename}: {error.strerror}", remedy=remedy) from error
    expected, actual = _parsed(written), _parsed(found)
    for name in sorted(expected.keys() | actual.keys()):
        if expected.get(name) != actual.get(name):
            what = (
                "is missing" if name not in actual else "is not of this save" if name not in expected else "is damaged"
            )
            raise CheckpointError(
                f"{target / name} {what}: its SHA-256 is not that of {manifest.name}",
                remedy=remedy,
            )
    if written != found:  # the same lines, written or separated in another way
        raise CheckpointError(f"{manifest} is damaged: it is not as bncli writes it", remedy=remedy)


def _checkpointer() -> ocp.Checkpointer:
    handler = ocp.CompositeCheckpointHandler(
        variables=ocp.PyTreeCheckpointHandler(),
        optimizer=ocp.PyTreeCheckpointHandler(),
        progress=ocp.JsonCheckpointHandler(),
    )
    return ocp.Checkpointer(handler)


def _abstract(tree: Tree) -> Tree:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree)


def _step_path(directory: Path, step: int | str) -> Path:
    return directory / STEPS / str(step)


def _manifest_path(directory: Path, step: int | str) -> Path:
    return directory / STEPS / f"{step}.sha256"


def _manifest(target: Path) -> str:
    """One line a file, as ``sha256sum`` writes it, paths relative to ``target``."""
    files = sorted(path for path in target.rglob("*") if path.is_file())
    return "".join(f"{_file_sha256(path)}  {path.relative_to(target).as_posix()}\n" for path in files)


def _parsed(manifest: bytes) -> dict[str, str]:
    """File name -> SHA-256; a line that is damaged makes a file that no save has."""
    lines = manifest.decode(errors="replace").splitlines()
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
