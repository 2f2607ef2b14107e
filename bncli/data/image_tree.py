"""The image files of a folder by split and class; no file is opened here.

There are two layouts: ``train/CLASS/*`` with optional ``val/`` and ``test/``, or ``CLASS/*``. ``image_layout.py`` finds
the split folders in the layouts of real downloads.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bncli.config.file_names import displayed
from bncli.data.file_list import FileList, SplitFiles
from bncli.data.image_file import ImagePlace
from bncli.data.image_layout import SUFFIXES, Layout, Listing, Unused, find_layout, list_folder, split_of, unused_notes
from bncli.errors import DataError

# Folders of detection and segmentation data sets, which a classifier would take for classes.
_ANNOTATIONS = frozenset({"annotations", "bboxes", "labels", "masks"})
_ANNOTATED = frozenset({"images", "img", "imgs", "jpegimages"})


@dataclass(frozen=True)
class BadImage:
    """A file or record that is not a readable image, and the reason."""

    path: ImagePlace
    reason: str


@dataclass(frozen=True)
class ImageTree:
    """The files of an image folder: per split, (path, label) in the order of class and name.

    Attributes:
        root: the folder.
        class_names: in the order of the labels.
        splits: split -> its files, in the order train, val, test.
        strays: files and folders in a class folder that cannot be images.
        unused: everything else below the root that gives no example.
        notes: a sentence on each kind of them, and on what is unusual in the tree.
        name: of the data set.
    """

    root: Path
    class_names: tuple[str, ...]
    splits: SplitFiles
    strays: list[BadImage] = field(default_factory=list)
    unused: tuple[Unused, ...] = ()
    notes: tuple[str, ...] = ()
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or displayed(self.root.resolve().name))


def is_image_tree(folder: Path) -> bool:
    """True if ``folder`` contains images, or folders, which could be classes or splits."""
    listing = list_folder(folder)
    return bool(listing.folders or listing.image_names)


def scan_image_tree(root: Path) -> ImageTree:
    """The files below ``root``.

    Classes are numbered in the order of their names (by code point).

    Raises:
        DataError: there are no class folders, a class is empty, or the classes of two splits differ.
    """
    layout = find_layout(root)
    classes = {split: _class_folders(folder) for split, folder in layout.folders.items()}
    class_names = tuple(displayed(folder.name) for folder in classes["train"])
    _check_no_annotations(layout.folders["train"], class_names)
    found: dict[str, list[Listing]] = {}
    strays: list[BadImage] = []
    for split, folders in classes.items():
        _check_same_classes(layout, split, folders, class_names)
        listings = [_class_listing(folder, layout.unused) for folder in folders]
        if split == "train":
            _check_no_empty_class(layout.folders[split], class_names, listings)
        found[split] = listings
        strays.extend(stray for listing in listings for stray in _strays(listing))
        layout.unused.extend(row for listing in listings for row in listing.skipped())
        layout.notes.extend(_rare_class_notes(split, class_names, listings))
    notes = (*layout.notes, *unused_notes(root, layout.unused))
    return ImageTree(
        root=root,
        class_names=class_names,
        splits=_split_files(root, found),
        strays=strays,
        unused=tuple(layout.unused),
        notes=notes,
    )


def _split_files(root: Path, found: dict[str, list[Listing]]) -> SplitFiles:
    """The image files of each split's class folders, which are in the order of the labels."""
    folders = [(label, listing) for listings in found.values() for label, listing in enumerate(listings)]
    labels = np.repeat([label for label, _ in folders], [len(listing.image_names) for _, listing in folders])
    return SplitFiles(
        FileList.in_folders(root, ((listing.folder, listing.image_names) for _, listing in folders)),
        labels.astype(np.int32),
        {split: sum(len(listing.image_names) for listing in listings) for split, listings in found.items()},
    )


def _class_folders(folder: Path) -> tuple[Path, ...]:
    return list_folder(folder).folders


def _class_listing(folder: Path, unused: list[Unused]) -> Listing:
    """The entries of a class folder, or of the one folder in it that has the images: ``CLASS/images/*``."""
    listing = list_folder(folder)
    if not listing.is_wrapper or split_of(listing.folders[0].name) is not None:
        return listing
    inner = list_folder(listing.folders[0])
    if not inner.image_names:
        return listing
    unused.extend(listing.outside())
    return inner


def _check_no_annotations(train: Path, class_names: tuple[str, ...]) -> None:
    """Raise DataError for the folders of a detection or segmentation data set."""
    names = {name.lower() for name in class_names}
    if names & _ANNOTATIONS and names & _ANNOTATED and names <= _ANNOTATIONS | _ANNOTATED:
        raise DataError(
            f"{train}: the folders {', '.join(class_names)} look like a detection or segmentation data set",
            remedy="bncli classifies images: put those of each class into a folder named after the class.",
        )


def _check_same_classes(layout: Layout, split: str, folders: tuple[Path, ...], class_names: tuple[str, ...]) -> None:
    folder, train = layout.folders[split], layout.folders["train"]
    names = {displayed(path.name) for path in folders}
    for here, there, place, other in (
        (names, set(class_names), folder, train),
        (set(class_names), names, train, folder),
    ):
        if extra := sorted(here - there):
            raise DataError(
                f"{place} has classes that {other} lacks: {', '.join(extra[:10])}",
                remedy="Give every split the same class folders.",
            )


def _check_no_empty_class(train: Path, class_names: tuple[str, ...], listings: list[Listing]) -> None:
    nested = next((listing for listing in listings if listing.folders and not listing.image_names), None)
    if nested is not None:
        raise _nested_class_error(nested)
    empty = _names_of(class_names, listings, num_images=0)
    if empty:
        names = ", ".join(empty[:10])
        raise DataError(
            f"{train}: {len(empty)} of {len(listings)} class folders hold no image: {names}",
            remedy=f"Add images to them ({_suffixes()}) or remove the folders.",
        )


def _nested_class_error(listing: Listing) -> DataError:
    names = [folder.name for folder in listing.folders]
    remedy = "Move the images up into the class folder, or give --data the folder that holds the class folders."
    if all(map(split_of, names)):
        remedy = "Put the splits above the classes: train/CLASS/NAME.png, test/CLASS/NAME.png."
    return DataError(
        f"{listing.folder}: a class folder without images of its own, but with folders: {', '.join(names[:10])}",
        remedy=remedy,
    )


def _strays(listing: Listing) -> list[BadImage]:
    """The entries of a class folder that cannot be images."""
    folders = [BadImage(path, "a folder inside a class folder") for path in listing.folders]
    return folders + [BadImage(path, f"not the name of an image file ({_suffixes()})") for path in listing.others]


def _names_of(class_names: tuple[str, ...], listings: list[Listing], *, num_images: int) -> list[str]:
    """The classes with so many images."""
    return [name for name, listing in zip(class_names, listings, strict=True) if len(listing.image_names) == num_images]


def _rare_class_notes(split: str, class_names: tuple[str, ...], listings: list[Listing]) -> list[str]:
    """A sentence on classes with a single training image, or without an image in another split."""
    names = _names_of(class_names, listings, num_images=1 if split == "train" else 0)
    if not names:
        return []
    what = "a single training image" if split == "train" else f"no {split} image"
    shown = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
    return [f"classes with {what}: {len(names)} of {len(listings)}: {shown}"]


def _suffixes() -> str:
    return ", ".join(sorted(SUFFIXES))
