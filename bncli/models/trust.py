"""The memory of model code that this user has chosen to run, with ``--model`` or by training.

A checkpoint's own statement about its model's code proves nothing: whoever made the checkpoint may have made the code.
So the user's cache remembers the code that was run: one empty file each, named by the SHA-256 of its path and content.
The path counts, because the same file in another place may import other neighbours.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

from bncli.process.cache import is_private, private_folder, user_cache

_FOLDER = "models"


def remember(source: Path) -> None:
    """Record that the user ran this file; if the cache cannot be written, ``--model`` is needed again next time."""
    with suppress(OSError):
        (private_folder(_FOLDER) / _key(source)).touch(mode=0o600)


def is_remembered(source: Path) -> bool:
    """True if the user ran this very file, in this place and with this content."""
    return is_private(_FOLDER) and (user_cache() / _FOLDER / _key(source)).is_file()


def _key(source: Path) -> str:
    content = hashlib.sha256(source.read_bytes()).hexdigest()
    return hashlib.sha256(f"{content}  {source.resolve()}".encode(errors="surrogateescape")).hexdigest()
