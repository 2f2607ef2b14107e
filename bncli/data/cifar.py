"""CIFAR-10 and CIFAR-100 in the binary version, from a folder or directly from the publisher's archive.

Letters: N examples.

A record holds the label (CIFAR-100: the coarse label, then the fine one, which is used), then 1,024 bytes each of red,
green and blue, row by row. Source: A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

import numpy as np

from bncli.data.compressed import DAMAGED, open_decompressed
from bncli.data.dataset import RawDataset, Split, check_labels
from bncli.data.known import KNOWN
from bncli.errors import DataError
from bncli.process.files import read_regular

_SIDE = 32
_PIXEL_BYTES = 3 * _SIDE * _SIDE
_CHUNK_BYTES = 1 << 20
# Limits on the decompressed size and the number of members of an archive. The published archives have 176 MiB in 9
# members; a malicious gzip of a few megabytes can unpack to gigabytes.
_MAX_BYTES = 256 << 20
_MAX_MEMBERS = 1000


@dataclass(frozen=True)
class CifarLayout:
    """The files of one of the two data sets."""

    name: str
    folder: str  # the folder its archive unpacks to
    archive: str
    label_bytes: int  # the last of these bytes is the label
    num_records: int  # in each train file
    num_test_records: int
    train_files: tuple[str, ...]
    test_file: str
    python_archive: str  # the Python version: its archive, the folder that unpacks to, and a file in there
    python_folder: str
    python_file: str

    @property
    def record_bytes(self) -> int:
        """The size of one record in bytes."""
        return self.label_bytes + _PIXEL_BYTES

    def records_in(self, file: str) -> int:
        """The number of records in the published ``file``."""
        return self.num_test_records if file == self.test_file else self.num_records

    @property
    def files(self) -> tuple[str, ...]:
        """All files, train first."""
        return (*self.train_files, self.test_file)


LAYOUTS = {
    "cifar10": CifarLayout(
        name="cifar10",
        folder="cifar-10-batches-bin",
        archive="cifar-10-binary.tar.gz",
        label_bytes=1,
        num_records=10_000,
        num_test_records=10_000,
        train_files=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        test_file="test_batch.bin",
        python_archive="cifar-10-python.tar.gz",
        python_folder="cifar-10-batches-py",
        python_file="data_batch_1",
    ),
    "cifar100": CifarLayout(
        name="cifar100",
        folder="cifar-100-binary",
        archive="cifar-100-binary.tar.gz",
        label_bytes=2,
        num_records=50_000,
        num_test_records=10_000,
        train_files=("train.bin",),
        test_file="test.bin",
        python_archive="cifar-100-python.tar.gz",
        python_folder="cifar-100-python",
        python_file="train",
    ),
}


def find_cifar(folder: Path, name: str) -> Path | None:
    """The folder of files or the archive in ``folder`` that holds the data set ``name``; None if there is neither."""
    layout = LAYOUTS[name]
    for place in (folder, folder / layout.folder):
        if any((place / file).is_file() for file in layout.files):
            return place
    archive = folder / layout.archive
    return archive if archive.is_file() else None


def find_pickled(folder: Path) -> tuple[CifarLayout, Path] | None:
    """The Python version of a CIFAR data set in ``folder``, which is pickled and never loaded; None if absent."""
    for layout in LAYOUTS.values():
        for name in (layout.python_archive, f"{layout.python_folder}/{layout.python_file}", layout.python_file):
            if (folder / name).is_file():
                return layout, folder / name
    return None


def refuse_pickled(layout: CifarLayout, place: Path) -> DataError:
    """The error about the Python version."""
    return DataError(
        f"{place}: this is the Python version of {layout.name}, which is pickled; bncli never loads a pickle",
        remedy=f"Get the binary version, {layout.archive}: bncli data fetch {layout.name}",
    )


def read_cifar_folder(folder: Path, name: str) -> RawDataset:
    """The data set ``name`` from its ``.bin`` files in ``folder``.

    Raises:
        DataError: a file is missing or has the wrong size, or a label is out of range.
    """
    layout = LAYOUTS[name]
    contents = _folder_contents(folder, layout)
    return _assemble(contents, layout, source=str(folder))


def read_cifar_archive(path: Path) -> RawDataset:
    """The data set in a tar archive, which is read member by member and never unpacked.

    Raises:
        DataError: the archive is damaged, or not the binary version of CIFAR-10 or CIFAR-100.
    """
    try:
        with open_decompressed(path) as decompressed:
            stream = cast(BinaryIO, _Bounded(decompressed, path))
            layout = _archive_layout(stream, path)
            raw = _assemble(_archive_contents(stream, layout, path), layout, source=str(path))
            _read_to_end(stream)
    except DataError:
        raise
    except Exception as error:  # for bad bytes tarfile raises whatever its parser raises first
        raise DataError(f"{path}: the archive is damaged: {error}", remedy=DAMAGED) from error
    return raw


class _Bounded:
    """A stream with the methods that tarfile needs, of which at most ``_MAX_BYTES`` can be read."""

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self._stream = stream
        self._path = path

    def read(self, size: int = -1) -> bytes:
        """Read like a stream. A larger ``size``, which a header may claim, is cut; DataError beyond the bound."""
        left = _MAX_BYTES - self._stream.tell()
        content = self._stream.read(left + 1 if size < 0 else min(size, left + 1))
        if len(content) > left:
            raise self._too_large()
        return content

    def seek(self, position: int) -> int:
        """Seek like a stream, from the start."""
        if position > _MAX_BYTES:
            raise self._too_large()
        return self._stream.seek(position)

    def tell(self) -> int:
        """The position, like a stream's."""
        return self._stream.tell()

    def _too_large(self) -> DataError:
        return DataError(
            f"{self._path}: unpacks to more than {_MAX_BYTES >> 20} MiB, which is more than the published archive",
            remedy="Get the archive from its publisher.",
        )


def _assemble(contents: Iterator[tuple[str, str, bytes]], layout: CifarLayout, *, source: str) -> RawDataset:
    """The data set from triples (file, its origin, its bytes) in any order."""
    splits = {file: _read_records(records, layout, origin) for file, origin, records in contents}
    if missing := [file for file in layout.files if file not in splits]:
        raise DataError(f"{source}: {layout.name} lacks {', '.join(missing)}", remedy=DAMAGED)
    warnings = tuple(_short_warnings(splits, layout, source))
    known = KNOWN[layout.name]
    return RawDataset(
        name=layout.name,
        class_names=known.class_names,
        train=_concatenate([splits.pop(file) for file in layout.train_files]),
        val=None,
        test=splits[layout.test_file],
        augmentation=known.augmentation,
        source=source,
        warnings=warnings,
    )


def _read_records(content: bytes, layout: CifarLayout, origin: str) -> Split:
    records = np.frombuffer(content, np.uint8).reshape(-1, layout.record_bytes)
    labels = records[:, layout.label_bytes - 1].astype(np.int32)  # [N]
    check_labels(labels, KNOWN[layout.name].num_classes, origin=origin)
    planes = records[:, layout.label_bytes :].reshape(-1, 3, _SIDE, _SIDE)  # [N, C, H, W]
    return Split(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels)


def _concatenate(splits: list[Split]) -> Split:
    if len(splits) == 1:
        return splits[0]
    return Split(np.concatenate([split.images for split in splits]), np.concatenate([split.labels for split in splits]))


def _short_warnings(splits: dict[str, Split], layout: CifarLayout, source: str) -> Iterator[str]:
    """A note about each file with fewer records than published; the format does not tell the reason."""
    for file, split in splits.items():
        if len(split) != layout.records_in(file):
            yield f"{source}: {file} holds {len(split):,} of its {layout.records_in(file):,} images"


def _folder_contents(folder: Path, layout: CifarLayout) -> Iterator[tuple[str, str, bytes]]:
    for file in layout.files:
        path = folder / file
        if not path.is_file():
            continue
        _check_size(path.stat().st_size, layout, file, origin=str(path))
        try:
            yield file, str(path), read_regular(path)
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _archive_contents(stream: BinaryIO, layout: CifarLayout, path: Path) -> Iterator[tuple[str, str, bytes]]:
    for archive, member in _members(stream, path):
        file = _file_name(member)
        if file not in layout.files:
            continue
        origin = f"{path}: {member.name}"
        content = archive.extractfile(member) if member.isreg() else None
        if content is None:
            raise DataError(f"{origin} is a link or a device, not a file", remedy="Get the archive from its publisher.")
        _check_size(member.size, layout, file, origin=origin)
        yield file, origin, content.read()


def _archive_layout(stream: BinaryIO, path: Path) -> CifarLayout:
    """The data set in an archive, judged by the names of its members; usually one of the first decides."""
    for _, member in _members(stream, path):
        for layout in LAYOUTS.values():
            if _file_name(member) in layout.files:
                return layout
            if layout.python_folder in PurePosixPath(member.name).parts:
                raise refuse_pickled(layout, path)
    raise DataError(
        f"{path}: the archive holds neither CIFAR-10 nor CIFAR-100 in the binary version",
        remedy="Unpack it, and give the folder with the images.",
    )


def _members(stream: BinaryIO, path: Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The members in order. Raise DataError if there are too many, since tarfile keeps them all in memory."""
    stream.seek(0)
    with tarfile.open(fileobj=stream, mode="r:") as archive:
        for number, member in enumerate(archive):
            if number == _MAX_MEMBERS:
                raise DataError(
                    f"{path}: more than {_MAX_MEMBERS:,} members", remedy="Get the archive from its publisher."
                )
            yield archive, member


def _read_to_end(stream: BinaryIO) -> None:
    """Read to the end, where gzip keeps its checksum; the tar archive ends earlier."""
    while stream.read(_CHUNK_BYTES):
        pass


def _file_name(member: tarfile.TarInfo) -> str:
    """The last part of a member's name; the folder that it would be unpacked to does not matter."""
    return PurePosixPath(member.name).name


def _check_size(size: int, layout: CifarLayout, file: str, *, origin: str) -> None:
    """Raise DataError unless ``size`` is a whole number of records, and at most the published number."""
    published = layout.records_in(file) * layout.record_bytes
    if size == 0 or size % layout.record_bytes or size > published:
        raise DataError(
            f"{origin}: {published} bytes expected ({layout.records_in(file)} records of {layout.record_bytes}), "
            f"{size} found",
            remedy=DAMAGED,
        )
