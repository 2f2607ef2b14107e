"""The checkpoint directory: its files by name, its settings and metrics, and the rules for replacing it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from bncli.checkpoint.manifest import FILES_MANIFEST
from bncli.checkpoint.onnx_file import read_onnx
from bncli.config import document
from bncli.config.document import CheckpointConfig
from bncli.config.file_names import is_utf8
from bncli.config.json_types import JSON, Document
from bncli.errors import CheckpointError
from bncli.process.files import read_regular, real_path

CONFIG = "config.json"
METRICS = "metrics.jsonl"
LAYERS = "layers.jsonl"
STEPS = "steps"
FORWARD = "forward.stablehlo"
FOLD_REPORT = "fold_report.json"
REPORT = "report.html"
LOGS = "logs"
TEMPORARY = ".tmp"
LOCK = ".lock"
LOCK_OWNER = ".lock.json"

_EXPORTS = ("model.onnx", "model.int8.onnx", "model.safetensors", "model.stablehlo")
# The files that a new checkpoint replaces. Any other file in the directory is the user's, and stays.
_OURS = (CONFIG, METRICS, LAYERS, STEPS, FORWARD, FOLD_REPORT, REPORT, LOGS, FILES_MANIFEST, *_EXPORTS)

# The files that a process leaves if it is killed in ``write_atomically``.
_CUT_SHORT = re.compile(rf"({'|'.join(map(re.escape, (*_OURS, LOCK_OWNER)))})\.\d+{re.escape(TEMPORARY)}")

# A configuration takes 2 KB, or 30 KB with the names of a thousand classes.
MAX_CONFIG = 16 << 20
_COPY = "Restore it from a copy, or train again."
# Remedies of an error in writing: of a training, and of commands that write a checkpoint at once.
FREE_SPACE_AND_RESUME = "Free some space, then continue with --resume."
FREE_SPACE_AND_REPEAT = "Free some space, then run the command again."


def is_checkpoint(directory: Path) -> bool:
    """True if bncli wrote the ``config.json`` there; other programs have one too, and ``--overwrite`` spares those."""
    try:
        document = json.loads(read_regular(directory / CONFIG, limit=MAX_CONFIG))
    except (OSError, RecursionError, ValueError):
        return False
    return isinstance(document, dict) and str(document.get("schema")).startswith("bncli.config/")


def read_config(directory: Path) -> CheckpointConfig:
    """The configuration in the directory's ``config.json``, or in an exported ``model.onnx``.

    Raises:
        CheckpointError: there is no configuration.
        ConfigError: it is malformed.
    """
    if directory.is_file():
        return read_onnx(directory)[0]
    check_name(directory)
    path = directory / CONFIG
    try:
        if (size := path.stat().st_size) > MAX_CONFIG:
            raise CheckpointError(
                f"{path} is damaged: {size:,} bytes, but a configuration has at most {MAX_CONFIG:,}", remedy=_COPY
            )
        text = read_regular(path, limit=MAX_CONFIG).decode()
    except (FileNotFoundError, NotADirectoryError):
        is_there = directory.is_dir()
        what = " holds no config.json: not a bncli checkpoint" if is_there else ": no such file or directory"
        raise CheckpointError(f"{directory}{what}", remedy="Name a directory written by `bncli train`.") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"cannot read {path}: {reason}", remedy=_COPY) from error
    return document.from_json(text, path=path)


def write_config(directory: Path, config: CheckpointConfig, *, remedy: str = FREE_SPACE_AND_RESUME) -> None:
    """Write ``config.json``, whole or not at all; ``remedy`` is that of an error."""
    write_file(directory / CONFIG, document.to_json(config).encode(), remedy=remedy)


def write_metrics(directory: Path, rows: Iterable[Mapping[str, JSON]]) -> None:
    """Rewrite ``metrics.jsonl``: it holds each epoch once, whatever was saved, lost or resumed before."""
    _write_lines(directory / METRICS, rows)


def append_layers(directory: Path, row: Mapping[str, JSON]) -> None:
    """Append one epoch, {"epoch", "layers"}, to ``layers.jsonl``."""
    _append_line(directory / LAYERS, row)


def read_layers(directory: Path) -> list[Document]:
    """The epochs in ``layers.jsonl``, without a last line that was cut short; none if there is no such file.

    Raises:
        CheckpointError: a line is damaged.
    """
    path = directory / LAYERS
    if not path.exists():
        return []
    try:
        text = read_regular(path).decode(errors="replace")
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    rows = []
    whole, _, _ = text.rpartition("\n")
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            row = json.loads(line)
            rows.append({"epoch": int(row["epoch"]), "layers": list(row["layers"])})
        except (KeyError, OverflowError, RecursionError, TypeError, ValueError):
            raise CheckpointError(
                f"{path}: line {number} is damaged", remedy="Remove the line; it is only needed for --history."
            ) from None
    return rows


def keep_layers(directory: Path, *, epochs: int) -> None:
    """Drop the epochs after ``epochs`` from ``layers.jsonl``: a resumed run repeats them."""
    _write_lines(directory / LAYERS, [row for row in read_layers(directory) if row["epoch"] <= epochs])


def _write_lines(path: Path, rows: Iterable[Mapping[str, JSON]]) -> None:
    write_file(path, "".join(json.dumps(row) + "\n" for row in rows).encode(), remedy=FREE_SPACE_AND_RESUME)


def write_file(path: Path, content: bytes, *, remedy: str) -> None:
    """Write a file as ``write_atomically`` does; ``remedy`` is that of an error.

    Raises:
        CheckpointError: the file cannot be written.
    """
    try:
        write_atomically(path, content)
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror or error}", remedy=remedy) from error


def _append_line(path: Path, row: Mapping[str, JSON]) -> None:
    """Append a line; it replaces a last line that was cut short."""
    with path.open("a+b") as file:
        file.seek(0)
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)
        file.write(json.dumps(row).encode() + b"\n")


def check_name(path: Path) -> None:
    """Raise CheckpointError if Orbax cannot use the directory's path, or the file system cannot hold its name."""
    try:
        place = path.resolve()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # too long, a loop of links, a null character
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CheckpointError(f"{str(path)[:300]}: {reason}", remedy="Name another directory.") from None
    if not is_utf8(place):
        raise CheckpointError(
            f"{place}: the path is not UTF-8, which the library that reads and writes Orbax saves requires",
            remedy="Use or rename to a path in UTF-8.",
        )


def check_output(out: Path, *, overwrite: bool, can_resume: bool = False, source: Path | None = None) -> None:
    """Raise CheckpointError if a new checkpoint in ``out`` would overwrite something.

    With ``overwrite`` it may replace an earlier checkpoint, but nothing else, and never ``source``, which is read.
    """
    check_name(out)
    if source is not None and real_path(source).is_relative_to(real_path(out)):
        what = "is" if real_path(source) == real_path(out) else "holds"
        remedy = "Name another directory for the result."
        raise CheckpointError(f"{out} {what} the checkpoint to work on", remedy=remedy)
    if out.exists() and not out.is_dir():
        raise CheckpointError(f"{out} is a file", remedy="Name a directory.")
    if overwrite and out.is_symlink():
        raise CheckpointError(f"{out} is a symbolic link", remedy="Name the directory that it points to.")
    if not _is_vacant(out):
        holds_checkpoint = is_checkpoint(out)
        can_replace = holds_checkpoint or _is_cut_short(out)
        if not overwrite or not can_replace:
            part = "part of " if can_replace and not holds_checkpoint else ""
            what = f"already holds {part}a checkpoint" if can_replace else "is not empty and holds no checkpoint"
            resume = "--resume to go on with it, " if can_resume and holds_checkpoint else ""
            replace = "--overwrite to replace it, or " if can_replace else ""
            raise CheckpointError(f"{out} {what}", remedy=f"Use {resume}{replace}another directory.")


def _is_vacant(out: Path) -> bool:
    """True if the directory holds nothing except what a process killed at its very start may leave."""
    left = {path.name for path in out.iterdir()} if out.is_dir() else set()
    return all(name in (LOCK, LOCK_OWNER) or _CUT_SHORT.fullmatch(name) for name in left)


def _is_cut_short(out: Path) -> bool:
    """True for what a killed ``fold`` or ``recalibrate`` leaves: no configuration yet, and the name of its owner."""
    return not os.path.lexists(out / CONFIG) and (out / LOCK_OWNER).is_file()


def create_output(out: Path, *, overwrite: bool, config: CheckpointConfig | None = None) -> None:
    """Make ``out`` a checkpoint directory without saves; with ``overwrite`` an earlier checkpoint there is removed.

    If ``config`` is given, the directory always has a configuration. So a process that is killed in between leaves a
    run that can be resumed: the earlier run at its start, or the new one.

    Raises:
        CheckpointError: something else is there, or the directory cannot be created.
    """
    check_output(out, overwrite=overwrite)
    keeps = (CONFIG,) if config is not None else ()
    try:
        out.mkdir(parents=True, exist_ok=True)
        _remove_ours(out, keeps=keeps)
        if config is not None:
            write_config(out, config)
        (out / STEPS).mkdir()
    except OSError as error:
        raise CheckpointError(
            f"cannot create {out}: {error.strerror or error}", remedy="Choose another directory."
        ) from error


@contextmanager
def new_output(out: Path, *, overwrite: bool) -> Iterator[None]:
    """Make ``out`` a checkpoint directory without saves, and empty it again if an error ends its writing.

    Raises:
        CheckpointError: as in ``create_output``.
    """
    create_output(out, overwrite=overwrite)
    try:
        yield
    except BaseException:
        with suppress(OSError):
            _remove_ours(out)
        raise


def _remove_ours(out: Path, *, keeps: tuple[str, ...] = ()) -> None:
    """Remove the files of a checkpoint except ``keeps``; any other file is the user's, and stays."""
    for path in out.iterdir():
        if (path.name in _OURS and path.name not in keeps) or _CUT_SHORT.fullmatch(path.name):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
