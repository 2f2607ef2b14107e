"""The ArrayRecord files of a plain folder by split; ``tfds_layout.py`` does the same for those that TFDS prepares.

The names of the files tell the splits: ``[NAME-]SPLIT.array_record``, whole or in numbered files. No
record is read here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bncli.config.file_names import displayed
from bncli.data.array_record import num_records
from bncli.data.image_layout import split_of
from bncli.errors import DataError
from bncli.process.files import read_regular

FORMAT = "array_record"
SPLITS = ("train", "val", "test")
_NUMBERED = re.compile(r"-(\d{5,})-of-(\d{5,})")
_NAMES = ("label.labels.txt", "labels.txt")
_MAX_NAMES = 16 << 20


@dataclass(frozen=True)
class Fields:
    """The names of the two features that are read."""

    image: str
    label: str


@dataclass(frozen=True)
class RecordLayout:
    """The ArrayRecord files of a data set.

    Attributes:
        root: the folder.
        name: of the data set.
        files: split -> its files, in the order train, val, test.
        counts: the number of records in each file.
        fields: None if the records must tell.
        class_names: None if the labels must tell.
        descriptions: the files that say all this.
        notes: a sentence on each thing to know.
    """

    root: Path
    name: str
    files: dict[str, tuple[Path, ...]]
    counts: dict[Path, int]
    fields: Fields | None
    class_names: tuple[str, ...] | None
    descriptions: tuple[Path, ...]
    notes: tuple[str, ...] = ()


def record_files(folder: Path) -> list[Path]:
    """The ArrayRecord files of a folder, in the order of their names."""
    return sorted(path for path in folder.glob(f"*.{FORMAT}*") if not path.name.startswith(".") and path.is_file())


def plain_layout(root: Path) -> RecordLayout:
    """The layout of a folder of ArrayRecord files that nothing else describes.

    Raises:
        DataError: the names of the files do not tell the splits, or one is missing or damaged.
    """
    series: dict[str, list[Path]] = {}
    for path in record_files(root):
        series.setdefault(_stem(path), []).append(path)
    for paths in series.values():
        _check_whole(paths)
    files: dict[str, list[Path]] = {}
    for stem, paths in series.items():
        files.setdefault(_split_of(root, stem, list(series)), []).extend(paths)
    require_train(root, list(files), [_last_word(stem) for stem in series])
    names = [root / name for name in _NAMES if (root / name).is_file()][:1]
    return RecordLayout(
        root=root,
        name=displayed(root.resolve().name),
        files={split: tuple(files[split]) for split in SPLITS if split in files},
        counts={path: num_records(path) for paths in files.values() for path in paths},
        fields=None,
        class_names=read_class_names(names[0]) if names else None,
        descriptions=tuple(names),
    )


def _stem(path: Path) -> str:
    """The name of a file without its number and its ending."""
    return _NUMBERED.sub("", path.name).partition(f".{FORMAT}")[0]


def _last_word(stem: str) -> str:
    return re.split(r"[-_.]", stem)[-1]


def _split_of(root: Path, stem: str, stems: Sequence[str]) -> str:
    """The split of a series of files; "train" if no name tells one.

    Raises:
        DataError: other names do.
    """
    split = split_of(_last_word(stem))
    if split is None and any(split_of(_last_word(other)) for other in stems):
        raise DataError(
            f"{root / stem}.{FORMAT}: its name does not tell its split, as others do",
            remedy=f"Name it SPLIT.{FORMAT} or NAME-SPLIT.{FORMAT}, with train, validation or test; or move it away.",
        )
    return split or "train"


def _check_whole(paths: Sequence[Path]) -> None:
    """Raise DataError if one of a series of numbered files is missing."""
    for path in paths:
        if (found := _NUMBERED.search(path.name)) is None:
            continue
        for number in range(min(int(found[2]), len(paths) + 1)):
            other = f"-{number:0{len(found[1])}}-of-{found[2]}"
            sibling = path.with_name(_NUMBERED.sub(other, path.name))
            if not sibling.is_file():
                raise DataError(f"{sibling}: missing, though {path.name} is there", remedy="Copy the whole folder.")
        return


def require_train(root: Path, found: Sequence[str], names: Sequence[str]) -> None:
    """Raise DataError if there is no train split.

    Args:
        root: the folder.
        found: the splits.
        names: the names of all splits in the folder.
    """
    if "train" not in found:
        named = ", ".join(map(displayed, names)) or "none"
        raise DataError(f"{root}: no split of the name train; those that are there: {named}")


def read_class_names(path: Path) -> tuple[str, ...]:
    """The names of the classes, one a line.

    Raises:
        DataError: the file cannot be read, or names a class twice.
    """
    try:
        lines = read_regular(path, limit=_MAX_NAMES).decode().split("\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not the names of classes in UTF-8, one a line") from error
    names = tuple(displayed(line.strip()) for line in lines if line.strip())
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path}: names the class {twice} twice", remedy="Give each class a name of its own.")
    return names
