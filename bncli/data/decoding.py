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
from typing import TypeAlias, TypeVar

import numpy as np

from bncli.config.document import Crop
from bncli.data.dataset import DatasetDigest, Split
from bncli.data.file_list import FileList, SplitFiles
from bncli.data.folder_listing import Listing
from bncli.data.image_file import ImagePlace, decode, quiet_pillow, reason_of
from bncli.data.lazy_images import Images, LazyImages, PixelSums, image_sums
from bncli.data.pixel_cache import CachedSource, Measured, Pixels, PixelWriter, content_key, remembered, writing
from bncli.data.pixel_range import PixelRange
from bncli.data.sources import FileSource, ImageSource, Shape
from bncli.data.splits import take_out
from bncli.process.hardware import num_cores

Progress = Callable[[str, int, int | None], None]
Failures: TypeAlias = Mapping[int, str]  # place of a file -> the reason
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

    def __call__(self, path: ImagePlace) -> tuple[np.ndarray, bool]:
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
    bad: list[tuple[ImagePlace, str]]
    clipped: list[ImagePlace]
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
        found = remembered(self.key, self.decoding.shape)
        decoded = None if found is None or found.pixels is None else self._from_cache(found, found.pixels)
        return decoded or self._decoded()

    def stream(self) -> Decoded:
        """Measure all images, unless they were measured before; keep none."""
        found = remembered(self.key, self.decoding.shape)
        return self._measured() if found is None else self._described(found)

    @property
    def key(self) -> str:
        """The name of all that the decoded images depend on."""
        labels = np.concatenate([list(self.files.counts.values()), self.files.labels])
        return content_key(self.listing, labels, (tuple(self.files), self.decoding))

    def _num_bytes(self, files: SplitFiles) -> int:
        return len(files.files) * math.prod(self.decoding.shape)

    def _named(self, bad: Failures) -> list[tuple[ImagePlace, str]]:
        return [(self.files.files[place], reason) for place, reason in bad.items()]

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
            splits[name], start = Split(images, split.labels, split.files), start + len(split)
        if digest.hexdigest() != found.sha256:
            pixels.discard()
            return None
        return Decoded(splits, described.bad, described.clipped, found.sha256)

    def _described(self, found: Measured) -> Decoded:
        """The images that were measured before, streamed."""
        bad = dict(found.bad)
        clipped: list[ImagePlace] = [self.files.files[place] for place in found.clipped]
        return Decoded(self._streamed(self.files.without(bad), found), self._named(bad), clipped, found.sha256)

    def _streamed(self, files: SplitFiles, measured: Measured) -> dict[str, Split]:
        decoding = self.decoding
        original = FileSource(files.files, decoding.shape, decoding.pixel_range, decoding.crop)
        source: ImageSource = original if measured.pixels is None else CachedSource(measured.pixels, original)
        return {name: _split(files, name, LazyImages(source, files.places(name), measured.sums)) for name in files}

    def _measured(self) -> Decoded:
        """Decode every file once, for the SHA-256 and the pixel statistics.

        If some cannot be decoded, the others are measured again, since the SHA-256 begins with their number.
        """
        bad: dict[int, str] = {}
        while True:
            files = self.files.without(bad)
            places = np.delete(np.arange(len(self.files.files)), list(bad)).tolist()
            with writing(self.key, self._num_bytes(files)) as writer:
                record, failed = _Record(self, files, writer), dict[int, str]()
                for split in files:
                    record.begin(split)
                    paths: Sequence[ImagePlace] = files.files.chosen(files.places(split))
                    outcomes = for_each(self.decoding, paths, f"measuring {split}", self.progress)
                    for place, outcome in zip(files.places(split).tolist(), outcomes, strict=True):
                        if isinstance(outcome, str):
                            failed[places[place]] = outcome
                        else:
                            record.add(places[place], *outcome)
                if not failed:
                    measured = record.finish(bad)
                    return self._described(remembered(self.key, self.decoding.shape) or measured)
            bad |= failed

    def _decoded(self) -> Decoded:
        """Decode all files into memory."""
        kept = dict[str, np.ndarray]()
        bad, clipped = dict[int, str](), set[int]()
        for name in self.files:
            kept[name], outcomes = self._decode_split(name)
            for place, outcome in zip(self.files.places(name).tolist(), outcomes, strict=True):
                if isinstance(outcome, str):
                    bad[place] = outcome
                elif outcome:
                    clipped.add(place)
        files = self.files.without(bad)
        places = np.delete(np.arange(len(self.files.files)), list(bad)).tolist()
        with writing(self.key, self._num_bytes(files)) as writer:
            record = _Record(self, files, writer)
            for name in files:
                record.begin(name)
                for place, image in zip(files.places(name).tolist(), kept[name], strict=True):
                    record.add(places[place], image, places[place] in clipped)
            measured = record.finish(bad)
        splits = {name: _split(files, name, images) for name, images in kept.items()}
        return Decoded(splits, self._named(bad), [self.files.files[place] for place in record.clipped], measured.sha256)

    def _decode_split(self, name: str) -> tuple[np.ndarray, list[bool | str]]:
        """(the images of a split that can be decoded, for each file True if it was clipped or the reason it cannot)."""
        paths = self.files.files.chosen(self.files.places(name))
        images = np.empty((len(paths), *self.decoding.shape), np.uint8)

        def decode_into(index: int) -> bool:
            images[index], is_clipped = self.decoding(paths[index])
            return is_clipped

        outcomes = list(for_each(decode_into, range(len(paths)), f"decoding {name}", self.progress))
        failed = [index for index, outcome in enumerate(outcomes) if isinstance(outcome, str)]
        return take_out(images, np.array(failed, np.int64))[0], outcomes


class _Record:
    """Measures decoded images one after another, and hands them to the cache."""

    def __init__(self, images: FolderImages, files: SplitFiles, writer: PixelWriter) -> None:
        self.clipped: list[int] = []
        self._images, self._files, self._writer = images, files, writer
        self._digest = DatasetDigest()
        self._split: str | None = None
        self._sums: list[tuple[np.ndarray, np.ndarray]] = []

    def begin(self, split: str) -> None:
        """Begin with the images of a split."""
        self._end()
        self._split = split
        self._digest.begin_images(split, (self._files.counts[split], *self._images.decoding.shape))

    def add(self, place: int, image: np.ndarray, is_clipped: bool) -> None:
        """Add the image [H, W, C] of the file at a place of the folder."""
        self._digest.add(image)
        self._sums.append(image_sums(image))
        self._writer.add(image)
        if is_clipped:
            self.clipped.append(place)

    def finish(self, bad: Failures) -> Measured:
        """The measurement of all images; it is kept in the cache, with the files that could not be decoded."""
        self._end()
        measured = Measured(
            self._digest.hexdigest(),
            PixelSums(*(np.array(sums, np.uint64).reshape(len(sums), -1) for sums in zip(*self._sums, strict=True))),
            tuple(self.clipped),
            tuple(bad.items()),
        )
        self._writer.finish(self._images.listing, measured)
        return measured

    def _end(self) -> None:
        if self._split is not None:
            self._digest.add_labels(self._split, self._files.labels[self._files.places(self._split)])


def _split(files: SplitFiles, name: str, images: Images) -> Split:
    """A split of a folder: its images, labels and files; records are no files."""
    places = files.places(name)
    own = files.files.chosen(places)
    return Split(images, files.labels[places], own if isinstance(own, FileList) else None)


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
