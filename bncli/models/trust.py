"""The memory of model code that this user has chosen to run, with ``--model`` or by training.

A checkpoint's own statement about its model's code proves nothing: whoever made the checkpoint may have made the code.
So the user's cache remembers the code that was run: one file each, named by the SHA-256 of its path and content, with
the neighbours that it imported. The path counts, because the same file in another place may import other neighbours.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from bncli.process.cache import is_private, private_folder, user_cache
from bncli.process.files import read_regular

_FOLDER = "models"


def remember(source: Path, sha256: str, neighbours: Mapping[Path, str]) -> None:
    """Record that the user ran a file; if the cache cannot be written, ``--model`` is needed again next time.

    Args:
        source: the model's file.
        sha256: SHA-256 of the bytes that ran.
        neighbours: path -> SHA-256 of the files that ran with it.
    """
    text = json.dumps({os.fspath(path): digest for path, digest in sorted(neighbours.items())})
    with suppress(OSError):
        place = private_folder(_FOLDER) / _key(source, sha256)
        temporary = place.with_name(f"{place.name}.{os.getpid()}")
        temporary.write_text(text)
        temporary.chmod(0o600)
        temporary.replace(place)


def approved(source: Path, sha256: str) -> dict[Path, str] | None:
    """The files that may run for a model, path -> SHA-256; None if the user never ran this code in this place."""
    if not is_private(_FOLDER):
        return None
    try:
        text = read_regular(user_cache() / _FOLDER / _key(source, sha256))
        neighbours = json.loads(text) if text else {}
        return {Path(path): str(digest) for path, digest in neighbours.items()} | {source.resolve(): sha256}
    except (AttributeError, OSError, ValueError):
        return None


def _key(source: Path, sha256: str) -> str:
    return hashlib.sha256(f"{sha256}  {source.resolve()}".encode(errors="surrogateescape")).hexdigest()
