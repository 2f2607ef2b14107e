"""Which model code this user has chosen to run, by ``--model`` or by training: a checkpoint may then name it.

What a checkpoint says of its model's code proves nothing: who made the one can have made the other. So the code that
was run is remembered in the user's own cache, one empty file for each, named by the SHA-256 of where the code lies and
what it says. The place counts too: the same file elsewhere may import other neighbours.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

from bncli.process.cache import is_private, private_folder, user_cache

_FOLDER = "models"


def remember(source: Path) -> None:
    """Notes that the user had this file run; where the cache cannot be written, ``--model`` is asked for again."""
    with suppress(OSError):
        (private_folder(_FOLDER) / _key(source)).touch(mode=0o600)


def is_remembered(source: Path) -> bool:
    """Whether the user had this very file run, in this place and with this content."""
    return is_private(_FOLDER) and (user_cache() / _FOLDER / _key(source)).is_file()


def _key(source: Path) -> str:
    content = hashlib.sha256(source.read_bytes()).hexdigest()
    return hashlib.sha256(f"{content}  {source.resolve()}".encode(errors="surrogateescape")).hexdigest()
