"""The image files that paths name, folders included; no file is opened here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from bncli.data.image_layout import list_folder, unused_notes
from bncli.errors import DataError

Chunk: TypeAlias = tuple[int, int, str]  # (0, number, "") or (1, 0, word)

_DIGITS = re.compile(r"([0-9]+)")


@dataclass(frozen=True)
class BadFolder:
    """A folder without images to use, and the reason."""

    path: Path
    reason: str


@dataclass(frozen=True)
class FoundImages:
    """The image files below some paths.

    Attributes:
        images: files as they were named, and those of each folder in natural order.
        bad: folders that cannot be read or hold no image.
        notes: a sentence on each kind of file in a folder that is not taken for an image.
    """

    images: list[Path] = field(default_factory=list)
    bad: list[BadFolder] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_images(paths: Iterable[Path]) -> FoundImages:
    """The files that ``paths`` name: a folder stands for the image files in it and in all folders below."""
    found = FoundImages()
    for path in paths:
        if path.is_dir():
            _search(path, found)
        else:
            found.images.append(path)
    return found


def natural_key(path: Path) -> tuple[list[list[Chunk]], str]:
    """A sorting key by which ``2.png`` comes before ``10.png``."""
    return [[_chunk(text) for text in _DIGITS.split(part) if text] for part in path.parts], str(path)


def _search(root: Path, found: FoundImages) -> None:
    """Add the images below ``root``."""
    images: list[Path] = []
    unused = []
    folders, visited = [root], set()
    while folders:
        folder = folders.pop()
        if (place := folder.resolve()) in visited:  # a link that leads back
            continue
        visited.add(place)
        try:
            listing = list_folder(folder)
        except DataError as error:
            found.bad.append(BadFolder(folder, error.message))
            continue
        images.extend(listing.images)
        folders.extend(listing.folders)
        unused.extend(listing.not_images())
    if not images:
        found.bad.append(BadFolder(root, "a folder without image files"))
    found.images.extend(sorted(images, key=natural_key))
    found.notes.extend(f"{root}: {note}" for note in unused_notes(root, unused))


def _chunk(text: str) -> Chunk:
    """A piece of a name, which compares with any other piece: numbers before words."""
    return (0, int(text), "") if text.isdecimal() else (1, 0, text)
