"""A file that a command writes beside its result."""

from __future__ import annotations

from pathlib import Path

from bncli.errors import BncliError
from bncli.process.files import write_whole


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
    try:
        write_whole(path, text.encode())
    except OSError as error:
        raise BncliError(f"cannot write {path}: {error.strerror or error}", remedy="Choose another place.") from error
