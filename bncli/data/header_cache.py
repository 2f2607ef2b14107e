"""The headers of an image folder's files, and their cache: a file that has not changed is not opened again.

::

    ~/.cache/bncli/folders/FOLDER.npz    the header of each file, by path, size, and times of the last change

Letters: N files, H W height and width.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bncli.data.cache_files import keep_newest, load_arrays, store_arrays
from bncli.data.folder_listing import Listing
from bncli.data.image_file import ImageInfo

FOLDERS = "folders"
_MAX_FOLDERS = 64
_GREY, _DEEP, _FRAMES = 1, 2, 4


@dataclass(frozen=True, eq=False)
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
        flags = [0 if info is None else _flags(info) for info in infos]
        return cls(sizes.reshape(-1, 2), np.array(flags, np.uint8))

    @classmethod
    def none(cls, count: int) -> Headers:
        """So many files without a header."""
        return cls(np.zeros((count, 2), np.int32), np.zeros(count, np.uint8))

    def __len__(self) -> int:
        return len(self.flags)

    @property
    def is_readable(self) -> np.ndarray:
        """True for each file with a header: bool [N]."""
        return self.sizes[:, 0] > 0

    @property
    def is_grey(self) -> np.ndarray:
        """True for each image without colours: bool [N]."""
        return (self.flags & _GREY) > 0

    @property
    def is_deep(self) -> np.ndarray:
        """True for each image of more than 8 bits per channel: bool [N]."""
        return (self.flags & _DEEP) > 0

    @property
    def has_frames(self) -> np.ndarray:
        """True for each image of more frames or pages than one: bool [N]."""
        return (self.flags & _FRAMES) > 0

    def chosen(self, places: np.ndarray) -> Headers:
        """Those at some places."""
        return Headers(self.sizes[places], self.flags[places])

    def with_read(self, places: np.ndarray, infos: Sequence[ImageInfo | None]) -> Headers:
        """The same, with headers that were read at some places."""
        read, sizes, flags = Headers.of(infos), self.sizes.copy(), self.flags.copy()
        sizes[places], flags[places] = read.sizes, read.flags
        return Headers(sizes, flags)


def _flags(info: ImageInfo) -> int:
    return _GREY * info.is_grey + _DEEP * info.is_deep + _FRAMES * info.has_frames


def remembered_headers(listing: Listing) -> Headers:
    """The headers of the files that have not changed since they were read; none for every other file."""
    arrays = load_arrays(FOLDERS, _folder_key(listing.root), ("names", "stats", "sizes", "flags"))
    if arrays is None:
        return Headers.none(len(listing.stats))
    places, is_known = _places_before(arrays["names"].tobytes(), listing.names, len(listing.stats))
    if not len(arrays["stats"]):
        return Headers.none(len(listing.stats))
    is_same = is_known & (arrays["stats"][places] == listing.stats).all(axis=1)
    sizes, flags = arrays["sizes"][places], arrays["flags"][places]
    return Headers(np.where(is_same[:, None], sizes, 0).astype(np.int32), np.where(is_same, flags, 0).astype(np.uint8))


def _places_before(before: bytes, now: bytes, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(the place of each of ``count`` names in an earlier list, or 0; True for each that was in it)."""
    if before == now:
        return np.arange(count), np.ones(count, bool)
    known = {name: place for place, name in enumerate(before.split(b"\0")[:-1])}
    places = np.array([known.get(name, -1) for name in now.split(b"\0")[:-1]], np.int64)
    return np.maximum(places, 0), places >= 0


def remember_headers(listing: Listing, headers: Headers) -> None:
    """Keep the headers for the next command."""
    if not listing.is_settled or listing.stats[:, 0].min(initial=0) < 0:
        return
    names = np.frombuffer(listing.names, np.uint8)
    arrays = {"names": names, "stats": listing.stats, "sizes": headers.sizes, "flags": headers.flags}
    store_arrays(FOLDERS, _folder_key(listing.root), arrays)
    keep_newest(FOLDERS, _MAX_FOLDERS)


def _folder_key(root: Path) -> str:
    return hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:40]
