"""The common form of every data set: images uint8 [N, H, W, C] and labels int32 [N], in three splits.

Letters: N examples, H W height and width, C channels, K classes.

A reader returns a `RawDataset`. `build_dataset` checks and hashes it, carves out missing splits and measures the
pixels. Readers know formats; the work that is common to all data sets is here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from bncli.config.document import Crop
from bncli.data.augment import Augmentation
from bncli.data.file_list import FileList
from bncli.data.lazy_images import MOST_ROWS, Images, LazyImages, channel_sums
from bncli.data.pixel_range import PixelRange
from bncli.data.splits import stratified_sample, take_out
from bncli.errors import DataError

# The test split of a data set without one: its share, and the seed that picks it. Both are fixed, so the test scores of
# two runs with different seeds are about the same images.
TEST_FRACTION = 0.2
TEST_SEED = 20150706

Files: TypeAlias = FileList | None

_MIN_STD = 1 / 255  # one grey level; a channel below it is constant, and dividing by less would only amplify noise
_CHUNK_BYTES = 1 << 22
_CHUNK_IMAGES = 256


@dataclass(frozen=True)
class Split:
    """Images and their labels. Images that do not fit into memory are read when they are asked for."""

    images: Images  # uint8 [N, H, W, C]
    labels: np.ndarray  # int32 [N]
    files: Files = None  # [N], the image files; None for a source that has none

    def __post_init__(self) -> None:
        assert self.images.dtype == np.uint8, self.images.dtype
        assert self.images.ndim == 4, self.images.shape
        assert self.labels.dtype == np.int32, self.labels.dtype
        assert self.labels.shape == self.images.shape[:1], self.labels.shape
        assert self.files is None or len(self.files) == len(self.labels), len(self.files)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def is_streamed(self) -> bool:
        """True if the images are not in memory."""
        return isinstance(self.images, LazyImages)


@dataclass(frozen=True)
class RawDataset:
    """The content of a source; a missing split is None. ``build_dataset`` reuses the memory of ``train``.

    A reader whose images are not in memory has measured their ``sha256`` itself.
    """

    name: str
    class_names: tuple[str, ...]
    train: Split
    val: Split | None
    test: Split | None
    augmentation: Augmentation
    source: str
    warnings: tuple[str, ...] = ()
    pixel_range: PixelRange | None = None
    crop: Crop | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Dataset:
    """A data set that is ready to train on."""

    name: str
    class_names: tuple[str, ...]  # [K]
    train: Split
    val: Split
    test: Split
    mean: tuple[float, ...]  # [C], of the train images scaled to [0, 1], unless the run has its own
    std: tuple[float, ...]  # [C], likewise; never 0
    augmentation: Augmentation
    source: str  # path or name that it was read from, for the run's record
    sha256: str  # of all images and labels before any split is carved out, so it does not depend on the seed
    warnings: tuple[str, ...] = ()  # for the command to show
    pixel_range: PixelRange | None = None  # the values that became 0 and 255; None for a source of 8 bits
    crop: Crop | None = None  # the way that image files took to their size, if they did not just cover it

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    @property
    def is_streamed(self) -> bool:
        """True if the training images are not in memory."""
        return self.train.is_streamed

    def streamed(self) -> Dataset:
        """The same data set, whose images are read when they are asked for."""
        return replace(self, train=_streamed(self.train), val=_streamed(self.val), test=_streamed(self.test))


def _streamed(split: Split) -> Split:
    if isinstance(split.images, LazyImages):
        return split
    return replace(split, images=LazyImages.of_array(split.images))


def build_dataset(raw: RawDataset, *, val_fraction: float, seed: int) -> Dataset:
    """``raw`` with all three splits, its hash and the statistics of its train pixels.

    Args:
        raw: the result of a reader; its train images are rearranged in place, which saves a copy of them.
        val_fraction: the share of train that becomes val, stratified by class, if the source has no val.
        seed: picks the examples of val.

    Raises:
        DataError: a split is empty, a label or class is out of range, or a class is too small to be split.
    """
    _check_raw(raw)
    sha256 = raw.sha256 or dataset_sha256(raw)
    train, test = _carve_test(raw)
    train, val = _carve_val(raw, train, val_fraction=val_fraction, seed=seed)
    mean, std = pixel_statistics(train.images)
    return Dataset(
        name=raw.name,
        class_names=raw.class_names,
        train=train,
        val=val,
        test=test,
        mean=mean,
        std=std,
        augmentation=raw.augmentation,
        source=raw.source,
        sha256=sha256,
        warnings=raw.warnings,
        pixel_range=raw.pixel_range,
        crop=raw.crop,
    )


def check_labels(labels: np.ndarray, num_classes: int, *, origin: str) -> None:
    """Raise DataError for the first label outside 0 … K-1; the message names ``origin``, its index and its value."""
    outside = (labels < 0) | (labels >= num_classes)
    if outside.any():
        index = int(outside.argmax())
        raise DataError(
            f"{origin}: label {index} is {labels[index]}, but there are {num_classes} classes",
            remedy=f"Labels must be integers from 0 to {num_classes - 1}.",
        )


def numbered_classes(labels: np.ndarray, *, origin: str) -> tuple[str, ...]:
    """The class names ``0`` … ``K-1``, for a source that does not name its classes.

    Args:
        labels: the train labels, integers [N] of any width.
        origin: origin of the labels, for error messages.

    Raises:
        DataError: there are no labels, one is negative, or a number below the largest does not occur.
    """
    present = np.unique(labels)
    if len(present) == 0:
        raise DataError(f"{origin}: no labels", remedy="The train split needs examples.")
    if present[0] < 0:
        index = int((labels < 0).argmax())
        raise DataError(f"{origin}: label {index} is {labels[index]}", remedy="Number the classes from 0 on.")
    gaps = np.flatnonzero(present != np.arange(len(present)))
    if len(gaps):
        raise DataError(
            f"{origin}: the largest label is {present[-1]}, but no example has label {gaps[0]}",
            remedy="Number the classes from 0 on without gaps.",
        )
    return tuple(map(str, range(len(present))))


def dataset_sha256(raw: RawDataset) -> str:
    """SHA-256 over the splits in the order train, val, test: name, dtype, shape, little-endian bytes of each array."""
    digest = DatasetDigest()
    for name, split in _present_splits(raw):
        digest.begin_images(name, split.images.shape)
        for start in range(0, len(split), _CHUNK_IMAGES):
            digest.add(split.images[start : start + _CHUNK_IMAGES])
        digest.add_labels(name, split.labels)
    return digest.hexdigest()


class DatasetDigest:
    """The SHA-256 of a data set, image by image: ``dataset_sha256`` of images that are never in memory together."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def begin_images(self, split: str, shape: tuple[int, ...]) -> None:
        """Begin with the images of a split, [N, H, W, C]; ``add`` them in their order."""
        self._digest.update(f"{split}/images uint8 {shape}\n".encode())

    def add(self, images: np.ndarray) -> None:
        """Add one image or several, uint8."""
        self._digest.update(np.ascontiguousarray(images).reshape(-1).data)

    def add_labels(self, split: str, labels: np.ndarray) -> None:
        """Add the labels of a split, int32 [N]."""
        self._digest.update(f"{split}/labels {labels.dtype.name} {labels.shape}\n".encode())
        self.add(np.ascontiguousarray(labels, dtype="<i4").view(np.uint8))

    def hexdigest(self) -> str:
        """The SHA-256 of what was added."""
        return self._digest.hexdigest()


def pixel_statistics(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of uint8 images scaled to [0, 1].

    The sums are integers, chunk by chunk: exact, the same in any order, and without a float copy of the images.

    Args:
        images: uint8 [N, H, W, C], N > 0.

    Returns:
        mean [C] and std [C]; std is at least one grey level, 1 / 255.
    """
    total, squares = images.totals() if isinstance(images, LazyImages) else _totals(images)
    count = images.size // images.shape[3]
    mean = total / count
    var = np.maximum(squares / count - mean * mean, 0)
    std = np.maximum(np.sqrt(var) / 255, _MIN_STD)
    return tuple((mean / 255).tolist()), tuple(std.tolist())


def _totals(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sums of all pixels and of their squares, uint64 [C] each."""
    channels = images.shape[3]
    total, squares = np.zeros((2, channels), np.uint64)
    for rows in _row_chunks(images):
        for sums, part in zip((total, squares), channel_sums(rows, channels), strict=True):
            sums += part
    return total, squares


def _row_chunks(images: np.ndarray) -> Iterator[np.ndarray]:
    """The images in chunks of bounded size, each [images, H * W * C]."""
    image_bytes = max(1, images[0].nbytes)
    step = min(MOST_ROWS, max(1, _CHUNK_BYTES // image_bytes))
    for start in range(0, len(images), step):
        chunk = images[start : start + step]
        yield chunk.reshape(len(chunk), -1)


def _present_splits(raw: RawDataset) -> Iterator[tuple[str, Split]]:
    for name, split in (("train", raw.train), ("val", raw.val), ("test", raw.test)):
        if split is not None:
            yield name, split


def _check_raw(raw: RawDataset) -> None:
    num_classes = len(raw.class_names)
    for name, split in _present_splits(raw):
        if len(split) == 0:
            raise DataError(f"{raw.source}: the {name} split is empty", remedy="Every split needs examples.")
        if split.images.size == 0:
            raise DataError(f"{raw.source}: the {name} images have no pixels, their shape is {split.images.shape}")
        if split.images.shape[1:] != raw.train.images.shape[1:]:
            raise DataError(
                f"{raw.source}: {name} images are {_format_shape(split)}, but train images {_format_shape(raw.train)}",
                remedy="Give all splits the same height, width and channels.",
            )
        check_labels(split.labels, num_classes, origin=f"{raw.source}: {name}")
    _check_classes(raw)


def _check_classes(raw: RawDataset) -> None:
    counts = np.bincount(raw.train.labels, minlength=len(raw.class_names))
    if len(counts) < 2:
        raise DataError(
            f"{raw.source}: there is only one class, {raw.class_names[0]}",
            remedy="A classifier needs at least two classes.",
        )
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        names = ", ".join(f"{raw.class_names[i]} ({i})" for i in empty[:10])
        raise DataError(
            f"{raw.source}: {len(empty)} of {len(counts)} classes have no training example: {names}",
            remedy="Number the labels from 0 on without gaps, and give every class an example in train.",
        )


def _carve_test(raw: RawDataset) -> tuple[Split, Split]:
    """(train, test); test is the source's own, or a fixed stratified part of train that does not depend on a seed."""
    if raw.test is not None:
        return raw.train, raw.test
    chosen = stratified_sample(raw.train.labels, TEST_FRACTION, seed=TEST_SEED)
    _check_not_empty(raw, chosen, "test")
    return _split_off(raw.train, chosen)


def _carve_val(raw: RawDataset, train: Split, *, val_fraction: float, seed: int) -> tuple[Split, Split]:
    """(train, val); val is the source's own, or a stratified part of ``train`` that ``seed`` picks."""
    if raw.val is not None:
        return train, raw.val
    chosen = stratified_sample(train.labels, val_fraction, seed=seed)
    _check_not_empty(raw, chosen, "val")
    return _split_off(train, chosen)


def _split_off(split: Split, chosen: np.ndarray) -> tuple[Split, Split]:
    kept_images, images = _images_apart(split.images, chosen)
    kept_labels, labels = take_out(split.labels, chosen)
    kept_files, files = _files_apart(split.files, chosen)
    return Split(kept_images, kept_labels, kept_files), Split(images, labels, files)


def _images_apart(images: Images, chosen: np.ndarray) -> tuple[Images, Images]:
    """(the other images, the chosen ones)."""
    return images.split(chosen) if isinstance(images, LazyImages) else take_out(images, chosen)


def _files_apart(files: Files, chosen: np.ndarray) -> tuple[Files, Files]:
    """(the other files, the chosen ones)."""
    if files is None:
        return None, None
    return files.chosen(np.delete(np.arange(len(files)), chosen)), files.chosen(chosen)


def _check_not_empty(raw: RawDataset, chosen: np.ndarray, name: str) -> None:
    if len(chosen) == 0:
        raise DataError(
            f"{raw.source}: every class has a single example, so none can go to the {name} split",
            remedy=f"Add examples, or give the data set a {name} split of its own.",
        )


def _format_shape(split: Split) -> str:
    return "x".join(map(str, split.images.shape[1:]))
