"""Images that are records of ArrayRecord files, each in a ``tf.train.Example`` with its label.

Letters: N records of a list, M of all its files.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import overload

import numpy as np

from bncli.data.array_record import read_record
from bncli.data.examples import Example, bytes_of, parse_example
from bncli.errors import DataError


@dataclass(frozen=True, slots=True)
class Record:
    """One record.

    Attributes:
        file: the ArrayRecord file.
        place: its number there, from 0.
        feature: the name of the image's feature.
    """

    file: Path
    place: int
    feature: str

    def __str__(self) -> str:
        return f"{self.file}: record {self.place}"

    def example(self) -> Example:
        """The parsed record.

        Raises:
            ValueError: the file is damaged here, or the record is no ``tf.train.Example``.
        """
        try:
            content = read_record(self.file, self.place)
        except DataError as error:
            raise ValueError(error.message.removeprefix(f"{self} ").removeprefix(f"{self.file}: ")) from error
        return parse_example(content)

    def read(self) -> bytes:
        """The encoded image.

        Raises:
            ValueError: the record cannot be read, or holds no image.
        """
        return bytes_of(self.example(), self.feature)


@dataclass(frozen=True, eq=False)
class RecordList(Sequence[Record]):
    """Records chosen from files, made when they are asked for.

    Attributes:
        files: the ArrayRecord files.
        counts: records in each.
        feature: the name of the image's feature.
        places: int64 [N], the chosen records by their number among the M of all files.
    """

    files: tuple[Path, ...]
    counts: tuple[int, ...]
    feature: str
    places: np.ndarray

    @classmethod
    def whole(cls, files: Sequence[Path], counts: Sequence[int], feature: str) -> RecordList:
        """All records of some files."""
        return cls(tuple(files), tuple(counts), feature, np.arange(sum(counts)))

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *np.cumsum(self.counts).tolist()]

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Record]: ...

    def __getitem__(self, index: int | slice) -> Record | Sequence[Record]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        number = int(self.places[index])
        file = bisect.bisect_right(self._starts, number) - 1
        return Record(self.files[file], number - self._starts[file], self.feature)

    def __iter__(self) -> Iterator[Record]:
        return (self[index] for index in range(len(self)))

    def chosen(self, indices: np.ndarray) -> RecordList:
        """The records at these places."""
        return RecordList(self.files, self.counts, self.feature, self.places[indices])
