"""The images of a split that are not in memory: an array to its users, which reads what is asked for.

Letters: N images, H W height and width, C channels.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from bncli.data.sources import ArraySource, ImageSource
from bncli.process.hardware import num_cores

_FEW = 8  # images that are read without threads
MOST_ROWS = 2**16  # so many squares of 255 fit into 32 bits


@dataclass(frozen=True)
class PixelSums:
    """For each image, the sums of its pixels and of their squares: uint64 [N, C]."""

    values: np.ndarray
    squares: np.ndarray


@dataclass(frozen=True, eq=False)
class LazyImages:
    """Some images of a source, uint8 [N, H, W, C]; indexing reads them.

    Attributes:
        source: where they come from.
        rows: int64 [N], the place of each in the source.
        sums: of the images of the source.
    """

    source: ImageSource
    rows: np.ndarray
    sums: PixelSums

    @classmethod
    def whole(cls, source: ImageSource, sums: PixelSums) -> LazyImages:
        """All images of a source."""
        return cls(source, np.arange(len(source)), sums)

    @classmethod
    def of_array(cls, images: np.ndarray) -> LazyImages:
        """An array as images that are read one by one."""
        return cls.whole(ArraySource(images), pixel_sums(images))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, H, W, C)."""
        return (len(self.rows), *self.source.shape)

    @property
    def dtype(self) -> np.dtype:
        """uint8."""
        return np.dtype(np.uint8)

    @property
    def ndim(self) -> int:
        """4."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of pixel values."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """The memory that the images would take."""
        return self.size

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | slice | np.ndarray) -> np.ndarray:
        """The image [H, W, C] at one place, or the images [M, H, W, C] at several."""
        rows = self.rows[key]
        if rows.ndim == 0:
            return self.source.read(int(rows))
        images = np.empty((len(rows), *self.source.shape), np.uint8)
        if len(rows) <= _FEW:
            read_into(images, self.source, rows)
            return images
        parts = np.array_split(np.arange(len(rows)), min(len(rows), 4 * num_cores()))
        with ThreadPoolExecutor(num_cores()) as pool:
            for _ in pool.map(lambda part: read_into(images[part[0] : part[-1] + 1], self.source, rows[part]), parts):
                pass
        return images

    def split(self, chosen: np.ndarray) -> tuple[LazyImages, LazyImages]:
        """(the other images, those at the places ``chosen``)."""
        keep = np.ones(len(self.rows), bool)
        keep[chosen] = False
        return (
            LazyImages(self.source, self.rows[keep], self.sums),
            LazyImages(self.source, self.rows[chosen], self.sums),
        )

    def totals(self) -> tuple[np.ndarray, np.ndarray]:
        """The sums over all pixels of these images, and of their squares: uint64 [C] each."""
        return self.sums.values[self.rows].sum(axis=0), self.sums.squares[self.rows].sum(axis=0)


Images: TypeAlias = np.ndarray | LazyImages  # uint8 [N, H, W, C]


def subset(images: Images, chosen: np.ndarray) -> Images:
    """The images at the places ``chosen``, in this order; still not in memory if they were not."""
    if isinstance(images, LazyImages):
        return LazyImages(images.source, images.rows[chosen], images.sums)
    taken: np.ndarray = images[chosen]
    return taken


def read_into(images: np.ndarray, source: ImageSource, rows: np.ndarray) -> None:
    """Read the images ``rows`` of a source into an array [M, H, W, C]."""
    for place, row in enumerate(rows):
        images[place] = source.read(int(row))


def pixel_sums(images: np.ndarray) -> PixelSums:
    """The sums of each image of an array [N, H, W, C], image by image."""
    values = np.empty((len(images), images.shape[3]), np.uint64)
    squares = np.empty_like(values)
    for index, image in enumerate(images):
        values[index], squares[index] = image_sums(image)
    return PixelSums(values, squares)


def image_sums(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sums of the pixels [H, W, C] and of their squares: uint64 [C] each."""
    height, width, channels = image.shape
    return channel_sums(image.reshape(height, width * channels), channels)


def channel_sums(rows: np.ndarray, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """The sums of pixels per channel, and of their squares: uint64 [C] each.

    Whole rows are added first, twenty times as fast as the channels of one pixel after another.

    Args:
        rows: uint8 [R, P * C], P pixels in each; faster up to ``MOST_ROWS``.
        channels: C.
    """
    wide = np.dtype(np.uint32 if len(rows) <= MOST_ROWS else np.uint64)
    values = rows.sum(axis=0, dtype=wide)
    squares = np.multiply(rows, rows, dtype=np.uint16).sum(axis=0, dtype=wide)
    return _of_channels(values, channels), _of_channels(squares, channels)


def _of_channels(sums: np.ndarray, channels: int) -> np.ndarray:
    """Sums of columns [P * C], added per channel: uint64 [C]."""
    added: np.ndarray = sums.reshape(-1, channels).sum(axis=0, dtype=np.uint64)
    return added
