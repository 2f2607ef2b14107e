"""Random access to the images of a split, wherever they lie: in memory or in files.

A source is read by threads and, pickled, by other processes. Reading one image depends on nothing but its index.

Letters: N images, H W height and width, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np

from bncli.config.document import Crop
from bncli.data.file_list import FileList
from bncli.data.image_file import ImagePlace, decode, decode_part, reason_of, resized_part
from bncli.data.pixel_range import PixelRange
from bncli.errors import DataError

Shape: TypeAlias = tuple[int, int, int]  # (H, W, C)


class ImageSource(Protocol):
    """Images that can be read one by one, in any order and from any thread or process."""

    @property
    def shape(self) -> Shape:
        """The shape of each image."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> np.ndarray:
        """One image, uint8 [H, W, C]."""

    def read_crop(self, index: int, bits: np.ndarray, min_area: float) -> np.ndarray:
        """A random part of one image, resized to [H, W, C]; see ``draw_box``."""


@dataclass(frozen=True)
class ArraySource:
    """Images in memory."""

    images: np.ndarray  # uint8 [N, H, W, C]

    @property
    def shape(self) -> Shape:
        """The shape of each image."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> np.ndarray:
        """One image, uint8 [H, W, C]."""
        image: np.ndarray = self.images[index]
        return image

    def read_crop(self, index: int, bits: np.ndarray, min_area: float) -> np.ndarray:
        """A random part of one image, resized to [H, W, C]."""
        return resized_part(self.images[index], bits, min_area)


@dataclass(frozen=True)
class FileSource:
    """Image files or records, decoded when they are read.

    Attributes:
        files: one for each image.
        shape: of each image.
        pixel_range: the values that become 0 and 255, if pixels have more than 8 bits.
        crop: the way to the size; None scales each image until it just covers it.
    """

    files: Sequence[ImagePlace]
    shape: Shape
    pixel_range: PixelRange | None = None
    crop: Crop | None = None

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> np.ndarray:
        """One image, uint8 [H, W, C].

        Raises:
            DataError: the file, which was readable when the data set was opened, no longer is.
        """
        return self._read(index, lambda path: decode(path, self.shape, self.pixel_range, self.crop)[0])

    def read_crop(self, index: int, bits: np.ndarray, min_area: float) -> np.ndarray:
        """A random part of one image file, resized to [H, W, C]."""
        return self._read(index, lambda path: decode_part(path, self.shape, self.pixel_range, bits, min_area))

    def _read(self, index: int, decoded: Callable[[ImagePlace], np.ndarray]) -> np.ndarray:
        path = self.files.text(index) if isinstance(self.files, FileList) else self.files[index]
        try:
            return decoded(path)
        except MemoryError:
            raise
        except Exception as error:
            raise DataError(
                f"{path}: {reason_of(error)}; it was readable when the data set was opened",
                remedy="Restore the file, and continue with --resume.",
            ) from error
