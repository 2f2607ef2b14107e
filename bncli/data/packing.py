"""Pack a data set into a few large files of decoded pixels; ``packed.py`` reads them.

Shard after shard is written under a temporary name and renamed when it is whole; its index follows. So a packing that
was killed goes on behind its last whole shard. At the end all shards are read again, for the SHA-256 of the data set,
and ``dataset.json`` is written. A packing that has ended goes on in the same way: nothing is left to write but what has
been damaged since.

Letters: N images, M of one shard, H W height and width, C channels.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bncli.config.json_types import Document
from bncli.config.packed_file import SCHEMA, PackedFile, PackedShard, packed_text
from bncli.data.array_record import write_records
from bncli.data.dataset import DatasetDigest
from bncli.data.decoding import Progress
from bncli.data.lazy_images import PixelSums, pixel_sums
from bncli.data.packable import Contents
from bncli.data.packed import DATASET, INDEX, PACKING, RECORDS, PackedSource, parse_index, read_images, read_index
from bncli.errors import DataError, UsageError
from bncli.process.files import file_sha256, read_regular, write_whole
from bncli.process.memory import format_bytes

_PACKING_SCHEMA = "bncli.packing/1"
# Large enough to be read fast, small enough that a killed packing has lost little.
SHARD_BYTES = 64 << 20
_MAX_PLAN = 1 << 16
_MAX_INDEX_BYTES = 1 << 30
_OTHER_FOLDER = "Name a folder that does not exist yet."


@dataclass(frozen=True)
class PackResult:
    """The outcome of a packing.

    Attributes:
        folder: with the packed images.
        sha256: of the data set.
        num_images: in all splits.
        num_bytes: of the shards.
        shards: how many there are.
        kept: shards that were whole already.
        notes: sentences for the user.
    """

    folder: Path
    sha256: str
    num_images: int
    num_bytes: int
    shards: int
    kept: int
    notes: tuple[str, ...]


def pack(
    contents: Contents, out: Path, *, progress: Progress | None = None, shard_bytes: int = SHARD_BYTES
) -> PackResult:
    """Pack a data set into a folder, or go on with that.

    Args:
        contents: the data set.
        out: a folder that is new, or that an earlier call with the same contents has begun or filled.
        progress: called with (stage, images done, number of images).
        shard_bytes: largest size of a shard's pixels, if it holds more than one image.

    Raises:
        DataError: images cannot be read, the disk is full, or the data set has changed since the packing began.
        UsageError: the folder holds something else.
    """
    contents.notes([], [])  # unreadable headers are refused before anything is decoded
    per_shard = max(1, shard_bytes // math.prod(contents.shape))
    plan = {"schema": _PACKING_SCHEMA, "content": contents.key, "images_per_shard": per_shard}
    try:
        _begin(out, plan)
        _require_room(contents, out)
        packing = _Packing(contents, out, per_shard, progress)
        written = {split: packing.write(split) for split in contents.labels}
        return packing.finish(written)
    except OSError as error:
        raise DataError(
            f"{out}: cannot be written: {error.strerror or error}",
            remedy="Make room or name another folder, and run the command again: it goes on.",
        ) from error


def _begin(out: Path, plan: Document) -> None:
    """Create the folder with the plan, or check that it has this plan.

    Raises:
        UsageError: it holds something else.
    """
    path = out / PACKING
    if path.is_file():
        begun = _parsed(read_regular(path, limit=_MAX_PLAN))
        if begun != plan:
            raise UsageError(
                f"{out}: it was begun with other data or other options, or the data have changed since",
                remedy=f"{_OTHER_FOLDER} Or remove this one.",
            )
        for leftover in out.glob(".*-of-*"):  # what a killed packing was writing
            leftover.unlink(missing_ok=True)
        return
    if (out / DATASET).is_file():  # of an earlier bncli, which removed its plan at the end
        raise UsageError(f"{out}: holds packed images already", remedy=_OTHER_FOLDER)
    out.mkdir(parents=True, exist_ok=True)
    if next(out.iterdir(), None) is not None:
        raise UsageError(f"{out}: not an empty folder", remedy=_OTHER_FOLDER)
    write_whole(path, json.dumps(plan).encode())


def _parsed(content: bytes) -> object:
    try:
        return json.loads(content)
    except ValueError:
        return None


def _require_room(contents: Contents, out: Path) -> None:
    """Raise DataError if the shards that are missing cannot fit on the disk."""
    num_bytes = sum(map(len, contents.labels.values())) * math.prod(contents.shape)
    there = sum(path.stat().st_size for path in out.glob(f"*{RECORDS}"))
    free = shutil.disk_usage(out).free
    if num_bytes - there > free:
        raise DataError(
            f"{out}: {format_bytes(num_bytes)} of images to pack, {format_bytes(free)} of disk left",
            remedy="Choose a smaller --image-size, or another disk.",
        )


@dataclass(frozen=True)
class _Written:
    """A shard that is whole, and its images that were left out (place in the split, reason) or clipped (place)."""

    shard: PackedShard
    bad: tuple[tuple[int, str], ...]
    clipped: tuple[int, ...]


@dataclass(frozen=True)
class _Packing:
    """The packing of a data set."""

    contents: Contents
    out: Path
    per_shard: int
    progress: Progress | None

    def write(self, split: str) -> list[tuple[_Written, bool]]:
        """The shards of a split, each with True if it was whole already."""
        count = len(self.contents.labels[split])
        starts = range(0, count, self.per_shard)
        shards = []
        for number, start in enumerate(starts):
            name, stop = f"{split}-{number:05}-of-{len(starts):05}", min(start + self.per_shard, count)
            kept = self._kept(name)
            shards.append((kept or self._shard(split, name, start, stop), kept is not None))
            if self.progress is not None:
                self.progress(f"packing {split}", stop, count)
        return shards

    def _kept(self, name: str) -> _Written | None:
        """A shard that an earlier call has written; None if it is not whole."""
        path = self.out / f"{name}{INDEX}"
        try:
            content = read_regular(path, limit=_MAX_INDEX_BYTES)
            written = _written_of(content, name, self.contents.shape[2], path)
            is_whole = file_sha256(self.out / f"{name}{RECORDS}") == written.shard.sha256
        except Exception:  # for damaged archives NumPy raises whatever its parser raises first
            return None
        return written if is_whole else None

    def _shard(self, split: str, name: str, start: int, stop: int) -> _Written:
        """Write the shard of some images of a split."""
        labels, images = list[int](), list[np.ndarray]()
        bad, clipped = list[tuple[int, str]](), list[int]()
        outcomes = self.contents.decode(split, start, stop)
        for place, outcome in zip(range(start, stop), outcomes, strict=True):
            if isinstance(outcome, str):
                bad.append((place, outcome))
                continue
            images.append(outcome[0])
            labels.append(int(self.contents.labels[split][place]))
            if outcome[1]:
                clipped.append(place)
        stacked = np.array(images, np.uint8).reshape(len(images), *self.contents.shape)
        path = self.out / f"{name}{RECORDS}"
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            write_records(temporary, (image.tobytes() for image in stacked))
            facts = {"bad": bad, "clipped": clipped, "num_bytes": temporary.stat().st_size}
            facts["sha256"] = file_sha256(temporary)
            temporary.replace(path)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        index = _index(np.array(labels, np.int32), pixel_sums(stacked), facts)
        write_whole(self.out / f"{name}{INDEX}", index)
        return _written_of(index, name, self.contents.shape[2], path)

    def finish(self, written: dict[str, list[tuple[_Written, bool]]]) -> PackResult:
        """Read all shards again, and write ``dataset.json``."""
        rows = [(split, shard) for split, shards in written.items() for shard, _ in shards]
        bad = [(split, place, reason) for split, one in rows for place, reason in one.bad]
        clipped = [(split, place) for split, one in rows for place in one.clipped]
        notes = self.contents.notes(bad, clipped)
        heading = self.contents.heading
        packed = PackedFile(
            schema=SCHEMA,
            name=heading.name,
            shape=self.contents.shape,
            class_names=heading.class_names,
            sha256=self._sha256(written),
            shards={split: tuple(one.shard for one, _ in shards) for split, shards in written.items()},  # type: ignore[misc]
            pixel_range=heading.pixel_range,
            crop=heading.crop,
            max_shift=heading.augmentation.max_shift,
            pad_mode=heading.augmentation.pad_mode,
            horizontal_flip=heading.augmentation.horizontal_flip,
            notes=notes,
        )
        write_whole(self.out / DATASET, packed_text(packed).encode())
        shards = [one.shard for _, one in rows]
        kept = sum(is_kept for shards in written.values() for _, is_kept in shards)
        num_images, num_bytes = sum(one.images for one in shards), sum(one.num_bytes for one in shards)
        return PackResult(self.out, packed.sha256, num_images, num_bytes, len(shards), kept, notes)

    def _sha256(self, written: dict[str, list[tuple[_Written, bool]]]) -> str:
        """The SHA-256 of the data set, of what was written."""
        digest, done = DatasetDigest(), 0
        total = sum(one.shard.images for shards in written.values() for one, _ in shards)
        for split, shards in written.items():
            count = sum(one.shard.images for one, _ in shards)
            digest.begin_images(split, (count, *self.contents.shape))
            labels = []
            for one, _ in shards:
                source = PackedSource(
                    (self.out / f"{one.shard.name}{RECORDS}",), (one.shard.images,), self.contents.shape
                )
                images = np.empty((one.shard.images, *self.contents.shape), np.uint8)
                read_images(source, images)
                digest.add(images)
                index = read_index(self.out, one.shard, self.contents.shape)
                labels.append(index.labels)
                done += len(images)
                if self.progress is not None:
                    self.progress("checking what was packed", done, total)
            digest.add_labels(split, np.concatenate(labels))
        return digest.hexdigest()


def _index(labels: np.ndarray, sums: PixelSums, facts: Document) -> bytes:
    """The bytes of a shard's index."""
    content = io.BytesIO()
    text = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    np.savez(content, labels=labels, values=sums.values, squares=sums.squares, facts=text)
    return content.getvalue()


def _written_of(content: bytes, name: str, channels: int, path: Path) -> _Written:
    """The shard that an index tells of."""
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        facts, count = json.loads(archive["facts"].tobytes()), len(archive["labels"])
    parse_index(content, count, channels, path)
    shard = PackedShard(
        name=name,
        images=count,
        num_bytes=facts["num_bytes"],
        sha256=facts["sha256"],
        index_sha256=hashlib.sha256(content).hexdigest(),
    )
    bad = tuple((int(place), str(reason)) for place, reason in facts["bad"])
    return _Written(shard, bad, tuple(map(int, facts["clipped"])))
