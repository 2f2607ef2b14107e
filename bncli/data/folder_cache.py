"""The cache of image folders: headers, decoded images and their statistics, so that a command does not read them again.

::

    ~/.cache/bncli/folders/FOLDER.npz        the header of each file, by path, size, and times of the last change
    ~/.cache/bncli/decoded/CONTENT.npz       SHA-256 and pixel sums of the decoded images, by all of these and options
    ~/.cache/bncli/decoded/CONTENT.pixels    the decoded images themselves, one after another, if they are not too many

The cache is a convenience: what is missing, damaged or older than the folder is made anew. Both folders are private,
since anyone who can write to them can change what is trained on.

Letters: N files, H W height and width, C channels.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import shutil
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np

from bncli.data.image_file import PILLOW, ImageInfo
from bncli.data.lazy_images import PixelSums
from bncli.data.sources import ImageSource, Shape
from bncli.process.cache import is_private, private_folder, user_cache
from bncli.process.files import open_regular

FOLDERS, DECODED = "folders", "decoded"
# Changes with every change of the files' layout and of the way from an image file to pixels.
_VERSION = 1
_DEFAULT_GIB = 10.0
_VARIABLE = "BNCLI_DATA_CACHE"
# Of the disk's free space, how much the decoded images of one data set may take.
_SHARE_OF_FREE = 0.5
_MAX_FOLDERS = 64
# A file that changed so shortly before it was read may change again within the same tick of the clock.
_TICK_NS = 50_000_000
_SUFFIX = ".pixels"


@dataclass(frozen=True)
class Listing:
    """The files of a folder as the file system shows them, in a fixed order.

    Attributes:
        root: the folder.
        names: the paths below it, each ended by a zero byte.
        stats: int64 [N, 3]: size, and the times of the last change of content and of the entry, in ns.
        read_at: the time before the files were listed, in ns.
    """

    root: Path
    names: bytes
    stats: np.ndarray
    read_at: int

    @property
    def is_settled(self) -> bool:
        """True if no file has changed so recently that a second change could go unnoticed."""
        return not len(self.stats) or int(self.stats[:, 1:].max()) < self.read_at - _TICK_NS


def listing_of(root: Path, paths: Sequence[Path]) -> Listing:
    """The listing of ``paths``, all below ``root``; a file that cannot be looked at has size -1."""
    read_at = time.time_ns()
    start = len(os.fsencode(root)) + 1
    names = b"".join(os.fsencode(path)[start:] + b"\0" for path in paths)
    stats = np.array([_stat(path) for path in paths], np.int64).reshape(-1, 3)
    return Listing(root, names, stats, read_at)


def _stat(path: Path) -> tuple[int, int, int]:
    try:
        found = os.stat(path)  # noqa: PTH116 - half of the time of the method
    except OSError:
        return -1, 0, 0
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


@dataclass(frozen=True)
class Headers:
    """The headers of the files of a listing.

    Attributes:
        sizes: int32 [N, 2], height and width; 0 for a file without a readable header.
        flags: uint8 [N]: 1 for grey, 2 for more than 8 bits, 4 for more frames than one.
    """

    sizes: np.ndarray
    flags: np.ndarray

    @classmethod
    def of(cls, infos: Sequence[ImageInfo | None]) -> Headers:
        """The headers as arrays; None for a file without one."""
        sizes = np.array([(0, 0) if info is None else (info.height, info.width) for info in infos], np.int32)
        flags = [0 if info is None else info.is_grey + 2 * info.is_deep + 4 * info.has_frames for info in infos]
        return cls(sizes.reshape(-1, 2), np.array(flags, np.uint8))

    def infos(self) -> list[ImageInfo | None]:
        """One object for each file; equal headers share it."""
        rows = zip(self.sizes[:, 0].tolist(), self.sizes[:, 1].tolist(), self.flags.tolist(), strict=True)
        return [_info(*row) for row in rows]


@lru_cache(maxsize=1 << 16)
def _info(height: int, width: int, flags: int) -> ImageInfo | None:
    if height == 0:
        return None
    return ImageInfo(
        height=height, width=width, is_grey=bool(flags & 1), is_deep=bool(flags & 2), has_frames=bool(flags & 4)
    )


def remembered_headers(listing: Listing) -> list[ImageInfo | None]:
    """The headers of the files that have not changed since they were read; None for every other file."""
    arrays = _load(FOLDERS, _folder_key(listing.root), ("names", "stats", "sizes", "flags"))
    count = len(listing.stats)
    if arrays is None:
        return [None] * count
    names, infos = arrays["names"].tobytes(), Headers(arrays["sizes"], arrays["flags"]).infos()
    if names == listing.names:
        same = (arrays["stats"] == listing.stats).all(axis=1).tolist()
        return [info if is_same else None for info, is_same in zip(infos, same, strict=True)]
    before = dict(zip(names.split(b"\0"), zip(map(tuple, arrays["stats"].tolist()), infos, strict=True), strict=False))
    found = zip(listing.names.split(b"\0"), map(tuple, listing.stats.tolist()), strict=False)
    missing = ((), None)
    return [info if stat == now else None for name, now in found for stat, info in [before.get(name, missing)]]


def remember_headers(listing: Listing, infos: Sequence[ImageInfo | None]) -> None:
    """Keep the headers for the next command."""
    if not listing.is_settled or listing.stats[:, 0].min(initial=0) < 0:
        return
    headers = Headers.of(infos)
    names = np.frombuffer(listing.names, np.uint8)
    arrays = {"names": names, "stats": listing.stats, "sizes": headers.sizes, "flags": headers.flags}
    _store(FOLDERS, _folder_key(listing.root), arrays)
    _keep_newest(_MAX_FOLDERS)


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
    arrays = _load(DECODED, key, ("values", "squares", "crcs", "clipped", "facts"))
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
        if _store(DECODED, self._key, arrays) and self._file is not None:
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


def _folder_key(root: Path) -> str:
    return hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:40]


def _load(folder: str, key: str, names: tuple[str, ...]) -> dict[str, np.ndarray] | None:
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


def _store(folder: str, key: str, arrays: dict[str, np.ndarray]) -> bool:
    """Write arrays into the cache, whole or not at all; False if it cannot be written."""
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]  # its stub takes no mapping
    try:
        path = private_folder(folder) / f"{key}.npz"
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_bytes(content.getvalue())
        temporary.replace(path)
    except OSError:
        return False
    return True


def _keep_newest(count: int) -> None:
    with suppress(OSError):
        files = sorted((user_cache() / FOLDERS).glob("*.npz"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in files[count:]:
            path.unlink(missing_ok=True)
