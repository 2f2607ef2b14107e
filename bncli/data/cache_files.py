"""Arrays in the private cache: written whole or not at all, read without pickle, thrown away if damaged."""

from __future__ import annotations

import io
from contextlib import suppress

import numpy as np

from bncli.process.cache import is_private, private_folder, user_cache
from bncli.process.files import write_whole


def load_arrays(folder: str, key: str, names: tuple[str, ...]) -> dict[str, np.ndarray] | None:
    """The arrays of a file in the cache; None if it is missing, damaged or not private."""
    if not is_private(folder):
        return None
    path = user_cache() / folder / f"{key}.npz"
    try:
        with np.load(path, allow_pickle=False) as archive:  # a CRC-32 of each array is checked
            return {name: archive[name] for name in names}
    except FileNotFoundError:
        return None
    except Exception:  # for damaged archives NumPy raises whatever its parser raises first
        with suppress(OSError):
            path.unlink(missing_ok=True)
        return None


def store_arrays(folder: str, key: str, arrays: dict[str, np.ndarray]) -> bool:
    """Write arrays into the cache, whole or not at all; False if it cannot be written."""
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]  # its stub takes no mapping
    try:
        write_whole(private_folder(folder) / f"{key}.npz", content.getvalue())
    except OSError:
        return False
    return True


def keep_newest(folder: str, count: int) -> None:
    """Remove all but the newest files of arrays in a folder of the cache."""
    with suppress(OSError):
        files = sorted((user_cache() / folder).glob("*.npz"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in files[count:]:
            path.unlink(missing_ok=True)
