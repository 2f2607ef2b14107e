"""A file that a command writes beside its result."""

from __future__ import annotations

import os
from pathlib import Path

from bncli.errors import BncliError


def check_new(path: Path, *, overwrite: bool) -> None:
    """Raise BncliError if writing ``path`` would replace a file without leave, or is sure to fail.

    Call it before the work that makes the content.
    """
    if path.is_dir():
        raise BncliError(f"{path} is a directory", remedy="Name a file.")
    if path.exists() and not overwrite:
        raise BncliError(f"{path} is already there", remedy="Use --overwrite to replace it, or another name.")
    if not path.absolute().parent.is_dir():
        raise BncliError(f"{path.parent} is no directory", remedy="Create it first.")


def write_new(path: Path, text: str, *, overwrite: bool) -> None:
    """Write ``text`` to ``path``, whole or not at all.

    Raises:
        BncliError: the file exists and must not be replaced, or it cannot be written.
    """
    check_new(path, overwrite=overwrite)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        temporary.replace(path)
    except OSError as error:
        raise BncliError(f"cannot write {path}: {error.strerror or error}", remedy="Choose another place.") from error
    finally:
        temporary.unlink(missing_ok=True)
