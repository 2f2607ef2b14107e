"""The memory that the quick checks passed, for these versions on this hardware with these flags.

Each pass is a JSON file in the user's cache. A file that is missing, damaged or of another machine counts as no pass,
and a cache that cannot be written only costs the time of the checks.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from bncli.process.cache import is_private, private_folder, user_cache
from bncli.process.hardware import hardware, versions
from bncli.selftest.checks import Outcome

Key = Mapping[str, str]

_FOLDER = "selftest"
_PACKAGES = ("bncli", "jax", "jaxlib", "python")


def current_key() -> Key:
    """Everything that the outcome of a check may depend on."""
    import jax

    found, installed = hardware(), versions()
    return {
        **{name: installed[name] for name in _PACKAGES},
        "backend": jax.default_backend(),
        "devices": ", ".join(sorted(set(found.devices))),
        "cpu": found.cpu,
        "cores": str(found.cores),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def has_passed(key: Key) -> bool:
    """True if the quick checks are known to have passed under ``key``."""
    try:
        stored = json.loads((user_cache() / _FOLDER / _file_name(key)).read_bytes())
    except (OSError, ValueError):
        return False
    return is_private(_FOLDER) and isinstance(stored, dict) and stored.get("key") == dict(key)


def remember(key: Key, outcomes: Sequence[Outcome]) -> None:
    """Record that all ``outcomes`` passed under ``key``."""
    assert all(outcome.passed for outcome in outcomes)
    document = json.dumps({"key": dict(key), "checks": [asdict(outcome) for outcome in outcomes]}, indent=1)
    name = _file_name(key)
    try:
        folder = private_folder(_FOLDER)
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=name)
    except OSError:
        return  # a read-only home only costs time
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(document)
        Path(temporary).replace(folder / name)
    except OSError:
        Path(temporary).unlink(missing_ok=True)  # for example, the disk is full


def _file_name(key: Key) -> str:
    digest = hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()
    return f"{digest[:16]}.json"
