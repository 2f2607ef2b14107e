"""Batches of images that are not in memory, read ahead of the step that uses them.

Letters: B batch size, S steps in an epoch.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from bncli.data.batches import Batch, epoch_batch, epoch_order, read_keys, steps_per_epoch
from bncli.data.dataset import Split
from bncli.data.grain_stream import read_ahead
from bncli.data.lazy_images import Images, LazyImages, read_into
from bncli.data.read_augment import AS_IT_IS, ReadAugmentation
from bncli.data.sources import ArraySource, ImageSource

_ENDLESS = 1 << 40  # a training reads on until it is closed


@dataclass(frozen=True)
class TrainingBatches:
    """The images of all steps of a training from ``start`` on, each a pure function of (seed, epoch, step).

    Attributes:
        source: of the images.
        rows: int64 [N], the place of each training image in the source.
        seed: of the order.
        batch_size: B.
        start: the first step, counted from the beginning of the run.
        changes: those made where the images are read.
        part: the rows of each batch that are read, of several processes that share it.
    """

    source: ImageSource
    rows: np.ndarray
    seed: int
    batch_size: int
    start: int
    changes: ReadAugmentation = AS_IT_IS
    part: slice = field(default_factory=lambda: slice(None))  # Python 3.11 takes it for mutable

    @property
    def batch_bytes(self) -> int:
        """The memory of one batch."""
        return self.batch_size * math.prod(self.source.shape)

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, number: int) -> np.ndarray:
        """The images of step ``start + number``, uint8 [B, H, W, C]."""
        epoch, step = divmod(self.start + number, steps_per_epoch(len(self.rows), self.batch_size))
        batch = epoch_batch(_order(self.seed, epoch, len(self.rows)), self.batch_size, step)
        indices = batch.indices[self.part]
        rows = self.rows[indices]
        if self.changes.is_none:
            return _read(self.source, rows)
        return self.changes.read(self.source, rows, read_keys(self.seed, epoch, indices))


@dataclass(frozen=True)
class FixedBatches:
    """The images of given batches, once.

    Attributes:
        source: of the images.
        rows: int64 [S, B], the places of each batch's images in the source.
    """

    source: ImageSource
    rows: np.ndarray

    @property
    def batch_bytes(self) -> int:
        """The memory of one batch."""
        return int(self.rows.shape[1]) * math.prod(self.source.shape)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> np.ndarray:
        """The images of one batch, uint8 [B, H, W, C]."""
        return _read(self.source, self.rows[number])


class TrainingFeed:
    """Reads the images of training batches, from any step on.

    The steps of a run follow each other, so it reads on across epochs. After a jump, such as the return to a save, it
    starts anew.
    """

    def __init__(self, batches: TrainingBatches, *, workers: int = 0) -> None:
        """Nothing is read before the first step.

        Args:
            batches: of the training.
            workers: processes that read; 0 reads by threads of this process.
        """
        self._batches, self._workers = batches, workers
        self._reading: Generator[np.ndarray, None, None] | None = None
        self._next = 0

    def images(self, step: int) -> np.ndarray:
        """The images of a step, counted from the beginning of the run: uint8 [B, H, W, C]."""
        if self._reading is None or step != self._next:
            self.close()
            self._reading = read_ahead(replace(self._batches, start=step), workers=self._workers)
            self._next = step
        self._next += 1
        return next(self._reading)

    def close(self) -> None:
        """End the reading."""
        if self._reading is not None:
            self._reading.close()
            self._reading = None


def training_feed(
    split: Split, changes: ReadAugmentation, *, seed: int, batch_size: int, part: slice, workers: int
) -> TrainingFeed | None:
    """The feed of a training; None if its images are in memory as they are, where the step gathers them.

    Args:
        split: the training split.
        changes: those made where the images are read.
        seed: of the order.
        batch_size: B.
        part: the rows of each batch that this process reads.
        workers: processes that read; 0 reads by threads of this process.
    """
    images = split.images
    if isinstance(images, LazyImages):
        return TrainingFeed(
            TrainingBatches(images.source, images.rows, seed, batch_size, 0, changes, part), workers=workers
        )
    if changes.is_none:
        return None
    source, rows = ArraySource(images), np.arange(len(images))
    return TrainingFeed(TrainingBatches(source, rows, seed, batch_size, 0, changes, part), workers=workers)


def images_of(images: Images, batches: list[Batch], part: slice = slice(None)) -> Iterator[np.ndarray]:
    """The images of each batch in turn, [B, H, W, C]; read ahead if they are not in memory.

    Args:
        images: of a split.
        batches: of the split.
        part: the rows of each batch that are read, of several processes that share it.
    """
    if not isinstance(images, LazyImages):
        return (images[batch.indices[part]] for batch in batches)
    rows = np.stack([images.rows[batch.indices[part]] for batch in batches])
    return read_ahead(FixedBatches(images.source, rows), workers=0)


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    return epoch_order(seed, epoch, num_examples)


def _read(source: ImageSource, rows: np.ndarray) -> np.ndarray:
    images = np.empty((len(rows), *source.shape), np.uint8)
    read_into(images, source, rows)
    return images
