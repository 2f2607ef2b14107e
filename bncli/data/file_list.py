"""The images of a folder, files or records, in little memory and little time.

A ``Path`` of each file would take ten times the memory, and a folder of 200,000 files ten seconds. So the names are one
string of bytes, and paths are made when they are asked for.

Letters: N files of a list, M names that it chooses from.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, overload

import numpy as np

from bncli.data.image_file import ImagePlace
from bncli.data.record_list import RecordList


class FileList(Sequence[Path]):
    """Files below one folder, as paths that are made when they are asked for."""

    def __init__(self, root: Path, names: bytes, ends: np.ndarray, places: np.ndarray) -> None:
        """Files chosen from some names; ``FileList.of`` and ``FileList.in_folders`` make one.

        Args:
            root: the folder.
            names: the paths below it, each ended by a zero byte.
            ends: int64 [M], the place of each zero byte.
            places: int64 [N], the names that are chosen.
        """
        self._root, self._names, self._ends, self._places = root, names, ends, places
        self._below = str(root / "_")[:-1]  # as a path spells it: "" for the current folder

    @classmethod
    def of(cls, root: Path, paths: Iterable[Path]) -> FileList:
        """The list of ``paths``, all below ``root``."""
        return cls._named(root, (str(path.relative_to(root)) for path in paths))

    @classmethod
    def in_folders(cls, root: Path, folders: Iterable[tuple[Path, Sequence[str]]]) -> FileList:
        """The files of folders below ``root``, each given with the names in it."""
        below = ((f"{folder.relative_to(root)}{os.sep}", names) for folder, names in folders)
        return cls._named(root, (prefix + name for prefix, names in below for name in names))

    @classmethod
    def _named(cls, root: Path, names: Iterable[str]) -> FileList:
        encoded = os.fsencode("".join(f"{name}\0" for name in names))
        ends = np.flatnonzero(np.frombuffer(encoded, np.uint8) == 0)
        return cls(root, encoded, ends, np.arange(len(ends)))

    @property
    def root(self) -> Path:
        """The folder."""
        return self._root

    @property
    def names(self) -> bytes:
        """The paths below the folder, each ended by a zero byte."""
        if np.array_equal(self._places, np.arange(len(self._ends))):
            return self._names
        every = self._names.split(b"\0")
        return b"".join(every[place] + b"\0" for place in self._places.tolist())

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Path: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Path]: ...

    def __getitem__(self, index: int | slice) -> Path | Sequence[Path]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self._root / os.fsdecode(self._name(int(self._places[index])))

    def text(self, index: int) -> str:
        """The path of a file as text, made in a tenth of the time."""
        return self._below + os.fsdecode(self._name(int(self._places[index])))

    def __iter__(self) -> Iterator[Path]:
        return (self[index] for index in range(len(self)))

    def chosen(self, indices: np.ndarray) -> FileList:
        """The files at these places; the names are shared with this list."""
        return FileList(self._root, self._names, self._ends, self._places[indices])

    def _name(self, place: int) -> bytes:
        start = int(self._ends[place - 1]) + 1 if place else 0
        return self._names[start : int(self._ends[place])]


ImageFiles: TypeAlias = FileList | RecordList


@dataclass(frozen=True, eq=False)
class SplitFiles(Mapping[str, Sequence[tuple[ImagePlace, int]]]):
    """The images of a folder and their labels, split after split: split -> its pairs of (place, label).

    Attributes:
        files: files or records, of all splits, in the order train, val, test.
        labels: int32 [N].
        counts: the number of files of each split.
    """

    files: ImageFiles
    labels: np.ndarray
    counts: dict[str, int]

    def __getitem__(self, split: str) -> Sequence[tuple[ImagePlace, int]]:
        places = self.places(split)
        return list(zip(self.files.chosen(places), self.labels[places].tolist(), strict=True))

    def __iter__(self) -> Iterator[str]:
        return iter(self.counts)

    def __len__(self) -> int:
        return len(self.counts)

    def places(self, split: str) -> np.ndarray:
        """The places of a split's files: int64."""
        start = 0
        for name, count in self.counts.items():
            if name == split:
                return np.arange(start, start + count)
            start += count
        raise KeyError(split)

    def without(self, places: Iterable[int]) -> SplitFiles:
        """All files but those at some places."""
        keep = np.ones(len(self.files), bool)
        keep[list(places)] = False
        counts = {split: int(keep[self.places(split)].sum()) for split in self.counts}
        kept = np.flatnonzero(keep)
        return SplitFiles(self.files.chosen(kept), self.labels[kept], counts)
