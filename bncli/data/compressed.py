"""Reading of files that may be gzipped; any damage becomes a DataError."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from bncli.errors import DataError
from bncli.process.files import open_regular

GZIP_MAGIC = b"\x1f\x8b"
DAMAGED = "The file is damaged or was cut short while it was copied: get it again."


@contextmanager
def open_decompressed(path: Path) -> Iterator[BinaryIO]:
    """The plain content of ``path``, gzipped or not.

    Raises:
        DataError: the file cannot be read, or its gzip stream is damaged, also while the caller reads.
    """
    try:
        with open_regular(path) as file:
            magic = file.read(len(GZIP_MAGIC))
            file.seek(0)
            # A GzipFile made from an open file has nothing of its own to close.
            yield cast(BinaryIO, gzip.GzipFile(fileobj=file)) if magic == GZIP_MAGIC else file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: the gzip stream is damaged: {error}", remedy=DAMAGED) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
