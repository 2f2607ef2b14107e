"""The memory that is left, work refused before it takes more, and the errors that say that it did."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from pathlib import Path

from bncli.errors import BncliError, DataError, RuntimeCheckError

_MEMINFO = Path("/proc/meminfo")
_STATM = Path("/proc/self/statm")
_OWN_CGROUPS = Path("/proc/self/cgroup")
_CGROUP = Path("/sys/fs/cgroup")
# The memory for the rest of the run: JAX, the compiler, the model. An `mlp` is trained in 260 MiB beside its data.
_RESERVE_BYTES = 256 << 20
# JAX starts in 550 MiB of address space on 2 cores; below that it ends in its C++ code.
_JAX_BYTES = 640 << 20
# Version 1 writes a number near 2^63 in place of no limit.
_NO_LIMIT = 1 << 60

# In the messages of XLA, of Python's threads, and of the dynamic linker.
_SIGNS = (
    *("RESOURCE_EXHAUSTED", "Out of memory", "out of memory", "bad_alloc", "Failed to allocate"),
    *("can't start new thread", "failed to map segment", "annot allocate memory"),
)
_FOREIGN = (ImportError, RuntimeError)  # JAX's own errors are RuntimeErrors


def available_memory() -> int | None:
    """The bytes this process may still use, of the machine, its cgroups and its own limits; None if unknown."""
    limits = [_machine_available(), *_cgroups_available(), _address_space_available()]
    return min((limit for limit in limits if limit is not None), default=None)


def require_memory(num_bytes: int, *, what: str, remedy: str) -> None:
    """Raise DataError, with ``remedy``, if ``num_bytes`` for ``what`` do not fit into the available memory."""
    if not fits_memory(num_bytes):
        available = max(0, available_memory() or 0)
        raise DataError(
            f"{what}: {format_bytes(num_bytes)} of memory needed, {format_bytes(available)} available", remedy=remedy
        )


def fits_memory(num_bytes: int) -> bool:
    """True if so many bytes leave enough of the available memory for the rest of a run, or if it is unknown."""
    available = available_memory()
    return available is None or num_bytes <= available - _RESERVE_BYTES


def require_address_space() -> None:
    """Raise RuntimeCheckError if this process's own limit leaves too little for JAX, which would abort the process."""
    left = _address_space_available()
    if left is not None and left < _JAX_BYTES:
        raise RuntimeCheckError(
            f"JAX needs {format_bytes(_JAX_BYTES)} of address space, and a limit leaves {format_bytes(max(0, left))}",
            remedy="Raise the limit: ulimit -v unlimited",
        )


def out_of_memory(error: BaseException, *, lower: Sequence[str] = ()) -> BncliError | None:
    """The error in words if it, or what caused it, says that memory ran out; None if it says something else.

    Args:
        error: any exception.
        lower: the options of the command that decide how much memory it takes.
    """
    if not any(_is_out_of_memory(cause) for cause in _causes(error)):
        return None
    available = available_memory()
    left = "" if available is None else f"; {format_bytes(max(0, available))} are left"
    options = f"Lower {' or '.join(lower)}, or use" if lower else "Use"
    return BncliError(
        f"out of memory{left}: {' '.join(str(error).split())[:300] or type(error).__name__}",
        remedy=f"{options} a machine or a limit (ulimit -v, cgroup) with more memory.",
    )


def format_bytes(num_bytes: int) -> str:
    """The size in words, such as ``1.5 GiB``."""
    value = float(num_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:,.1f} TiB"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and the errors that it came from, innermost last."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, BncliError):
        return False  # its message says what is wrong
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return isinstance(error, _FOREIGN) and any(sign in str(error) for sign in _SIGNS)


def _machine_available() -> int | None:
    """Linux's MemAvailable, which includes the caches that it could drop; None elsewhere."""
    for line in _lines(_MEMINFO):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _cgroups_available() -> Iterator[int]:
    """The memory that each cgroup on the way from this process's to the root leaves, of version 1 and 2.

    In a container, the paths may be those of the host, of which only the root can be seen.
    """
    for line in [*_lines(_OWN_CGROUPS), "0::/", "0:memory:/"]:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "memory" not in controllers.split(","):
            continue
        root = _CGROUP / "memory" if controllers else _CGROUP
        files = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for length in range(len(parts) + 1):
            left = _left(root.joinpath(*parts[:length]), *files)
            if left is not None:
                yield left


def _left(group: Path, limit_file: str, used_file: str) -> int | None:
    """The memory that one cgroup leaves, with the file caches that it could drop; None if it has no limit."""
    try:
        limit = (group / limit_file).read_text().strip()
        used = int((group / used_file).read_text())
    except (OSError, ValueError):
        return None
    if not limit.isdecimal() or int(limit) >= _NO_LIMIT:
        return None
    caches = {name: int(size) for name, _, size in (line.partition(" ") for line in _lines(group / "memory.stat"))}
    droppable = caches.get("total_inactive_file", caches.get("inactive_file", 0))
    return int(limit) - max(0, used - droppable)


def _address_space_available() -> int | None:
    """The address space that this process's own limit (``ulimit -v``) leaves; None without a limit."""
    try:
        import resource
    except ImportError:
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    used = next(iter(_lines(_STATM)), "").split()[:1]
    if limit == resource.RLIM_INFINITY or not used:
        return None
    return limit - int(used[0]) * resource.getpagesize()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
