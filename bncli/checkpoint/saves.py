"""The saves in a checkpoint directory: write them whole, verify every file, restore them."""

from __future__ import annotations

import gc
import shutil
import traceback
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from bncli.checkpoint.directory import FREE_SPACE_AND_RESUME, STEPS, TEMPORARY, write_atomically
from bncli.checkpoint.manifest import digests_below, first_difference, manifest_text, parse_manifest
from bncli.config.json_types import JSON, Document
from bncli.errors import BncliWarning, CheckpointError
from bncli.frameworks.linen import Variables
from bncli.process.files import read_regular

Tree: TypeAlias = Variables  # a tree of arrays

# A training may remove a save while it is read; the number of times to look for another one.
_ATTEMPTS = 20
# Suffix of the directory with a save's population statistics.
PRECISE = ".precise"


def save(
    out: Path,
    step: int,
    *,
    variables: Tree,
    optimizer: Tree,
    progress: Mapping[str, JSON],
    remedy: str = FREE_SPACE_AND_RESUME,
) -> None:
    """Save one step, whole or not at all, and then its manifest.

    Args:
        out: the checkpoint directory.
        step: optimizer steps done; names the save.
        variables: params and batch_stats.
        optimizer: the rest of the training state.
        progress: epochs done, best so far, history.
        remedy: of an error.

    Raises:
        CheckpointError: the save could not be written; earlier saves are untouched.
    """
    _save(out, step, variables=variables, optimizer=optimizer, progress=progress, remedy=remedy)


def _save(
    out: Path,
    step: int | str,
    *,
    variables: Tree,
    optimizer: Tree | None = None,
    progress: Mapping[str, JSON] | None = None,
    remedy: str = FREE_SPACE_AND_RESUME,
) -> None:
    """Write the items that are not None."""
    from bncli.checkpoint import orbax_io

    target = _step_path(out, step)
    try:
        _remove(out, _precise(step))  # of an earlier save of this step
        _remove(out, step)
        orbax_io.write(target, variables=variables, optimizer=optimizer, progress=progress)
        write_atomically(_manifest_path(out, step), manifest_text(digests_below(target)).encode())
    except (OSError, ValueError) as error:  # tensorstore raises a ValueError if the disk is full
        with suppress(OSError):
            _remove(out, step)
        _drop_leftovers(error)
        raise CheckpointError(
            f"cannot save {target}: {getattr(error, 'strerror', None) or _reason(error)}", remedy=remedy
        ) from error


def _reason(error: Exception) -> str:
    """The system's message in an error of tensorstore: the last part before tensorstore's own settings."""
    return str(error).partition(" [")[0].rpartition(": ")[2]


def _drop_leftovers(error: BaseException) -> None:
    """Drop the coroutines that Orbax never awaited; otherwise Python warns about each, at the latest when it exits."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # "was never awaited"
        cause: BaseException | None = error
        while cause is not None:
            traceback.clear_frames(cause.__traceback__)
            cause = cause.__cause__ or cause.__context__
        gc.collect()


def load_variables(directory: Path, step: int) -> Variables:
    """The variables of a save as host arrays, in the tree that was saved.

    Raises:
        CheckpointError: the save is damaged.
    """
    variables = _load_arrays(directory, step)
    if has_precise_statistics(directory, step):
        try:
            variables |= _load_arrays(directory, _precise(step))
        except CheckpointError as error:
            message = f"{error.message}; the running averages of step {step} are read instead"
            warnings.warn(message, BncliWarning, stacklevel=3)
    return variables


def save_precise_statistics(out: Path, step: int, batch_stats: Tree) -> None:
    """Write population statistics beside a save: every reader uses them, except a resumed training.

    Raises:
        CheckpointError: they could not be written; the save is untouched.
    """
    _save(out, _precise(step), variables={"batch_stats": batch_stats})


def has_precise_statistics(directory: Path, step: int) -> bool:
    """True if there are population statistics beside a save."""
    name = _precise(step)
    return _manifest_path(directory, name).is_file() and _step_path(directory, name).is_dir()


def _precise(step: int | str) -> str:
    return f"{step}{PRECISE}"


def _load_arrays(directory: Path, step: int | str) -> dict[str, Tree]:
    from bncli.checkpoint import orbax_io, orbax_layout

    verify(directory, step)
    path = _step_path(directory, step)
    orbax_layout.require_fitting(path / orbax_io.VARIABLES)
    try:
        return orbax_io.read_variables(path)
    except Exception as error:  # although its manifest fits: whatever Orbax raises for other metadata
        raise _unreadable(path, "cannot be restored", error) from error


def _unreadable(path: Path, what: str, error: Exception) -> CheckpointError:
    reason = " ".join(str(error).split())[:300]
    return CheckpointError(f"{path} {what}: {type(error).__name__}: {reason}", remedy="Restore it from a copy.")


def restore_training(out: Path, step: int, *, variables: Tree, optimizer: Tree) -> tuple[Tree, Tree]:
    """(variables, optimizer) of a save, restored into the shapes, dtypes and shardings of the given trees.

    Raises:
        CheckpointError: the save is damaged, or belongs to another network or optimizer.
    """
    from bncli.checkpoint import orbax_io

    verify(out, step)
    try:
        return orbax_io.read_training(_step_path(out, step), variables=variables, optimizer=optimizer)
    except Exception as error:  # whatever Orbax raises for another tree, or for damage under a manifest that fits
        raise CheckpointError(
            f"{_step_path(out, step)} does not fit this network and optimizer: {error}",
            remedy="Resume with the options that the run was started with, or train into another --out.",
        ) from error


def read_progress(directory: Path, step: int) -> Document:
    """The progress document of a save.

    Raises:
        CheckpointError: the save is damaged.
    """
    from bncli.checkpoint import orbax_io

    verify(directory, step)
    path = _step_path(directory, step)
    try:
        return orbax_io.read_progress(path)
    except Exception as error:  # although its manifest fits: whatever Orbax raises for another file
        raise _unreadable(path, "holds no progress of a run", error) from error


def complete_steps(directory: Path) -> list[int]:
    """The steps whose save is complete, ascending.

    Raises:
        CheckpointError: the folder of the saves cannot be listed.
    """
    try:
        found = list((directory / STEPS).iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CheckpointError(
            f"cannot read {directory / STEPS}: {error.strerror or error}", remedy="Make it a readable directory."
        ) from error
    manifests = [path for path in found if path.suffix == ".sha256"]
    return sorted(int(path.stem) for path in manifests if _is_step(path.stem) and path.with_suffix("").is_dir())


def _is_step(name: str) -> bool:
    """True if the name is a number as ``save`` writes it: not "007", and not "²", which is a digit too."""
    return name.isdecimal() and str(int(name)) == name


def find_step(directory: Path, step: str) -> int:
    """The number of step "best", "last" or "N".

    If the best or the last save is damaged, the newest intact save replaces it, with a BncliWarning.

    Raises:
        CheckpointError: the directory has no such save, or no intact one.
    """
    steps = complete_steps(directory)
    if not steps:
        raise CheckpointError(
            f"{directory} holds no complete save", remedy="The training ended before its first save: train again."
        )
    if step in ("best", "last"):
        return _find_good_step(directory, best=step == "best")
    if step.isdecimal() and int(step) in steps:
        return int(step)
    raise CheckpointError(
        f"{directory} has no step {step!r}", remedy=f"It has best, last, {', '.join(str(number) for number in steps)}."
    )


def _find_good_step(directory: Path, *, best: bool) -> int:
    damaged: dict[int, CheckpointError] = {}
    found = newest = _newest_good(directory, damaged)
    for _ in range(_ATTEMPTS if best else 0):
        try:
            document = read_progress(directory, newest).get("best")
        except CheckpointError:
            if newest in complete_steps(directory):
                raise
            found = newest = _newest_good(directory, damaged)  # a training has removed it in the meantime
            continue
        wanted = document.get("step") if isinstance(document, Mapping) else None
        if wanted in complete_steps(directory) and wanted not in damaged and _is_good(directory, wanted, damaged):
            found = wanted
        break
    for error in damaged.values():
        warnings.warn(f"{error.message}; step {found} is read instead", BncliWarning, stacklevel=3)
    return found


def _newest_good(directory: Path, damaged: dict[int, CheckpointError]) -> int:
    for _ in range(_ATTEMPTS):
        for number in reversed(complete_steps(directory)):
            if number not in damaged and _is_good(directory, number, damaged):
                return number
        if damaged:
            break
    first = next(iter(damaged.values()), None)
    if first is None:
        raise CheckpointError(f"{directory}: its saves are removed as they are read", remedy="Try again.")
    raise CheckpointError(f"{first.message}; no other save is intact", remedy="Restore one from a copy.")


def _is_good(directory: Path, step: int, damaged: dict[int, CheckpointError]) -> bool:
    """True if a save is intact; a damaged one is noted, but not one that a training has removed in the meantime."""
    try:
        verify(directory, step)
    except (CheckpointError, OSError) as error:
        if step in complete_steps(directory):
            damaged[step] = error if isinstance(error, CheckpointError) else CheckpointError(str(error))
        return False
    return True


def read_save(directory: Path, step: str) -> tuple[int, Variables, Document]:
    """(number, variables, progress) of step "best", "last" or "N"; see ``find_step``.

    If a running training removes the save in the meantime, the search starts again.

    Raises:
        CheckpointError: there is no such save, or it is damaged.
    """
    for _ in range(_ATTEMPTS - 1):
        number = find_step(directory, step)
        try:
            return number, load_variables(directory, number), read_progress(directory, number)
        except Exception:
            if number in complete_steps(directory):
                raise
    raise CheckpointError(f"{directory}: its saves are removed as they are read", remedy="Try again.")


def prune(out: Path, *, keep: int, best_step: int | None) -> None:
    """Remove all saves except the last ``keep`` and the best."""
    for step in complete_steps(out)[:-keep]:
        if step != best_step:
            _remove(out, _precise(step))  # first: it is useless alone
            _remove(out, step)


def drop_after(out: Path, step: int) -> None:
    """Remove the saves after ``step``; a run that continues from there would otherwise prune its own new saves."""
    for later in complete_steps(out):
        if later > step:
            _remove(out, _precise(later))
            _remove(out, later)


def _remove(out: Path, step: int | str) -> None:
    """Remove a save, and the leftovers of an attempt to write it."""
    _manifest_path(out, step).unlink(missing_ok=True)  # first: without it the save does not count
    for path in (_step_path(out, step), *(out / STEPS).glob(f"{step}.orbax-checkpoint-tmp*")):
        if path.exists():
            shutil.rmtree(path)


def sweep(out: Path) -> None:
    """Remove the leftovers of interrupted saves; requires the lock of the directory."""
    (out / STEPS).mkdir(exist_ok=True)
    complete = {path.stem for path in (out / STEPS).glob("*.sha256")}
    for name in [name for name in complete if name.endswith(PRECISE) and name.removesuffix(PRECISE) not in complete]:
        _remove(out, name)
        complete.remove(name)
    for path in (out / STEPS).iterdir():
        if path.is_dir() and path.name not in complete:
            shutil.rmtree(path, ignore_errors=True)
        elif path.name.endswith(TEMPORARY):
            path.unlink(missing_ok=True)


def verify(directory: Path, step: int | str) -> None:
    """Compare each file of a save with its manifest.

    Raises:
        CheckpointError: a file is missing, added or changed; the message names it.
    """
    target = _step_path(directory, step)
    manifest = _manifest_path(directory, step)
    others = [str(other) for other in complete_steps(directory) if str(other) != str(step).removesuffix(PRECISE)]
    remedy = f"Read another save: --step {others[-1]}." if others else "Restore it from a copy."
    try:
        written, actual = read_regular(manifest), digests_below(target)
    except FileNotFoundError:
        raise CheckpointError(f"{target} was removed while it was read", remedy="Try again.") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {error.filename}: {error.strerror}", remedy=remedy) from error
    expected = parse_manifest(written)
    difference = first_difference(expected, actual, expected.keys() | actual.keys())
    if difference is None and written == manifest_text(actual).encode():
        return
    if not manifest.is_file():
        raise CheckpointError(f"{target} was removed while it was read", remedy="Try again.")
    if difference is None:  # the same lines in another spelling
        raise CheckpointError(f"{manifest} is damaged: it is not as bncli writes it", remedy=remedy)
    raise CheckpointError(f"{target / difference}: its SHA-256 is not the one in {manifest.name}", remedy=remedy)


def _step_path(directory: Path, step: int | str) -> Path:
    return directory / STEPS / str(step)


def _manifest_path(directory: Path, step: int | str) -> Path:
    return directory / STEPS / f"{step}.sha256"
