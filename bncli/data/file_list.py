"""The image files of a split, in little memory: a ``Path`` of each would take ten times as much."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np


class FileList(Sequence[Path]):
    """Files below one folder, as paths that are made when they are asked for."""

    def __init__(self, root: Path, names: bytes, ends: np.ndarray) -> None:
        """Files of the given names; ``FileList.of`` makes one from paths.

        Args:
            root: the folder.
            names: the paths below it, one after another.
            ends: int64 [N], the end of each name.
        """
        self._root, self._names, self._ends = root, names, ends

    @classmethod
    def of(cls, root: Path, paths: Iterable[Path]) -> FileList:
        """The list of ``paths``, all below ``root``."""
        start = len(os.fsencode(root)) + 1
        return cls._named(root, [os.fsencode(path)[start:] for path in paths])

    @classmethod
    def _named(cls, root: Path, names: list[bytes]) -> FileList:
        return cls(root, b"".join(names), np.cumsum([len(name) for name in names], dtype=np.int64))

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> Path: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Path]: ...

    def __getitem__(self, index: int | slice) -> Path | Sequence[Path]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self._root / os.fsdecode(self._name(index % len(self)))

    def __iter__(self) -> Iterator[Path]:
        return (self[index] for index in range(len(self)))

    def chosen(self, indices: np.ndarray) -> FileList:
        """The files at these places."""
        return self._named(self._root, [self._name(index) for index in indices.tolist()])

    def _name(self, place: int) -> bytes:
        start = int(self._ends[place - 1]) if place else 0
        return self._names[start : int(self._ends[place])]
