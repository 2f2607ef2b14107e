"""What is remembered of the quick form: that it passed, for these versions on this hardware with these flags.

A file of JSON each in the user's cache. One that is missing, damaged or of another machine is no memory, and a cache
that cannot be written costs the time of the checks, no more.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from bncli.process import cache
from bncli.process.hardware import hardware, versions
from bncli.selftest.checks import Outcome

Key = Mapping[str, str]

_PACKAGES = ("bncli", "jax", "jaxlib", "python")


def current_key() -> Key:
    """What the result of a check may depend on."""
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
    """Whether the quick form is remembered to have passed under ``key``."""
    try:
        stored = json.loads(_path(key).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(stored, dict) and stored.get("key") == dict(key)


def remember(key: Key, outcomes: Sequence[Outcome]) -> None:
    """Writes down that all ``outcomes`` passed under ``key``."""
    assert all(outcome.passed for outcome in outcomes)
    path = _path(key)
    document = json.dumps({"key": dict(key), "checks": [asdict(outcome) for outcome in outcomes]}, indent=1)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.parent.chmod(0o700)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    except OSError:
        return  # a read-only home only costs time
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(document)
        Path(temporary).replace(path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)  # the disk is full, say


def _path(key: Key) -> Path:
    digest = hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()
    return cache.user_cache() / "selftest" / f"{digest[:16]}.json"
