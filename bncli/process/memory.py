"""Refuse a data set that does not fit into memory before a long decode ends with the process being killed."""

from __future__ import annotations

from pathlib import Path

from bncli.errors import DataError

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
# The memory for the rest of the run: Python, JAX, the compiler, the model.
_RESERVE_BYTES = 256 << 20


def available_memory() -> int | None:
    """The bytes this process may still use, of the machine or of its container; None if unknown."""
    limits = [limit for limit in (_machine_available(), _container_available()) if limit is not None]
    return min(limits, default=None)


def require_memory(num_bytes: int, *, what: str, remedy: str) -> None:
    """Raise DataError, with ``remedy``, if ``num_bytes`` for ``what`` do not fit into the available memory."""
    available = available_memory()
    if available is not None and num_bytes > available - _RESERVE_BYTES:
        raise DataError(
            f"{what}: {format_bytes(num_bytes)} of memory needed, {format_bytes(available)} available", remedy=remedy
        )


def format_bytes(num_bytes: int) -> str:
    """The size in words, such as ``1.5 GiB``."""
    value = float(num_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:,.1f} TiB"


def _machine_available() -> int | None:
    """Linux's MemAvailable, which includes the caches that it could drop; None elsewhere."""
    try:
        lines = _MEMINFO.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _container_available() -> int | None:
    """The memory that a cgroup (version 2) leaves; None without one or without a limit."""
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = (_CGROUP / "memory.current").read_text().strip()
    except OSError:
        return None
    return None if limit == "max" else int(limit) - int(used)
