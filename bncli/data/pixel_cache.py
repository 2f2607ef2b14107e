"""The cache of decoded images and their measurements, so that a command does not decode them again.

::

    ~/.cache/bncli/decoded/CONTENT.npz       SHA-256 and pixel sums of the decoded images, by files, labels and options
    ~/.cache/bncli/decoded/CONTENT.pixels    the decoded images themselves, one after another, if they are not too many

The cache is a convenience: what is missing, damaged or older than the folder is made anew. Its folder is private, since
anyone who can write to it can change what is trained on.

Letters: N files, H W height and width, C channels.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np

from bncli.data.cache_files import load_arrays, store_arrays
from bncli.data.folder_listing import Listing
from bncli.data.image_file import PILLOW
from bncli.data.lazy_images import PixelSums
from bncli.data.sources import ImageSource, Shape
from bncli.process.cache import private_folder, user_cache
from bncli.process.files import open_regular

DECODED = "decoded"
# Changes with every change of the files' layout and of the way from an image file to pixels.
_VERSION = 1
_DEFAULT_GIB = 10.0
_VARIABLE = "BNCLI_DATA_CACHE"
# Of the disk's free space, how much the decoded images of one data set may take.
_SHARE_OF_FREE = 0.5
_SUFFIX = ".pixels"


@dataclass(frozen=True)
class Pixels:
    """The decoded images in the cache.

    Attributes:
        path: the file.
        inode: its number, by which a file that was made anew is told from it.
        crcs: CRC-32 of each image, uint32 [N].
        shape: of each image.
    """

    path: Path
    inode: int
    crcs: np.ndarray
    shape: Shape

    def array(self, start: int, stop: int) -> np.ndarray | None:
        """Some images in memory, uint8 [M, H, W, C]; None if the file is damaged."""
        images = np.empty((stop - start, *self.shape), np.uint8)
        image_bytes = math.prod(self.shape)
        with suppress(OSError), open_regular(self.path) as file:
            file.seek(start * image_bytes)
            if file.readinto(images.reshape(-1).data) == images.nbytes:
                return images
        self.discard()
        return None

    def discard(self) -> None:
        """Remove the file and its measurement, which the next command makes anew."""
        with suppress(OSError):
            if self.path.stat().st_ino == self.inode:
                self.path.with_suffix(".npz").unlink(missing_ok=True)
                self.path.unlink()


@dataclass(frozen=True)
class Measured:
    """The decoded images of a folder, measured.

    Attributes:
        sha256: of the data set.
        sums: of the pixels of each image that is decoded, in the order train, val, test.
        clipped: places of the files with pixels outside the range.
        bad: place and reason of each file that cannot be decoded.
        pixels: the images; None if they are not in the cache.
    """

    sha256: str
    sums: PixelSums
    clipped: tuple[int, ...] = ()
    bad: tuple[tuple[int, str], ...] = ()
    pixels: Pixels | None = None


def content_key(listing: Listing, labels: np.ndarray, options: object) -> str:
    """The name of all that the decoded images depend on: the files, their labels and splits, and the options."""
    digest = hashlib.sha256(f"{_VERSION} {PILLOW} {options!r}\n".encode())
    digest.update(os.fsencode(listing.root.resolve()) + b"\n" + listing.names)
    digest.update(np.ascontiguousarray(listing.stats).tobytes() + np.ascontiguousarray(labels, np.int64).tobytes())
    return digest.hexdigest()[:40]


def remembered(key: str, shape: Shape) -> Measured | None:
    """The measurement of these images; None if there is none."""
    arrays = load_arrays(DECODED, key, ("values", "squares", "crcs", "clipped", "facts"))
    if arrays is None:
        return None
    facts = json.loads(arrays["facts"].tobytes())
    pixels = _pixels(user_cache() / DECODED / f"{key}{_SUFFIX}", arrays["crcs"], shape)
    if pixels is not None and pixels.path.stat().st_size != len(pixels.crcs) * math.prod(shape):
        pixels.discard()
        return None
    return Measured(
        facts["sha256"],
        PixelSums(arrays["values"], arrays["squares"]),
        tuple(arrays["clipped"].tolist()),
        tuple((int(place), str(reason)) for place, reason in facts["bad"]),
        pixels,
    )


def _pixels(path: Path, crcs: np.ndarray, shape: Shape) -> Pixels | None:
    """The decoded images, marked as used now; None if they are not there."""
    try:
        os.utime(path)
        return Pixels(path, path.stat().st_ino, crcs, shape)
    except OSError:
        return None


class PixelWriter:
    """Writes decoded images into the cache, one after another."""

    def __init__(self, key: str, file: BinaryIO | None) -> None:
        self._key, self._file = key, file
        self._crcs: list[int] = []

    def add(self, image: np.ndarray) -> None:
        """Add an image; a full disk ends the writing."""
        content = np.ascontiguousarray(image).reshape(-1).data
        self._crcs.append(zlib.crc32(content))
        if self._file is not None:
            try:
                self._file.write(content)
            except OSError:
                self._file = None

    def finish(self, listing: Listing, measured: Measured) -> None:
        """Keep the images and their measurement, unless a file changed too recently to tell a later change."""
        if not listing.is_settled:
            return
        facts = json.dumps({"sha256": measured.sha256, "bad": measured.bad}).encode()
        arrays = {
            "values": measured.sums.values,
            "squares": measured.sums.squares,
            "crcs": np.array(self._crcs, np.uint32),
            "clipped": np.array(measured.clipped, np.int64),
            "facts": np.frombuffer(facts, np.uint8),
        }
        if store_arrays(DECODED, self._key, arrays) and self._file is not None:
            with suppress(OSError):
                self._file.flush()
                Path(self._file.name).replace(user_cache() / DECODED / f"{self._key}{_SUFFIX}")


@contextmanager
def writing(key: str, num_bytes: int) -> Iterator[PixelWriter]:
    """A writer of ``num_bytes`` of decoded images. It only measures them if they are too many for the cache."""
    temporary = _new_file(key, num_bytes)
    if temporary is None:
        yield PixelWriter(key, None)
        return
    try:
        with temporary.open("wb") as file:
            yield PixelWriter(key, file)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _new_file(key: str, num_bytes: int) -> Path | None:
    """An empty file in the cache with room for so many bytes; None if there is none."""
    try:
        folder = private_folder(DECODED)
        if not _make_room(folder, num_bytes):
            return None
        temporary = folder / f".{key}{_SUFFIX}.{os.getpid()}"
        temporary.touch(mode=0o600)
    except OSError:
        return None
    return temporary


def _make_room(folder: Path, num_bytes: int) -> bool:
    """Remove the images that were not used for longest, until so many bytes fit; False if they never do."""
    limit = cache_limit()
    if num_bytes > min(limit, int(shutil.disk_usage(folder).free * _SHARE_OF_FREE)):
        return False
    kept = sorted(folder.glob(f"*{_SUFFIX}"), key=lambda path: path.stat().st_mtime, reverse=True)
    room = limit - num_bytes
    for path in kept:
        room -= path.stat().st_size
        if room < 0:
            path.unlink(missing_ok=True)
    return True


def cache_limit() -> int:
    """The bytes that decoded images may take in the cache: those of $BNCLI_DATA_CACHE, in GiB."""
    try:
        gib = float(os.environ.get(_VARIABLE, _DEFAULT_GIB))
    except ValueError:
        gib = _DEFAULT_GIB
    return int(max(0.0, gib) * (1 << 30))


@dataclass(frozen=True)
class DataCache:
    """The content of the cache of image folders.

    Attributes:
        directory: the folder of decoded images.
        bytes: their size.
        limit: the size that they never exceed.
        datasets: the number of image folders whose images are there.
    """

    directory: str
    bytes: int
    limit: int
    datasets: int


def data_cache() -> DataCache:
    """The present state of the cache."""
    folder = user_cache() / DECODED
    files = list(folder.glob(f"*{_SUFFIX}"))
    return DataCache(str(folder), sum(path.stat().st_size for path in files), cache_limit(), len(files))


@dataclass(frozen=True)
class CachedSource:
    """Images that were decoded before. One that is damaged is decoded again.

    Attributes:
        pixels: the decoded images.
        original: the files that they were decoded from.
    """

    pixels: Pixels
    original: ImageSource

    @property
    def shape(self) -> Shape:
        """The shape of each image."""
        return self.pixels.shape

    def __len__(self) -> int:
        return len(self.original)

    def read(self, index: int) -> np.ndarray:
        """One image, uint8 [H, W, C]."""
        size = math.prod(self.shape)
        try:
            content = os.pread(_opened(str(self.pixels.path), self.pixels.inode), size, index * size)
        except OSError:
            content = b""
        if len(content) != size or zlib.crc32(content) != int(self.pixels.crcs[index]):
            self.pixels.discard()
            return self.original.read(index)
        return np.frombuffer(content, np.uint8).reshape(self.shape)

    def read_crop(self, index: int, bits: np.ndarray, min_area: float) -> np.ndarray:
        """A random part of the original image, resized to [H, W, C]."""
        return self.original.read_crop(index, bits, min_area)


@lru_cache(maxsize=64)
def _opened(path: str, inode: int) -> int:
    """A descriptor that stays open: opening a file for each image would take as long as reading it."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
