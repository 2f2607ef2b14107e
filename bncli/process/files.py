"""Regular files: the only files that are opened for reading checkpoints and data.

Opening a named pipe waits for a writer, and reading a device such as ``/dev/zero`` never ends. Both may lie in a
directory that somebody else has made, under the name of a file that bncli reads.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path


def open_regular(path: Path | str) -> io.BufferedReader:
    """Open a regular file for reading bytes; a symbolic link to one counts.

    Small images are read ten thousand times a second, for which a text is faster than a ``Path`` made of it.

    Raises:
        OSError: the file cannot be opened, or is something else than a regular file.
    """
    _require_regular(os.stat(path).st_mode, path)  # noqa: PTH116 - faster; opening a device may already have an effect
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        _require_regular(os.fstat(descriptor).st_mode, path)  # it may have been replaced since
    except OSError:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def read_regular(path: Path, *, limit: int | None = None) -> bytes:
    """The content of a regular file.

    Args:
        path: the file.
        limit: largest size in bytes; None for any.

    Raises:
        OSError: the file cannot be read, is larger than ``limit``, or is something else than a regular file.
    """
    with open_regular(path) as file:
        if limit is None:
            return file.read()
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"more than {limit:,} bytes", str(path))
    return content


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all: under a temporary name beside it, which then replaces it.

    Raises:
        OSError: it cannot be written.
    """
    # A number of the process is not enough: its threads, and processes of other hosts, may write the same file.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """SHA-256 of a regular file's content, in hex."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def real_path(path: Path) -> Path:
    """The path without symbolic links, as far as there are any; a link in a circle stays, where ``resolve`` raises."""
    return Path(os.path.realpath(path))


def require_contained(directory: Path) -> None:
    """Raise OSError if something below a directory is no regular file, or a link that leads out of the directory.

    Libraries that open the files by themselves would follow the link, or wait for the pipe.
    """
    root = real_path(directory)
    for folder, folders, files in os.walk(directory):
        for path in (Path(folder) / name for name in (*folders, *files)):
            if path.is_symlink() and not real_path(path).is_relative_to(root):
                raise OSError(errno.EINVAL, "a symbolic link that leads out of its directory", str(path))
        for name in files:
            _require_regular((Path(folder) / name).lstat().st_mode, Path(folder) / name, links=True)


def _require_regular(mode: int, path: Path | str, *, links: bool = False) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode) and not (links and stat.S_ISLNK(mode)):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
