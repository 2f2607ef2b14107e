"""Arrays in a NumPy archive: ``x_train, y_train[, x_val, y_val, x_test, y_test][, class_names]``.

Letters: N examples, H W height and width, C channels, K classes.
"""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np

from bncli.config.file_names import displayed
from bncli.data.augment import Augmentation
from bncli.data.dataset import RawDataset, Split, check_labels, numbered_classes
from bncli.data.image_layout import SUFFIXES
from bncli.data.pixel_range import (
    FULL_16_BIT,
    PixelRange,
    RangeChoice,
    format_range,
    is_outside,
    natural_range,
    to_8_bit,
)
from bncli.data.splits import CARVING_FACTOR
from bncli.errors import DataError
from bncli.process.files import open_regular
from bncli.process.memory import require_memory

_MAX_CHANNELS = 4
_CHUNK = 256  # images converted at a time
_EIGHT_BIT: PixelRange = (0, 255)
_UNIT: PixelRange = (0, 1)
_REMEDY_FOR_RANGE = (
    "Float images must lie in 0 … 1, others in 0 … 255 if those of x_train do, and be free of NaN; or name the range "
    "of their values with --pixel-range LOW:HIGH."
)
_SMALLER = "Save fewer or smaller images, as uint8."


def read_arrays(path: Path, pixel_range: RangeChoice = "auto") -> RawDataset:
    """The data set of an ``.npz``.

    Images are uint8, float in [0, 1], or of another type that ``pixel_range`` scales, of shape [N, H, W] or
    [N, H, W, C]; labels are integers 0 … K-1, [N] or [N, 1]. ``class_names`` is optional, an array of K strings.
    Nothing is ever unpickled.

    Raises:
        DataError: the archive is damaged, or an array is missing or of another shape, type or range; the message names
            the key.
    """
    arrays = _load(path)
    names = _class_names(arrays, path)
    if "x_train" not in arrays and "y_train" not in arrays:
        raise _no_train_error(path, sorted(arrays))
    chosen = _choose_range(arrays.get("x_train"), pixel_range, origin=f"{path}: x_train")
    notes = _range_notes(arrays, chosen, path, is_measured=pixel_range == "auto")
    train = _read_split(arrays, "train", names, chosen, path)
    assert train is not None, "either array of train makes a split"
    names = names or numbered_classes(train.labels, origin=f"{path}: y_train")
    return RawDataset(
        name=displayed(path.stem),
        class_names=names,
        train=train,
        val=_read_split(arrays, "val", names, chosen, path),
        test=_read_split(arrays, "test", names, chosen, path),
        augmentation=Augmentation(max_shift=min(train.images.shape[1:3]) // 8),
        source=str(path),
        warnings=notes,
        pixel_range=chosen,
    )


def _load(path: Path) -> dict[str, np.ndarray]:
    """All arrays of the archive by name."""
    # For a damaged archive NumPy raises whatever its parser raises first (BadZipFile, zlib.error, ValueError,
    # SyntaxError, EOFError, …). Any exception means that the file is damaged.
    try:
        with open_regular(path) as file:
            require_memory(_needed_memory(file), what=str(path), remedy=_SMALLER)
            file.seek(0)
            archive = np.load(file, allow_pickle=False)
            return {key: np.asarray(archive[key]) for key in archive.files}
    except DataError:
        raise
    except MemoryError as error:
        raise DataError(f"{path}: its arrays do not fit into memory: {error}", remedy=_SMALLER) from error
    except Exception as error:
        if "Object arrays cannot be loaded" in str(error):
            raise DataError(
                f"{path}: the archive holds an array of Python objects, which would have to be unpickled",
                remedy="Save plain arrays: images as uint8, labels as integers, class_names as strings.",
            ) from error
        raise DataError(
            f"{path}: not a readable .npz: {error}", remedy="Save it again with numpy.savez or numpy.savez_compressed."
        ) from error


def _needed_memory(file: BinaryIO) -> int:
    """The largest amount of memory that the archive's arrays take while they become splits.

    Measured on archives of 300 MB: all arrays at once; for an array of another type, the uint8 array that it is
    converted to; and copies of the splits that are carved out of train.

    Raises:
        ValueError: an array claims more values than the archive holds.
    """
    needed = 0
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            needed += member.file_size
            if member.filename.endswith(".npy"):
                dtype = _dtype(archive, member)
                if member.filename.startswith("x_"):
                    pixels = member.file_size // max(1, dtype.itemsize)
                    needed += int(pixels * CARVING_FACTOR) - pixels if dtype == np.uint8 else pixels
    return needed


def _dtype(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.dtype:
    """The dtype in the header of an array in the archive."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(file)
    claimed = math.prod(shape) * dtype.itemsize
    if claimed > member.file_size and not dtype.hasobject:
        raise ValueError(f"{member.filename} claims {claimed:,} bytes and has {member.file_size:,}")
    return dtype


def _class_names(arrays: dict[str, np.ndarray], path: Path) -> tuple[str, ...] | None:
    names = arrays.get("class_names")
    if names is None:
        return None
    if names.dtype.kind != "U" or names.ndim != 1 or len(names) == 0:
        raise DataError(
            f"{path}: class_names is {names.dtype} of shape {names.shape}",
            remedy="Save a one-dimensional array of strings.",
        )
    return tuple(map(displayed, names.tolist()))


def _read_split(
    arrays: dict[str, np.ndarray],
    split: str,
    class_names: tuple[str, ...] | None,
    pixel_range: PixelRange | None,
    path: Path,
) -> Split | None:
    """The split's images and labels, removed from ``arrays``; None if it has neither."""
    image_key, label_key = f"x_{split}", f"y_{split}"
    if image_key not in arrays and label_key not in arrays:
        return None
    for key in (image_key, label_key):
        if key not in arrays:
            raise DataError(f"{path}: no {key}", remedy=f"Save both {image_key} and {label_key}.")
    images = _to_images(arrays.pop(image_key), pixel_range, origin=f"{path}: {image_key}")
    labels = _to_labels(arrays.pop(label_key), origin=f"{path}: {label_key}")
    if len(images) != len(labels):
        raise DataError(f"{path}: {image_key} holds {len(images)} images, and {label_key} {len(labels)} labels")
    origin = f"{path}: {label_key}"
    check_labels(labels, len(class_names or numbered_classes(labels, origin=origin)), origin=origin)
    return Split(images, labels.astype(np.int32))


def _no_train_error(path: Path, names: list[str]) -> DataError:
    shown = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
    remedy = "Save it with numpy.savez(path, x_train=…, y_train=…)."
    if any(Path(name).suffix.lower() in SUFFIXES for name in names):
        remedy = "Unpack it, and give the folder with the images."
    return DataError(f"{path}: no x_train; the archive holds: {shown or 'nothing'}", remedy=remedy)


def _choose_range(train: np.ndarray | None, choice: RangeChoice, *, origin: str) -> PixelRange | None:
    """The values that become 0 and 255; None if the images are 0 … 255, or floats in 0 … 1."""
    if train is None or train.size == 0 or train.dtype == np.uint8:
        return None
    if train.dtype.kind not in "biuf":
        raise DataError(f"{origin} is {train.dtype}", remedy="Save integers, or floats in 0 … 1.")
    if not isinstance(choice, str):
        return choice
    if train.dtype.kind == "f":
        return None
    if train.dtype.kind == "b":
        return 0, 1
    natural = natural_range([train])
    if natural == _EIGHT_BIT:
        return None
    if choice == "recorded":
        return _range_of_16_bit(train, origin)
    return natural


def _range_of_16_bit(train: np.ndarray, origin: str) -> PixelRange:
    if train.dtype != np.uint16:
        raise DataError(
            f"{origin} is {train.dtype}, and the network was trained on images of 8 bits",
            remedy="Scale the images to 0 … 255 as those of the training were.",
        )
    return FULL_16_BIT


def _range_notes(
    arrays: dict[str, np.ndarray], pixel_range: PixelRange | None, path: Path, *, is_measured: bool
) -> tuple[str, ...]:
    """Sentences on the range, and on the images outside it."""
    if pixel_range is None:
        return ()
    changes = " (--pixel-range changes this)" if is_measured else ""
    kind = arrays["x_train"].dtype
    notes = [f"{path.name}: x_train is {kind}: {format_range(pixel_range)} is scaled to 0 … 255{changes}"]
    for key in ("x_train", "x_val", "x_test"):
        array = arrays.get(key)
        if array is not None and array.size and array.dtype != np.uint8 and is_outside(array, pixel_range):
            notes.append(f"{path.name}: {key} has pixels outside {format_range(pixel_range)}, which are clipped")
    return tuple(notes)


def _to_images(array: np.ndarray, pixel_range: PixelRange | None, *, origin: str) -> np.ndarray:
    """[N, H, W] or [N, H, W, C] of any number type -> uint8 [N, H, W, C]."""
    images = _with_channels(array, origin)
    if images.dtype == np.uint8:
        return np.require(images, requirements=["C", "W"])
    if pixel_range is not None:
        return _scaled(images, origin, valid=(-np.inf, np.inf), pixel_range=pixel_range)
    if images.dtype.kind == "f":
        return _scaled(images, origin, valid=_UNIT, pixel_range=_UNIT)
    if images.dtype.kind in "iu":
        return _scaled(images, origin, valid=_EIGHT_BIT, pixel_range=_EIGHT_BIT)
    raise DataError(f"{origin} is {images.dtype}", remedy="Save the type of x_train.")


def _with_channels(array: np.ndarray, origin: str) -> np.ndarray:
    if array.ndim == 3:
        return array[..., None]
    if array.ndim != 4:
        raise DataError(f"{origin} has shape {array.shape}", remedy="Reshape it to [N, H, W] (grey) or [N, H, W, C].")
    if 1 <= array.shape[3] <= _MAX_CHANNELS:
        return array
    if 1 <= array.shape[1] <= _MAX_CHANNELS:
        raise DataError(
            f"{origin} has shape {array.shape}, which looks like [N, C, H, W]",
            remedy="Put the channels last: x.transpose(0, 2, 3, 1).",
        )
    raise DataError(
        f"{origin} has shape {array.shape}: {array.shape[3]} channels",
        remedy=f"Save [N, H, W, C] with 1 to {_MAX_CHANNELS} channels.",
    )


def _scaled(images: np.ndarray, origin: str, *, valid: PixelRange, pixel_range: PixelRange) -> np.ndarray:
    """The images as uint8, chunk by chunk, which avoids a second large copy.

    Raises:
        DataError: a pixel is NaN or not in ``valid``.
    """
    converted = np.empty(images.shape, np.uint8)
    for start in range(0, len(images), _CHUNK):
        chunk = images[start : start + _CHUNK]
        if bad := _find_bad_pixel(chunk, valid):
            index, value = bad
            raise DataError(f"{origin}: image {start + index} has a pixel of value {value}", remedy=_REMEDY_FOR_RANGE)
        converted[start : start + _CHUNK] = to_8_bit(chunk, pixel_range)
    return converted


def _find_bad_pixel(chunk: np.ndarray, valid: PixelRange) -> tuple[int, float] | None:
    """(image, value) of the first pixel that is NaN or outside ``valid``; None if there is none."""
    good = (chunk >= valid[0]) & (chunk <= valid[1])
    if good.all():
        return None
    position = np.unravel_index(int((~good).argmax()), chunk.shape)
    return int(position[0]), float(chunk[position])


def _to_labels(array: np.ndarray, *, origin: str) -> np.ndarray:
    """[N] or [N, 1] integers -> [N]."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise DataError(
            f"{origin} has shape {array.shape}", remedy="Save one integer per image; for one-hot rows, y.argmax(1)."
        )
    if array.dtype.kind not in "iu":
        raise DataError(f"{origin} is {array.dtype}", remedy="Save integers: y.astype(numpy.int32).")
    return array
