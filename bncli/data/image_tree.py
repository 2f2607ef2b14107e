"""The image files of a folder by split and class; no file is opened here.

There are two layouts: ``train/CLASS/*`` with optional ``val/`` and ``test/``, or ``CLASS/*``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from bncli.errors import DataError

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})

# split -> possible names of its folder; the first that exists is taken.
_SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
# Leftovers of file managers. Names that start with a dot are ignored as well.
_LITTER = frozenset({"Thumbs.db", "__MACOSX", "desktop.ini"})


@dataclass(frozen=True)
class BadImage:
    """A file that is not a readable image, and the reason."""

    path: Path
    reason: str


@dataclass(frozen=True)
class ImageTree:
    """The files of an image folder: per split, (path, label) in the order of class and name."""

    root: Path
    class_names: tuple[str, ...]
    splits: dict[str, list[tuple[Path, int]]]
    strays: list[BadImage] = field(default_factory=list)


def is_image_tree(folder: Path) -> bool:
    """True if ``folder`` contains folders, which could be classes or splits."""
    return bool(_subfolders(folder))


def scan_image_tree(root: Path) -> ImageTree:
    """The files below ``root``.

    Classes are numbered in the order of their names (by code point).

    Raises:
        DataError: there are no class folders, a class is empty, or the classes of two splits differ.
    """
    folders = _split_folders(root)
    class_names = tuple(folder.name for folder in _class_folders(folders["train"]))
    tree = ImageTree(root=root, class_names=class_names, splits={})
    for split, folder in folders.items():
        _check_same_classes(folder, folders["train"], class_names)
        tree.splits[split] = _scan_split(folder, class_names, tree.strays)
    _check_no_empty_class(tree, folders["train"])
    return tree


def _split_folders(root: Path) -> dict[str, Path]:
    """split -> folder; if there are no split folders, the root itself is train."""
    found = {split: _first_folder(root, names) for split, names in _SPLIT_FOLDERS.items()}
    train = found["train"]
    if train is not None and _subfolders(train):
        return {split: folder for split, folder in found.items() if folder is not None}
    reserved = {name for names in _SPLIT_FOLDERS.values() for name in names}
    if {folder.name for folder in _class_folders(root)} <= reserved:
        raise DataError(
            f"{root}: no train folder with class folders in it", remedy="Arrange the images as train/CLASS/NAME.png."
        )
    return {"train": root}


def _first_folder(root: Path, names: tuple[str, ...]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _class_folders(folder: Path) -> list[Path]:
    folders = _subfolders(folder)
    if not folders:
        raise DataError(
            f"{folder}: no class folders", remedy="Put the images of each class into a folder named after the class."
        )
    return folders


def _subfolders(folder: Path) -> list[Path]:
    return [path for path in _entries(folder) if path.is_dir()]


def _entries(folder: Path) -> list[Path]:
    """The entries of ``folder`` in the order of their names, without hidden files and leftovers."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.name not in _LITTER)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror or error}") from error


def _check_same_classes(folder: Path, train: Path, class_names: tuple[str, ...]) -> None:
    names = {path.name for path in _class_folders(folder)}
    for here, there, place, other in (
        (names, set(class_names), folder, train),
        (set(class_names), names, train, folder),
    ):
        if extra := sorted(here - there):
            raise DataError(
                f"{place} has classes that {other} lacks: {', '.join(extra[:10])}",
                remedy="Give every split the same class folders.",
            )


def _scan_split(folder: Path, class_names: tuple[str, ...], strays: list[BadImage]) -> list[tuple[Path, int]]:
    """The image files of one split; any other entry is added to ``strays``."""
    files: list[tuple[Path, int]] = []
    for label, name in enumerate(class_names):
        for path in _entries(folder / name):
            if path.is_dir():
                strays.append(BadImage(path, "a folder inside a class folder"))
            elif path.suffix.lower() not in SUFFIXES:
                strays.append(BadImage(path, f"not the name of an image file ({', '.join(sorted(SUFFIXES))})"))
            else:
                files.append((path, label))
    return files


def _check_no_empty_class(tree: ImageTree, train: Path) -> None:
    present = {label for _, label in tree.splits["train"]}
    empty = [name for label, name in enumerate(tree.class_names) if label not in present]
    if empty:
        raise DataError(
            f"{train}: {len(empty)} of {len(tree.class_names)} class folders hold no image: {', '.join(empty[:10])}",
            remedy="Add images to them or remove the folders.",
        )
