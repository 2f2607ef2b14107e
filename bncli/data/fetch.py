"""Download of a known data set from its publisher by HTTPS; a file is trusted only if its SHA-256 is right."""

from __future__ import annotations

import errno
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from bncli.data.known import KNOWN, KnownDataset, RemoteFile
from bncli.data.places import user_data_dir
from bncli.errors import DataError, UsageError
from bncli.process.cache import private_folder
from bncli.process.files import file_sha256

Progress = Callable[[str, int, int | None], None]

_CHUNK_BYTES = 1 << 18
_ANOTHER_PLACE = "Choose another place with --data-dir."
_LOCK = ".fetch.lock"
_NO_LOCKS = frozenset({errno.EIO, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})  # of network file systems, say
_TIMEOUT_SECONDS = 30
_MAX_CONNECTIONS = 8  # to one mirror for one file, before the next mirror is tried
# Traffic within this machine needs no encryption; browsers treat these hosts as secure too.
_LOCAL_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})


class _MirrorError(Exception):
    """A mirror does not serve the file; another one may."""


def fetch(
    name: str,
    *,
    data_dir: Path | None = None,
    progress: Progress | None = None,
    known: Mapping[str, KnownDataset] = KNOWN,
) -> Path:
    """Download the data set ``name`` from its publisher unless it is there already; return its folder.

    A file arrives under a name that ends in ``.part``. A broken connection or a stopped command is resumed there. The
    file gets its own name once its SHA-256 is right.

    Args:
        name: a known name.
        data_dir: the parent of the folder ``name``; by default the user's cache.
        progress: called with (file name, bytes so far, total bytes).
        known: the table of data sets.

    Raises:
        UsageError: the name is unknown, or needs no download.
        DataError: no mirror can be reached, or none serves the published file.
    """
    row = known.get(name)
    if row is None:
        raise UsageError(f"{name} is not a known data set", remedy=f"Known names: {', '.join(known)}.")
    if not row.files:
        raise UsageError(f"{name} is installed with bncli; there is nothing to fetch", remedy=f"Use --data {name}.")
    folder = _make_folder(data_dir, name)
    with _reserved(folder):
        for file in row.files:
            if not _is_published(folder / file.name, file):
                _fetch_file(file, folder, progress)
    return folder


def _make_folder(data_dir: Path | None, name: str) -> Path:
    """Create the folder ``name`` if it is missing; in the user's cache it is private."""
    folder = (data_dir or user_data_dir()) / name
    try:
        if data_dir is None:
            return private_folder("data", name)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be created: {error.strerror or error}", remedy=_ANOTHER_PLACE) from error
    return folder


@contextmanager
def _reserved(folder: Path) -> Iterator[None]:
    """Keep other processes from downloading into ``folder``; the lock of a process that ends in any way is released.

    Raises:
        DataError: another process downloads there, or the folder cannot be written.
    """
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise DataError(
            f"{folder}: another process is downloading there", remedy="Wait until it has finished, then run this again."
        ) from None
    except (NotImplementedError, OSError) as error:
        if not isinstance(error, NotImplementedError) and error.errno not in _NO_LOCKS:
            raise _unwritable(folder, error) from error
        yield  # a file system without locks
        return
    try:
        yield
    finally:
        (folder / _LOCK).unlink(missing_ok=True)
        lock.release()


def _is_published(path: Path, file: RemoteFile) -> bool:
    return path.is_file() and path.stat().st_size == file.size and file_sha256(path) == file.sha256


def _fetch_file(file: RemoteFile, folder: Path, progress: Progress | None) -> None:
    """Download one file from the first mirror that serves all of it."""
    part = folder / f"{file.name}.part"
    failures = []
    for url in file.urls:
        try:
            _download(url, part, file, progress)
        except _MirrorError as error:
            failures.append(f"{url}: {error}")
        else:
            _check_sha256(part, file)
            part.replace(folder / file.name)
            return
    raise DataError(
        f"{file.name} could not be downloaded. {'; '.join(failures)}",
        remedy="Run the command again, which continues where it stopped, or download the file yourself: "
        f"save {file.urls[0]} as {folder / file.name}",
    )


def _download(url: str, part: Path, file: RemoteFile, progress: Progress | None) -> None:
    """Fill ``part`` up to the published size, with several connections if necessary."""
    for _ in range(_MAX_CONNECTIONS):
        start = _resumable_size(part, file)
        if start < file.size:
            _receive(url, part, start, file, progress)
        if _size(part) >= file.size:
            return
    raise _MirrorError(f"the connection broke {_MAX_CONNECTIONS} times, after {_size(part)} of {file.size} bytes")


def _receive(url: str, part: Path, start: int, file: RemoteFile, progress: Progress | None) -> None:
    """Append to ``part``, from byte ``start`` on, the bytes of one connection, which may break."""
    with _connect(url, start) as response:
        # A server without range support answers 200 and sends the whole file.
        received = start if response.status == http.HTTPStatus.PARTIAL_CONTENT else 0
        _check_announced_size(response, received, file)
        with _opened_part(part, resumes=received > 0) as target:
            for chunk in _chunks(response):
                target.write(chunk)
                received += len(chunk)
                if progress is not None:
                    progress(file.name, received, file.size)
                if received > file.size:
                    return


def _connect(url: str, start: int) -> http.client.HTTPResponse:
    _require_https(url)
    headers = {"User-Agent": "bncli"} | ({"Range": f"bytes={start}-"} if start else {})
    opener = urllib.request.build_opener(_HttpsRedirects)
    try:
        response: http.client.HTTPResponse = opener.open(
            urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_SECONDS
        )
    except urllib.error.HTTPError as error:
        error.close()
        raise _MirrorError(f"the server answers {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise _MirrorError(f"no connection: {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _MirrorError(f"no connection: {error}") from error
    return response


class _HttpsRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to HTTPS addresses only."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """The redirected request.

        Raises:
            _MirrorError: the new address is not HTTPS.
        """
        _require_https(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _require_https(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOCAL_HOSTS):
        raise _MirrorError(f"{url} is not an HTTPS address")


def _check_announced_size(response: http.client.HTTPResponse, start: int, file: RemoteFile) -> None:
    """Raise _MirrorError if the announced size shows another file, such as a login page, before reading any of it."""
    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and start + int(length) != file.size:
        raise _MirrorError(f"the server offers {start + int(length)} bytes, but {file.size} were published")


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The bytes until the end or until the connection breaks; the caller tells which from the size."""
    while True:
        try:
            chunk = response.read1(_CHUNK_BYTES)
        except (OSError, http.client.HTTPException):
            return
        if not chunk:
            return
        yield chunk


@contextmanager
def _opened_part(part: Path, *, resumes: bool) -> Iterator[BinaryIO]:
    """The partial file, open at its end, or emptied; a full disk or an unwritable folder is a DataError.

    Whatever else has the name, such as a symbolic link or a pipe, is replaced and not written through.
    """
    flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
    try:
        if not resumes:
            part.unlink(missing_ok=True)
        descriptor = os.open(part, flags | (os.O_APPEND if resumes else os.O_EXCL), 0o666)
        with os.fdopen(descriptor, "ab" if resumes else "wb") as target:
            yield target
    except OSError as error:
        raise _unwritable(part, error) from error


def _unwritable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path}: cannot be written: {error.strerror or error}", remedy=_ANOTHER_PLACE)


def _resumable_size(part: Path, file: RemoteFile) -> int:
    """The number of bytes already there; a file that is too long cannot be resumed and is removed."""
    if _size(part) > file.size:
        part.unlink()
    return _size(part)


def _size(path: Path) -> int:
    """The bytes of a regular file; 0 if there is none, or something else in its place."""
    return path.stat().st_size if path.is_file() and not path.is_symlink() else 0


def _check_sha256(part: Path, file: RemoteFile) -> None:
    """Raise DataError, and remove ``part``, if it is not the published file."""
    actual = file_sha256(part)
    if actual != file.sha256:
        part.unlink()
        raise DataError(
            f"{file.name}: SHA-256 {file.sha256} expected, {actual} received; the download was removed",
            remedy="Run the command again; if it fails twice, something between you and the publisher changes files.",
        )
