"""The ArrayRecord files of a data set that TensorFlow Datasets (TFDS) has prepared.

Its folder says in ``dataset_info.json`` and ``features.json`` what it holds. No record is read here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import TypeVar

from bncli.config.file_names import displayed
from bncli.config.tfds_files import TfdsFeatures, TfdsInfo, TfdsSplit, parse_features, parse_info
from bncli.data.array_record import num_records
from bncli.data.record_layout import FORMAT, SPLITS, Fields, RecordLayout, read_class_names, require_train
from bncli.errors import ConfigError, DataError
from bncli.process.files import read_regular

INFO, FEATURES = "dataset_info.json", "features.json"
_SPLIT_NAMES = {"train": "train", "validation": "val", "valid": "val", "val": "val", "test": "test"}
_PIXELS = ("uint8", "uint16")
_MAX_JSON = 64 << 20
_WHOLE = "Copy the whole folder again, or prepare the data set again."
T = TypeVar("T")


def is_prepared(folder: Path) -> bool:
    """True if TFDS has prepared the data set in a folder, in whatever format."""
    return (folder / INFO).is_file() and (folder / FEATURES).is_file()


def prepared_below(folder: Path) -> list[Path]:
    """The versions of a data set of TFDS, each of which has a subfolder named after it."""
    return sorted(path.parent for path in folder.glob(f"[0-9]*.[0-9]*.[0-9]*/{INFO}"))


def tfds_layout(root: Path) -> RecordLayout:
    """The layout of a data set of TFDS.

    Raises:
        DataError: a file is missing or damaged, or the data set is of another kind.
    """
    info = _parsed(root / INFO, parse_info)
    _check_format(root, info)
    features = _parsed(root / FEATURES, parse_features)
    fields = _fields(root, info, features)
    splits: dict[str, TfdsSplit] = {}
    unused = []
    for split in info.splits:
        known = _SPLIT_NAMES.get(split.name)
        if known is None or known in splits or not sum(split.shard_lengths):
            unused.append(split.name)
        else:
            splits[known] = split
    require_train(root, list(splits), [split.name for split in info.splits])
    shards = {name: _shards(root, info, splits[name]) for name in SPLITS if name in splits}
    names = root / f"{fields.label}.labels.txt"
    return RecordLayout(
        root=root,
        name=displayed(info.name),
        files={name: tuple(lengths) for name, lengths in shards.items()},
        counts=_checked({path: length for lengths in shards.values() for path, length in lengths.items()}),
        fields=fields,
        class_names=_class_names(names, features.labels[fields.label].num_classes),
        descriptions=tuple(path for path in (root / INFO, root / FEATURES, names) if path.is_file()),
        notes=(f"splits that are not used: {', '.join(map(displayed, unused))}",) if unused else (),
    )


def _parsed(path: Path, parse: Callable[[bytes], T]) -> T:
    try:
        return parse(read_regular(path, limit=_MAX_JSON))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ConfigError as error:
        raise DataError(
            f"{path}: {error.message}", remedy="TFDS writes this file; prepare the data set again."
        ) from None


def _check_format(root: Path, info: TfdsInfo) -> None:
    """Raise DataError if the examples cannot be read one by one."""
    if info.file_format != FORMAT:
        raise DataError(
            f"{root}: TFDS has prepared it as {displayed(info.file_format)}, whose records cannot be read in any order",
            remedy=f"Convert it: `tfds convert_format --dataset_version_dir={root} --out_file_format={FORMAT} "
            f"--out_dir=OUT`. Or prepare it with file_format='{FORMAT}'.",
        )


def _fields(root: Path, info: TfdsInfo, features: TfdsFeatures) -> Fields:
    """The image and the label: those that TFDS calls supervised, or the only ones."""
    image = _chosen(root, "an image", features.images, info)
    label = _chosen(root, "a class label", features.labels, info)
    if (pixels := features.images[image].dtype) not in _PIXELS:
        raise DataError(
            f"{root}: the pixels of its feature {image} are {displayed(pixels)}",
            remedy="bncli reads images of whole numbers: uint8 or uint16.",
        )
    return Fields(image, label)


def _chosen(root: Path, what: str, features: Mapping[str, object], info: TfdsInfo) -> str:
    supervised = [name for name in info.supervised_names if name in features]
    if len(found := supervised or list(features)) == 1:
        return found[0]
    named = ", ".join(map(displayed, found))
    if found:
        raise DataError(f"{root}: several features are {what}: {named}; {INFO} does not say which one is learned from")
    raise DataError(
        f"{root}: no feature is {what}", remedy="bncli classifies images: it needs one image and one label."
    )


def _shards(root: Path, info: TfdsInfo, split: TfdsSplit) -> dict[Path, int]:
    """The files of a split, each with its number of records."""
    count = len(split.shard_lengths)
    digits = max(5, len(str(count)))
    numbers = [f"{number:0{digits}}" for number in range(count)]
    return {
        root / _file_name(root, info, split, number, f"{count:0{digits}}"): length
        for number, length in zip(numbers, split.shard_lengths, strict=True)
    }


def _file_name(root: Path, info: TfdsInfo, split: TfdsSplit, number: str, count: str) -> str:
    name = split.filepath_template
    for key, value in (
        ("DATASET", info.name),
        ("SPLIT", split.name),
        ("FILEFORMAT", FORMAT),
        ("SHARD_X_OF_Y", f"{number}-of-{count}"),
        ("SHARD_INDEX", number),
        ("NUM_SHARDS", count),
    ):
        name = name.replace(f"{{{key}}}", value)
    path = PurePosixPath(name)
    if "{" in name or "\0" in name or path.is_absolute() or ".." in path.parts:
        raise DataError(f"{root / INFO}: {displayed(split.filepath_template)} is no template of files in its folder")
    return name


def _checked(lengths: dict[Path, int]) -> dict[Path, int]:
    """The same numbers of records, if the files have them.

    Raises:
        DataError: a file is missing or damaged, or has another number of records.
    """
    for path, length in lengths.items():
        if not path.exists():
            raise DataError(f"{path}: missing, though {INFO} names it", remedy=_WHOLE)
        if (found := num_records(path)) != length:
            raise DataError(f"{path}: {found:,} records, not the {length:,} of {INFO}", remedy=_WHOLE)
    return lengths


def _class_names(path: Path, count: int) -> tuple[str, ...]:
    """The names of the classes; their numbers if TFDS wrote no names."""
    if not path.is_file():
        return tuple(map(str, range(count)))
    names = read_class_names(path)
    if len(names) != count:
        raise DataError(f"{path}: {len(names)} names, but {FEATURES} has {count} classes", remedy=_WHOLE)
    return names
