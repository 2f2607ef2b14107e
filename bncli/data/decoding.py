"""The images of a folder's files: decoded into memory, or measured and streamed; from the cache if it has them.

Letters: N files, H W height and width, C channels.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np

from bncli.config.document import Crop
from bncli.data.dataset import DatasetDigest, Split
from bncli.data.file_list import FileList
from bncli.data.folder_cache import (
    CachedSource,
    Listing,
    Measured,
    Pixels,
    PixelWriter,
    content_key,
    remembered,
    writing,
)
from bncli.data.image_file import decode, quiet_pillow, reason_of
from bncli.data.lazy_images import LazyImages, PixelSums, image_sums
from bncli.data.pixel_range import PixelRange
from bncli.data.sources import FileSource, ImageSource, Shape
from bncli.data.splits import take_out
from bncli.process.hardware import num_cores

Progress = Callable[[str, int, int | None], None]
Files: TypeAlias = Sequence[tuple[Path, int]]
SplitFiles: TypeAlias = Mapping[str, Files]  # in the order train, val, test
T = TypeVar("T")
R = TypeVar("R")

_FILES_PER_TASK = 64
_TASKS_AHEAD = 4  # for each thread


@dataclass(frozen=True)
class Decoding:
    """The way from an image file to uint8 [H, W, C]; for the attributes see ``decode``."""

    shape: Shape
    pixel_range: PixelRange | None
    crop: Crop | None

    def __call__(self, path: Path) -> tuple[np.ndarray, bool]:
        """(the image, True if a pixel was outside the range)."""
        return decode(path, self.shape, self.pixel_range, self.crop)


@dataclass(frozen=True)
class Decoded:
    """The images of all splits.

    Attributes:
        splits: images and labels by split.
        bad: (file, reason) of each whose pixels cannot be read.
        clipped: files with pixels outside the range.
        sha256: of the data set.
    """

    splits: dict[str, Split]
    bad: list[tuple[Path, str]]
    clipped: list[Path]
    sha256: str


@dataclass(frozen=True)
class FolderImages:
    """The files of a folder, and the way to their images.

    Attributes:
        listing: all files of the folder, for the cache.
        files: those with a readable header, by split.
        decoding: the way from a file to its image.
        progress: called with (stage, files done, number of files).
    """

    listing: Listing
    files: SplitFiles
    decoding: Decoding
    progress: Progress | None

    def read(self) -> Decoded:
        """Decode all images into memory, unless they are in the cache."""
        found = remembered(self._key, self.decoding.shape)
        decoded = None if found is None or found.pixels is None else self._from_cache(found, found.pixels)
        return decoded or self._decoded()

    def stream(self) -> Decoded:
        """Measure all images, unless they were measured before; keep none."""
        found = remembered(self._key, self.decoding.shape)
        return self._measured() if found is None else self._described(found)

    @property
    def _key(self) -> str:
        labels = [label for files in self.files.values() for _, label in files]
        counts = [len(files) for files in self.files.values()]
        return content_key(self.listing, np.array([*counts, *labels], np.int64), (tuple(self.files), self.decoding))

    @property
    def _paths(self) -> list[Path]:
        return [path for files in self.files.values() for path, _ in files]

    def _without(self, bad: Mapping[Path, str]) -> dict[str, Files]:
        return {split: [row for row in files if row[0] not in bad] for split, files in self.files.items()}

    def _num_bytes(self, files: SplitFiles) -> int:
        return sum(map(len, files.values())) * math.prod(self.decoding.shape)

    def _from_cache(self, found: Measured, pixels: Pixels) -> Decoded | None:
        """The decoded images in memory; None if those in the cache are damaged."""
        described = self._described(found)
        splits: dict[str, Split] = {}
        digest, start = DatasetDigest(), 0
        for name, split in described.splits.items():
            images = pixels.array(start, start + len(split))
            if images is None:
                return None
            digest.begin_images(name, images.shape)
            digest.add(images)
            digest.add_labels(name, split.labels)
            splits[name], start = Split(images, split.labels, tuple(split.files or ())), start + len(split)
        if digest.hexdigest() != found.sha256:
            pixels.discard()
            return None
        return Decoded(splits, described.bad, described.clipped, found.sha256)

    def _described(self, found: Measured) -> Decoded:
        """The images that were measured before, streamed."""
        paths = self._paths
        bad = {paths[place]: reason for place, reason in found.bad}
        clipped = [paths[place] for place in found.clipped]
        return Decoded(self._streamed(self._without(bad), found), list(bad.items()), clipped, found.sha256)

    def _streamed(self, files: SplitFiles, measured: Measured) -> dict[str, Split]:
        everything = FileList.of(self.listing.root, (path for rows in files.values() for path, _ in rows))
        decoding = self.decoding
        original = FileSource(everything, decoding.shape, decoding.pixel_range, decoding.crop)
        source: ImageSource = original if measured.pixels is None else CachedSource(measured.pixels, original)
        splits, start = {}, 0
        for name, rows in files.items():
            places = np.arange(start, start + len(rows))
            labels = np.array([label for _, label in rows], np.int32)
            splits[name] = Split(LazyImages(source, places, measured.sums), labels, everything.chosen(places))
            start += len(rows)
        return splits

    def _measured(self) -> Decoded:
        """Decode every file once, for the SHA-256 and the pixel statistics.

        If some cannot be decoded, the others are measured again, since the SHA-256 begins with their number.
        """
        bad: dict[Path, str] = {}
        while True:
            files = self._without(bad)
            with writing(self._key, self._num_bytes(files)) as writer:
                record, failed = _Record(self, files, writer), dict[Path, str]()
                for split, rows in files.items():
                    record.begin(split)
                    outcomes = for_each(self.decoding, [path for path, _ in rows], f"measuring {split}", self.progress)
                    for (path, _), outcome in zip(rows, outcomes, strict=True):
                        if isinstance(outcome, str):
                            failed[path] = outcome
                        else:
                            record.add(path, *outcome)
                if not failed:
                    measured = record.finish(bad)
                    return self._described(remembered(self._key, self.decoding.shape) or measured)
            bad |= failed

    def _decoded(self) -> Decoded:
        """Decode all files into memory."""
        splits, kept = dict[str, Split](), dict[str, np.ndarray]()
        bad, clipped = dict[Path, str](), set[Path]()
        for name, rows in self.files.items():
            images = np.empty((len(rows), *self.decoding.shape), np.uint8)

            def decode_into(index: int, rows: Files = rows, images: np.ndarray = images) -> bool:
                images[index], is_clipped = self.decoding(rows[index][0])
                return is_clipped

            outcomes = list(for_each(decode_into, range(len(rows)), f"decoding {name}", self.progress))
            kept[name], splits[name] = _without_failed(rows, images, outcomes)
            for (path, _), outcome in zip(rows, outcomes, strict=True):
                if isinstance(outcome, str):
                    bad[path] = outcome
                elif outcome:
                    clipped.add(path)
        files = self._without(bad)
        with writing(self._key, self._num_bytes(files)) as writer:
            record = _Record(self, files, writer)
            for name, rows in files.items():
                record.begin(name)
                for (path, _), image in zip(rows, kept[name], strict=True):
                    record.add(path, image, path in clipped)
            measured = record.finish(bad)
        return Decoded(splits, list(bad.items()), list(record.clipped), measured.sha256)


class _Record:
    """Measures decoded images one after another, and hands them to the cache."""

    def __init__(self, images: FolderImages, files: SplitFiles, writer: PixelWriter) -> None:
        self.clipped: list[Path] = []
        self._images, self._files, self._writer = images, files, writer
        self._digest = DatasetDigest()
        self._split: str | None = None
        self._sums: list[tuple[np.ndarray, np.ndarray]] = []

    def begin(self, split: str) -> None:
        """Begin with the images of a split."""
        self._end()
        self._split = split
        self._digest.begin_images(split, (len(self._files[split]), *self._images.decoding.shape))

    def add(self, path: Path, image: np.ndarray, is_clipped: bool) -> None:
        """Add an image [H, W, C]."""
        self._digest.add(image)
        self._sums.append(image_sums(image))
        self._writer.add(image)
        if is_clipped:
            self.clipped.append(path)

    def finish(self, bad: Mapping[Path, str]) -> Measured:
        """The measurement of all images; it is kept in the cache, with the files that could not be decoded."""
        self._end()
        places = {path: place for place, path in enumerate(self._images._paths)}
        measured = Measured(
            self._digest.hexdigest(),
            PixelSums(*(np.array(sums, np.uint64).reshape(len(sums), -1) for sums in zip(*self._sums, strict=True))),
            tuple(places[path] for path in self.clipped),
            tuple((places[path], reason) for path, reason in bad.items()),
        )
        self._writer.finish(self._images.listing, measured)
        return measured

    def _end(self) -> None:
        if self._split is not None:
            labels = np.array([label for _, label in self._files[self._split]], np.int32)
            self._digest.add_labels(self._split, labels)


def _without_failed(files: Files, images: np.ndarray, outcomes: Sequence[bool | str]) -> tuple[np.ndarray, Split]:
    """(the images that were decoded, their split)."""
    failed = np.asarray([index for index, outcome in enumerate(outcomes) if isinstance(outcome, str)], np.int64)
    labels = np.asarray([label for _, label in files], np.int32)
    paths = tuple(path for (path, _), outcome in zip(files, outcomes, strict=True) if not isinstance(outcome, str))
    decoded = take_out(images, failed)[0]
    return decoded, Split(decoded, take_out(labels, failed)[0], paths)


def for_each(function: Callable[[T], R], items: Sequence[T], what: str, progress: Progress | None) -> Iterator[R | str]:
    """``function`` of each item, in order, computed by threads; the reason for each item on which it fails."""

    def run(start: int) -> list[R | str]:
        return [_attempt(function, item) for item in items[start : start + _FILES_PER_TASK]]

    done, pending = 0, deque[Future[list[R | str]]]()
    starts = iter(range(0, len(items), _FILES_PER_TASK))
    with quiet_pillow(), ThreadPoolExecutor(num_cores()) as pool:
        pending.extend(pool.submit(run, start) for start in islice(starts, _TASKS_AHEAD * num_cores()))
        while pending:  # results wait for the caller, so only so many may be under way
            results = pending.popleft().result()
            pending.extend(pool.submit(run, start) for start in islice(starts, 1))
            yield from results
            done += len(results)
            if progress is not None:
                progress(what, done, len(items))


def _attempt(function: Callable[[T], R], item: T) -> R | str:
    # For bad bytes Pillow's decoders raise whatever their parser raises first (OSError, SyntaxError, ValueError,
    # struct.error, IndexError, …). Any exception means that the file is damaged.
    try:
        return function(item)
    except MemoryError:  # says nothing about the file
        raise
    except Exception as error:
        return reason_of(error)
