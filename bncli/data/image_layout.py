"""The split folders of an image folder; no file is opened here.

Downloads wrap a data set in a folder, spell ``Train`` and ``Validation`` as they like, and double a name
(``seg_train/seg_train/CLASS``). This module finds the folders that hold the class folders, and lists what it passes by.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from bncli.errors import DataError

SUFFIXES = frozenset(
    {
        ".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg",
        ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
    }
)  # fmt: skip

# Words for a split; a folder is named after it in any case, alone ("Test") or among others ("seg_test").
_SPLIT_WORDS = {
    "dev": "val",
    "test": "test",
    "testing": "test",
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
}
# Leftovers of file managers and archives. Names that start with a dot are skipped as well.
_LITTER = frozenset({"$recycle.bin", "@eadir", "__macosx", "desktop.ini", "ehthumbs.db", "thumbs.db"})

_IS_LITTER = "hidden, or left by a file manager"
_IS_NO_IMAGE = "not the name of an image file"
_IS_OUTSIDE = "outside the class folders"
_IS_NEITHER = "neither a split nor a class"
_HAS_NO_LABELS = "no class folders, so the images have no labels"
_IS_EMPTY = "an empty split"
_MAX_NAMED = 5


@dataclass(frozen=True)
class Unused:
    """A file or folder that gives the data set no example, and the reason."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Listing:
    """The entries of a folder by kind, each in the order of their names; images, which may be many, by name alone."""

    folder: Path
    folders: tuple[Path, ...]
    image_names: tuple[str, ...]
    others: tuple[Path, ...]
    litter: tuple[Path, ...]

    @property
    def images(self) -> tuple[Path, ...]:
        """The paths of the images."""
        return tuple(self.folder / name for name in self.image_names)

    @cached_property
    def is_wrapper(self) -> bool:
        """True if there is one folder, and no image beside it."""
        return len(self.folders) == 1 and not self.image_names

    def outside(self) -> list[Unused]:
        """The files of a folder in which only the folders are of use."""
        return [*_unused(self.images + self.others, _IS_OUTSIDE), *_unused(self.litter, _IS_LITTER)]

    def not_images(self) -> list[Unused]:
        """The files of a folder in which only the images are of use."""
        return [*_unused(self.others, _IS_NO_IMAGE), *self.skipped()]

    def skipped(self) -> list[Unused]:
        """The leftovers of other programs."""
        return _unused(self.litter, _IS_LITTER)


@dataclass(frozen=True)
class Layout:
    """The folder of class folders of each split, and everything beside them."""

    root: Path
    folders: dict[str, Path]
    unused: list[Unused] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def list_folder(folder: Path) -> Listing:
    """The entries of ``folder``.

    Raises:
        DataError: the folder cannot be read.
    """
    kinds: dict[str, list[str]] = {"folders": [], "images": [], "others": [], "litter": []}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                kinds[_kind(entry)].append(entry.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror or error}") from error
    # Names are sorted, not paths: Python would compare those of a large folder for seconds.
    images = tuple(sorted(kinds.pop("images")))
    paths = {kind: tuple(folder / name for name in sorted(names)) for kind, names in kinds.items()}
    return Listing(folder, image_names=images, **paths)


def find_layout(root: Path) -> Layout:
    """The splits of an image folder: ``train/CLASS/*`` with optional val and test, or ``CLASS/*``.

    Raises:
        DataError: there are no class folders, or two folders for one split.
    """
    layout = Layout(root, {})
    top = _unwrapped(list_folder(root), layout.unused)
    candidates = _split_candidates(top)
    trains = [path for path in candidates["train"] if list_folder(path).folders]
    if trains:
        _add_splits(layout, top, candidates | {"train": trains})
    else:
        _check_classes(top, root)
        layout.folders["train"] = top.folder
        layout.unused.extend(top.outside())
    _note_unusual_places(layout)
    return layout


def unused_notes(root: Path, unused: Iterable[Unused]) -> list[str]:
    """One sentence for each reason: the number of files and folders that are not used, and the names of the first."""
    by_reason: dict[str, list[Path]] = {}
    for row in unused:
        by_reason.setdefault(row.reason, []).append(row.path)
    return [f"{len(paths):,} not used ({reason}): {_named(root, paths)}" for reason, paths in by_reason.items()]


def split_of(name: str) -> str | None:
    """The split that a folder's name is a word for, in any case; None for any other name."""
    return _SPLIT_WORDS.get(name.lower())


def _kind(entry: os.DirEntry[str]) -> str:
    name = entry.name
    if name.startswith(".") or name.lower() in _LITTER:
        return "litter"
    if entry.is_dir():
        return "folders"
    _, dot, suffix = name.rpartition(".")
    return "images" if (dot + suffix).lower() in SUFFIXES else "others"


def _unwrapped(top: Listing, unused: list[Unused]) -> Listing:
    """The first folder downwards that is not just a wrapper of another one; files beside a wrapper go to ``unused``."""
    while top.is_wrapper and split_of(top.folders[0].name) is None:
        inner = list_folder(top.folders[0])
        if not inner.folders:
            break
        unused.extend(top.outside())
        top = inner
    return top


def _split_candidates(top: Listing) -> dict[str, list[Path]]:
    """split -> the folders that may hold it: those named by its word alone, else those with the word in their name."""
    exact: dict[str, list[Path]] = {"train": [], "val": [], "test": []}
    loose: dict[str, list[Path]] = {"train": [], "val": [], "test": []}
    for folder in top.folders:
        if split := split_of(folder.name):
            exact[split].append(folder)
        elif split := _split_in(folder.name):
            loose[split].append(folder)
    return {split: exact[split] or loose[split] for split in exact}


def _split_in(name: str) -> str | None:
    """The one split that a name such as ``seg_train`` has a word of."""
    splits = {_SPLIT_WORDS[word] for word in re.split(r"[\W_\d]+", name.lower()) if word in _SPLIT_WORDS}
    return splits.pop() if len(splits) == 1 else None


def _add_splits(layout: Layout, top: Listing, candidates: dict[str, list[Path]]) -> None:
    """Add the split folders, and all other entries beside them as unused."""
    chosen = {split: _single(paths, split, top.folder) for split, paths in candidates.items() if paths}
    layout.unused.extend(top.outside())
    layout.unused.extend(_unused([path for path in top.folders if path not in chosen.values()], _IS_NEITHER))
    train = _class_root(list_folder(chosen.pop("train")), layout.unused)
    class_names = {path.name.lower() for path in train.folders}
    layout.folders["train"] = train.folder
    layout.unused.extend(train.outside())
    for split, folder in chosen.items():
        _add_scored_split(layout, split, folder, class_names)


def _add_scored_split(layout: Layout, split: str, folder: Path, class_names: set[str]) -> None:
    """Add val or test, unless its images have no labels."""
    listing = _class_root(list_folder(folder), layout.unused)
    if not listing.folders and not listing.image_names:
        layout.unused.extend([Unused(folder, _IS_EMPTY), *listing.outside()])
    elif not listing.folders or _is_unlabelled(listing, class_names):
        layout.unused.append(Unused(folder, _HAS_NO_LABELS))
        layout.notes.append(_unlabelled_note(layout.root, split, folder))
    else:
        layout.folders[split] = listing.folder
        layout.unused.extend(listing.outside())


def _is_unlabelled(listing: Listing, class_names: set[str]) -> bool:
    """True if there is one folder, such as ``unknown``, that is not named after a class."""
    return listing.is_wrapper and listing.folders[0].name.lower() not in class_names


def _unlabelled_note(root: Path, split: str, folder: Path) -> str:
    instead = {"test": "a fifth of the training images is the test split", "val": "--val-fraction of train is val"}
    return (
        f"{_place(root, folder)}/ cannot be the {split} split, because its images are not in class folders; "
        f"{instead[split]} instead. `bncli predict CKPT {folder}` classifies them."
    )


def _class_root(listing: Listing, unused: list[Unused]) -> Listing:
    """The folder with the class folders of a split: the split's own, or one in it that doubles or wraps it."""
    while listing.is_wrapper:
        inner = list_folder(listing.folders[0])
        doubled = inner.folder.name.lower() == listing.folder.name.lower()
        if not inner.folders and not doubled:
            break
        unused.extend(listing.outside())
        listing = inner
    return listing


def _single(paths: list[Path], split: str, top: Path) -> Path:
    if len(paths) > 1:
        raise DataError(
            f"{top}: several folders may be the {split} split: {', '.join(path.name for path in paths)}",
            remedy=f"Rename or move all but one; {split}/ is preferred to other names.",
        )
    return paths[0]


def _check_classes(top: Listing, root: Path) -> None:
    """Raise DataError unless there are class folders."""
    if top.folders and any(split_of(folder.name) is None for folder in top.folders):
        return
    if top.folders:
        raise DataError(
            f"{top.folder}: no train folder with class folders in it",
            remedy="Arrange the images as train/CLASS/NAME.png.",
        )
    found = f"{_counted_images(len(top.image_names))} and no class folders" if top.image_names else "no class folders"
    raise DataError(f"{root}: {found}", remedy="Put the images of each class into a folder named after the class.")


def _note_unusual_places(layout: Layout) -> None:
    """Say which folder is which split, unless all are in the usual place."""
    places = {split: _place(layout.root, folder) for split, folder in layout.folders.items()}
    if all(place in (split, ".") for split, place in places.items()):
        return
    layout.notes.append("read as splits: " + ", ".join(f"{place}/ is {split}" for split, place in places.items()))


def _unused(paths: Iterable[Path], reason: str) -> list[Unused]:
    return [Unused(path, reason) for path in paths]


def _named(root: Path, paths: list[Path]) -> str:
    """The first of the paths, with the number of images in a folder, and the number of the others."""
    names = [_place(root, path) + _content(path) for path in paths[:_MAX_NAMED]]
    more = [f"and {len(paths) - _MAX_NAMED:,} more"] if len(paths) > _MAX_NAMED else []
    return ", ".join(names + more)


def _content(path: Path) -> str:
    if not path.is_dir() or path.is_symlink():
        return ""
    count = sum(os.path.splitext(name)[1].lower() in SUFFIXES for _, _, names in os.walk(path) for name in names)  # noqa: PTH122 - names
    return f"/ ({_counted_images(count)})"


def _counted_images(count: int) -> str:
    return f"{count:,} image{'' if count == 1 else 's'}"


def _place(root: Path, path: Path) -> str:
    return str(path.relative_to(root))
