"""A folder of ArrayRecord files -> uint8 [N, H, W, C]: like an image folder, with records in place of files.

A record is a ``tf.train.Example`` with an encoded image and an integer label. The first command on a folder reads every
record once, for its label and the header of its image::

    ~/.cache/bncli/records/CONTENT.npz    labels and headers, by the files' size and times of the last change

Letters: N records.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

import numpy as np

from bncli.data.cache_files import keep_newest, load_arrays, store_arrays
from bncli.data.dataset import numbered_classes
from bncli.data.decoding import Progress, for_each
from bncli.data.examples import Example, bytes_of, feature_names, integer_of
from bncli.data.file_list import FileList, SplitFiles
from bncli.data.folder import ImageOptions, OpenedFolder, open_images
from bncli.data.folder_listing import Listing, listing_of
from bncli.data.header_cache import Headers
from bncli.data.image_file import ImageInfo, read_header, reason_of
from bncli.data.image_tree import BadImage, ImageTree
from bncli.data.packed import DATASET, INDEX
from bncli.data.pixel_cache import content_key
from bncli.data.record_layout import Fields, RecordLayout, plain_layout, record_files
from bncli.data.record_list import Record, RecordList
from bncli.data.record_sizes import require_room
from bncli.data.tfds_layout import is_prepared, tfds_layout
from bncli.errors import DataError

RECORDS = "records"
_MAX_FOLDERS = 64
_IMAGES = ("image", "image/encoded")
_LABELS = ("label", "image/class/label")
_NO_LABEL = -1
_LABEL_LIMIT = 1 << 31
_REMEDY = (
    "bncli reads records that are tf.train.Example messages with an encoded image (feature image or image/encoded) and "
    "an integer label (label or image/class/label)."
)


def holds_records(folder: Path) -> bool:
    """True if ``folder`` holds ArrayRecord files, or a data set that TFDS has prepared in whatever format."""
    return is_prepared(folder) or bool(record_files(folder))


def open_record_folder(root: Path, options: ImageOptions, *, progress: Progress | None = None) -> OpenedFolder:
    """The labels and headers of a folder of ArrayRecord files, and what follows from them; no image is decoded.

    Args:
        root: the folder.
        options: the conversion of the images.
        progress: called with (stage, records done, number of records).

    Raises:
        DataError: a file is missing or damaged, records are of another kind, or their images do not fit into memory.
    """
    layout = tfds_layout(root) if is_prepared(root) else plain_layout(root)
    layout = layout if layout.fields is not None else replace(layout, fields=_fields_of(layout))
    assert layout.fields is not None
    files = [path for paths in layout.files.values() for path in paths]
    listing = listing_of(FileList.of(root, [*files, *layout.descriptions]))
    records = RecordList.whole(files, [layout.counts[path] for path in files], layout.fields.image)
    counts = {split: sum(layout.counts[path] for path in paths) for split, paths in layout.files.items()}
    entries = _entries(layout.fields, listing, records, progress)
    without = _without_labels(counts, entries.labels)
    kept = np.concatenate([_places(counts, split) for split in counts if split not in without])
    entries = entries.chosen(kept)
    class_names = layout.class_names or _numbered(root, entries, counts["train"])
    entries = entries.within(len(class_names))
    splits = SplitFiles(
        records.chosen(kept), entries.labels, {split: count for split, count in counts.items() if split not in without}
    )
    notes = (*layout.notes, *(f"the {split} split has no labels, so it is not used" for split in without))
    tree = ImageTree(root, class_names, splits, notes=notes, name=layout.name)
    bad = [BadImage(splits.files[place], reason) for place, reason in entries.reasons.items()]
    return open_images(tree, listing, entries.headers, bad, options, progress)


def _places(counts: Mapping[str, int], split: str) -> np.ndarray:
    """The places of a split's records."""
    start = sum(count for _, count in takewhile(lambda item: item[0] != split, counts.items()))
    return np.arange(start, start + counts[split])


def _without_labels(counts: Mapping[str, int], labels: np.ndarray) -> list[str]:
    """The splits in which every label is -1, as TFDS marks a test split without labels."""
    return [split for split in counts if split != "train" and (labels[_places(counts, split)] == _NO_LABEL).all()]


def _numbered(root: Path, entries: _Entries, num_train: int) -> tuple[str, ...]:
    """The classes by number, of a folder that does not name them."""
    is_readable = entries.headers.is_readable[:num_train]
    return numbered_classes(entries.labels[:num_train][is_readable], origin=str(root))


def _fields_of(layout: RecordLayout) -> Fields:
    """The features of a plain folder, by its first record.

    Raises:
        DataError: the record has no image or no label.
    """
    files = layout.files["train"]
    file = next((path for path in files if layout.counts[path]), None)
    if file is None:
        raise DataError(f"{files[0]}: no record, and none in the other files of train", remedy=_REMEDY)
    if file.with_suffix(INDEX).is_file():
        raise DataError(f"{layout.root}: packed images without their {DATASET}", remedy="Restore it, or pack again.")
    record = Record(file, 0, "")
    try:
        example = record.example()
    except ValueError as error:
        raise DataError(f"{record}: {error}", remedy=_REMEDY) from error
    return Fields(_present(record, example, _IMAGES, "an image"), _present(record, example, _LABELS, "a label"))


def _present(record: Record, example: Example, names: Sequence[str], what: str) -> str:
    found = feature_names(example)
    name = next((name for name in names if name in found), None)
    if name is None:
        named = f"only {', '.join(map(repr, found[:20]))}" if found else "it has no features"
        raise DataError(f"{record}: no feature of {what} has a usual name; {named}", remedy=_REMEDY)
    return name


@dataclass(frozen=True)
class _Entries:
    """The labels of records, and the headers of their images.

    Attributes:
        labels: int32 [N]; 0 for a record that cannot be used.
        headers: of their images; none for a record that cannot be used.
        reasons: place -> reason, of those records.
    """

    labels: np.ndarray
    headers: Headers
    reasons: dict[int, str]

    def chosen(self, places: np.ndarray) -> _Entries:
        """Those of some records."""
        now = {int(place): number for number, place in enumerate(places)}
        reasons = {now[place]: reason for place, reason in self.reasons.items() if place in now}
        return _Entries(self.labels[places], self.headers.chosen(places), reasons)

    def within(self, num_classes: int) -> _Entries:
        """The same; a record whose label is no class cannot be used."""
        outside = np.flatnonzero((self.labels < 0) | (self.labels >= num_classes))
        if not len(outside):
            return self
        reasons = {
            int(place): f"its label is {self.labels[place]}, but there are {num_classes} classes" for place in outside
        }
        sizes = self.headers.sizes.copy()
        sizes[outside] = 0
        return _Entries(self.labels, Headers(sizes, self.headers.flags), dict(sorted((self.reasons | reasons).items())))


def _entries(fields: Fields, listing: Listing, records: RecordList, progress: Progress | None) -> _Entries:
    """The labels and headers of all records, read unless they are in the cache."""
    key = content_key(listing, np.array([], np.int64), ("records", fields))
    arrays = load_arrays(RECORDS, key, ("labels", "sizes", "flags", "reasons"))
    if arrays is not None and len(arrays["labels"]) == len(records):
        reasons = {int(place): str(reason) for place, reason in json.loads(arrays["reasons"].tobytes())}
        return _Entries(arrays["labels"], Headers(arrays["sizes"], arrays["flags"]), reasons)
    entries = _read_entries(fields, records, progress)
    if listing.is_settled:
        arrays = {"labels": entries.labels, "sizes": entries.headers.sizes, "flags": entries.headers.flags}
        arrays["reasons"] = np.frombuffer(json.dumps(list(entries.reasons.items())).encode(), np.uint8)
        store_arrays(RECORDS, key, arrays)
        keep_newest(RECORDS, _MAX_FOLDERS)
    return entries


@dataclass(frozen=True)
class _Content:
    """An encoded image that was read already."""

    content: bytes

    def read(self) -> bytes:
        return self.content


def _read_entries(fields: Fields, records: RecordList, progress: Progress | None) -> _Entries:
    def entry(record: Record) -> tuple[int, ImageInfo | str]:
        example = record.example()
        label, content = integer_of(example, fields.label), bytes_of(example, fields.image)
        if not -_LABEL_LIMIT <= label < _LABEL_LIMIT:
            raise ValueError(f"its label is {label}")
        try:
            return label, read_header(_Content(content))
        except Exception as error:  # of bad bytes, Pillow raises whatever its parser raises first
            return label, reason_of(error)

    for path in records.files:
        require_room(path)
    labels, infos, reasons = np.zeros(len(records), np.int32), list[ImageInfo | None](), dict[int, str]()
    for place, found in enumerate(for_each(entry, records, "reading records", progress)):
        label, info = (0, found) if isinstance(found, str) else found
        labels[place] = label
        infos.append(info if isinstance(info, ImageInfo) else None)
        if isinstance(info, str):
            reasons[place] = info
    return _Entries(labels, Headers.of(infos), reasons)
