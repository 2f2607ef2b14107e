"""Private folders in the user's cache. bncli trusts or runs what it keeps there, so nobody else may write to them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_OTHERS = 0o077
_OTHERS_WRITE = 0o022


def user_cache() -> Path:
    """The user's cache directory for bncli; it may not exist."""
    cache = os.environ.get("XDG_CACHE_HOME")
    # The XDG specification says to ignore relative paths.
    base = Path(cache) if cache and Path(cache).is_absolute() else Path.home() / ".cache"
    return base / "bncli"


def private_folder(*names: str) -> Path:
    """Create the folder ``names`` in the user's cache if it is missing, and close every folder on the way to others.

    Each folder is made by itself, because ``mkdir`` creates missing parents with the usual mode.

    Raises:
        OSError: a folder cannot be created, or belongs to somebody else.
    """
    folder = user_cache()
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for part in ((), *((name,) for name in names)):
        folder = folder.joinpath(*part)
        folder.mkdir(mode=0o700, exist_ok=True)
        _require_owner(folder)
        if (mode := folder.stat().st_mode) & _OTHERS:
            folder.chmod(mode & 0o7700)
    return folder


def is_private(*names: str) -> bool:
    """True if the folder ``names`` exists in the user's cache and nobody else can write to it."""
    folders = [user_cache().joinpath(*names[:length]) for length in range(len(names) + 1)]
    try:
        for folder in folders:
            _require_owner(folder)
        return not any(folder.stat().st_mode & _OTHERS_WRITE for folder in folders)
    except OSError:
        return False


def remember(folder: str, key: str) -> None:
    """Record ``key`` as an empty file in a private folder; if the cache cannot be written, nothing is recorded."""
    with suppress(OSError):
        (private_folder(folder) / key).touch(mode=0o600)


def is_remembered(folder: str, key: str) -> bool:
    """True if ``key`` was recorded and nobody else could have recorded it."""
    return is_private(folder) and (user_cache() / folder / key).is_file()


def _require_owner(folder: Path) -> None:
    if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user")
