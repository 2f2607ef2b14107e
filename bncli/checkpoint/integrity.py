"""Verification of a checkpoint directory: every file that a reader relies on is as it was written."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bncli.checkpoint.directory import CONFIG, LAYERS, METRICS, STEPS, read_config, read_layers
from bncli.checkpoint.folded import verify_files
from bncli.checkpoint.manifest import FILES_MANIFEST, parse_manifest
from bncli.checkpoint.saves import PRECISE, complete_steps, find_step, has_precise_statistics, verify
from bncli.errors import BncliError, CheckpointError
from bncli.process.files import read_regular


@dataclass(frozen=True)
class FileReport:
    """The verification of one file, or of one save with all its files.

    Attributes:
        name: relative to the checkpoint.
        num_files: number of files read.
        num_bytes: number of bytes in them.
        damage: description of the damage; None if there is none.
        by: "sha256", or "content" for a file without checksum, of which only readability was checked.
    """

    name: str
    num_files: int
    num_bytes: int
    damage: str | None
    by: str

    @property
    def is_save(self) -> bool:
        """True if the weights of one step were verified; other files exist once."""
        return self.name.startswith(f"{STEPS}/")


@dataclass(frozen=True)
class VerifyReport:
    """The verification of a checkpoint.

    Attributes:
        path: the directory.
        files: saves first, oldest first.
        readable_step: the save that readers take as the last; None if every save is damaged.
    """

    path: Path
    files: tuple[FileReport, ...]
    readable_step: int | None

    @property
    def damaged(self) -> tuple[FileReport, ...]:
        """The files that are not as they were written."""
        return tuple(file for file in self.files if file.damage is not None)

    @property
    def is_whole(self) -> bool:
        """True if nothing is damaged, and there is a save to read."""
        return not self.damaged and self.readable_step is not None


def verify_checkpoint(directory: Path) -> VerifyReport:
    """Verify all saves of a checkpoint and the files beside them.

    Raises:
        CheckpointError: ``directory`` is not a checkpoint directory.
    """
    if not (directory / STEPS).is_dir() and not (directory / CONFIG).is_file():
        raise CheckpointError(
            f"{directory} is not a checkpoint directory", remedy="Name a directory written by `bncli train` or `fold`."
        )
    saves = [_save_report(directory, name) for step in complete_steps(directory) for name in _names(directory, step)]
    beside: list[tuple[str, str, Callable[[], object]]] = [(CONFIG, "sha256", partial(read_config, directory))]
    if (directory / METRICS).exists():
        beside.append((METRICS, "content", partial(_read_metrics, directory / METRICS)))
    if (directory / LAYERS).exists():
        beside.append((LAYERS, "content", partial(read_layers, directory)))
    manifest = directory / FILES_MANIFEST
    if manifest.is_file():
        names = parse_manifest(read_regular(manifest))
        beside += [(name, "sha256", partial(verify_files, directory, name)) for name in sorted(names)]
    still = set(complete_steps(directory))  # a training may have removed some in the meantime
    saves = [save for save in saves if int(save.name.split("/")[1].removesuffix(PRECISE)) in still]
    files = [_report(directory, [directory / name], name, by, check) for name, by, check in beside]
    try:
        readable: int | None = find_step(directory, "last")
    except CheckpointError:
        readable = None
    return VerifyReport(directory, (*saves, *files), readable)


def _names(directory: Path, step: int) -> list[str]:
    return [str(step), *([f"{step}{PRECISE}"] if has_precise_statistics(directory, step) else [])]


def _save_report(directory: Path, name: str) -> FileReport:
    files = [path for path in (directory / STEPS / name).rglob("*") if path.is_file()]
    return _report(directory, files, f"{STEPS}/{name}", "sha256", partial(verify, directory, name))


def _report(directory: Path, files: list[Path], name: str, by: str, check: Callable[[], object]) -> FileReport:
    damage = None
    try:
        check()
    except BncliError as error:
        damage = error.message.removeprefix(f"{directory}/")
    except OSError as error:
        damage = f"{name}: {error.strerror or error}"
    present = [path for path in files if path.is_file()]
    return FileReport(name, len(present), sum(path.stat().st_size for path in present), damage, by)


def _read_metrics(path: Path) -> None:
    for number, line in enumerate(read_regular(path).decode(errors="replace").splitlines(), start=1):
        try:
            if int(json.loads(line)["epoch"]) != number:
                raise ValueError
        except (ValueError, TypeError, KeyError, RecursionError):
            raise CheckpointError(f"{path}: line {number} is not the row of epoch {number}") from None
