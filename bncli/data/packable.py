"""Data sets that can be packed: a folder of images, decoded image by image, or one in memory.

Letters: N images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np

from bncli.config.document import Crop
from bncli.data.augment import Augmentation
from bncli.data.dataset import RawDataset, dataset_sha256
from bncli.data.decoding import for_each
from bncli.data.folder import OpenedFolder, clipped_notes
from bncli.data.image_file import ImagePlace
from bncli.data.pixel_range import PixelRange
from bncli.data.sources import Shape

Outcome: TypeAlias = tuple[np.ndarray, bool] | str  # (image, True if it was clipped), or the reason it cannot be read


@dataclass(frozen=True)
class Heading:
    """All of a data set that is not about single images; for the attributes see ``RawDataset``."""

    name: str
    class_names: tuple[str, ...]
    augmentation: Augmentation
    pixel_range: PixelRange | None
    crop: Crop | None


class Contents(Protocol):
    """A data set that can be packed."""

    @property
    def key(self) -> str:
        """The name of all that its images depend on; another key means other images."""

    @property
    def labels(self) -> dict[str, np.ndarray]:
        """Split -> int32 [N], in the order train, val, test."""

    @property
    def shape(self) -> Shape:
        """The shape of each image."""

    def decode(self, split: str, start: int, stop: int) -> Iterator[Outcome]:
        """Some images of a split, in order."""

    def notes(self, bad: Sequence[tuple[str, int, str]], clipped: Sequence[tuple[str, int]]) -> tuple[str, ...]:
        """The notes to keep, given (split, place, reason) of the images that cannot be read, and those clipped.

        Raises:
            DataError: images cannot be read, and are to be refused.
        """

    @property
    def heading(self) -> Heading:
        """All that is not about single images."""


@dataclass(frozen=True)
class FolderContents:
    """A folder of images, files or records, which are decoded while they are packed."""

    opened: OpenedFolder

    @property
    def key(self) -> str:
        """The name of all that its images depend on."""
        return self.opened.images.key

    @property
    def labels(self) -> dict[str, np.ndarray]:
        """Split -> int32 [N]."""
        files = self.opened.images.files
        return {split: files.labels[files.places(split)] for split in files}

    @property
    def shape(self) -> Shape:
        """The shape of each image."""
        return self.opened.images.decoding.shape

    def decode(self, split: str, start: int, stop: int) -> Iterator[Outcome]:
        """Some images of a split, decoded by threads."""
        files, images = self.opened.images.files, self.opened.images
        paths: Sequence[ImagePlace] = files.files.chosen(files.places(split)[start:stop])
        return for_each(images.decoding, paths, split, None)

    def notes(self, bad: Sequence[tuple[str, int, str]], clipped: Sequence[tuple[str, int]]) -> tuple[str, ...]:
        """The notes on the folder and its images."""
        named = [(self._path(split, place), reason) for split, place, reason in bad]
        outside = [self._path(split, place) for split, place in clipped]
        pixel_range = self.opened.images.decoding.pixel_range
        return (*self.opened.notes, *clipped_notes(outside, pixel_range), *self.opened.check_bad(named))

    def _path(self, split: str, place: int) -> ImagePlace:
        files = self.opened.images.files
        return files.files[int(files.places(split)[place])]

    @property
    def heading(self) -> Heading:
        """All that is not about single images."""
        decoding, tree = self.opened.images.decoding, self.opened.tree
        return Heading(tree.name, tree.class_names, self.opened.augmentation, decoding.pixel_range, decoding.crop)


@dataclass(frozen=True)
class ArrayContents:
    """A data set that is in memory."""

    raw: RawDataset

    @property
    def key(self) -> str:
        """The name of all that its images depend on."""
        return dataset_sha256(self.raw)

    @property
    def labels(self) -> dict[str, np.ndarray]:
        """Split -> int32 [N]."""
        splits = {"train": self.raw.train, "val": self.raw.val, "test": self.raw.test}
        return {name: split.labels for name, split in splits.items() if split is not None}

    @property
    def shape(self) -> Shape:
        """The shape of each image."""
        height, width, channels = self.raw.train.images.shape[1:]
        return height, width, channels

    def decode(self, split: str, start: int, stop: int) -> Iterator[Outcome]:
        """Some images of a split."""
        images = {"train": self.raw.train, "val": self.raw.val, "test": self.raw.test}[split]
        assert images is not None, split
        return ((images.images[place], False) for place in range(start, stop))

    def notes(self, bad: Sequence[tuple[str, int, str]], clipped: Sequence[tuple[str, int]]) -> tuple[str, ...]:
        """The notes on the data set."""
        return self.raw.warnings

    @property
    def heading(self) -> Heading:
        """All that is not about single images."""
        raw = self.raw
        return Heading(raw.name, raw.class_names, raw.augmentation, raw.pixel_range, raw.crop)
