"""NumPy archives: read as written, floats rounded, and every malformed one refused by key; never a pickle."""

import io
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bncli.data import load_dataset
from bncli.data.arrays import _needed_memory, read_arrays
from bncli.errors import DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 6, 5, 3), dtype=np.uint8)
LABELS = np.arange(12) % 3
GOOD = {"x_train": IMAGES, "y_train": LABELS}


class Bomb:
    """An object whose unpickling would be noticed."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled')",))


def save(folder, **arrays):
    np.savez(folder / "toy.npz", **arrays)
    return folder / "toy.npz"


def test_an_archive_is_read_as_written(tmp_path):
    path = save(
        tmp_path,
        x_train=IMAGES,
        y_train=LABELS,
        x_val=IMAGES[:3],
        y_val=LABELS[:3],
        x_test=IMAGES[3:9],
        y_test=LABELS[3:9],
        class_names=np.array(["cat", "dog", "émeu"]),
    )
    raw = read_arrays(path)
    for split, part in ((raw.train, slice(None)), (raw.val, slice(3)), (raw.test, slice(3, 9))):
        np.testing.assert_array_equal(split.images, IMAGES[part])
        np.testing.assert_array_equal(split.labels, LABELS[part])
    assert raw.class_names == ("cat", "dog", "émeu")
    assert (raw.name, raw.source) == ("toy", str(path))


@pytest.mark.parametrize(
    "change",
    [
        {"x_train": IMAGES.astype(np.float32) / 255},
        {"x_train": IMAGES / 255},
        {"x_train": IMAGES.astype(np.int64)},
        {"x_train": IMAGES.astype(np.uint16)},
        {"x_train": np.asfortranarray(IMAGES)},
        {"y_train": LABELS[:, None]},
        {"y_train": LABELS.astype(np.uint64)},
        {"y_train": LABELS.astype(">i2")},
    ],
    ids=["float32", "float64", "int64", "uint16", "fortran", "column", "uint64", "big-endian"],
)
def test_the_same_data_in_another_dress_is_the_same_data(tmp_path, change):
    dataset = load_dataset(str(save(tmp_path, **(GOOD | change))))
    assert dataset.sha256 == load_dataset(str(save(tmp_path, **GOOD))).sha256


def test_images_without_channels_are_grey(tmp_path):
    raw = read_arrays(save(tmp_path, x_train=IMAGES[..., 0], y_train=LABELS))
    np.testing.assert_array_equal(raw.train.images, IMAGES[..., :1])
    assert raw.class_names == ("0", "1", "2")


WIDE = np.random.default_rng(1).integers(0, 4096, IMAGES.shape, dtype=np.uint16)
WIDE[0, 0, 0] = 4095, 0, 0


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, ">u2"])
def test_wide_integers_are_scaled_by_the_range_of_train(tmp_path, dtype):
    raw = read_arrays(save(tmp_path, x_train=WIDE.astype(dtype), y_train=LABELS, x_test=WIDE * 2, y_test=LABELS))
    assert raw.pixel_range == (0, 4095)
    np.testing.assert_array_equal(raw.train.images, np.rint(WIDE * (255 / 4095)).astype(np.uint8))
    np.testing.assert_array_equal(raw.test.images, np.rint(np.minimum(WIDE * 2, 4095) * (255 / 4095)).astype(np.uint8))
    assert "0 … 4095 is scaled to 0 … 255 (--pixel-range changes this)" in raw.warnings[0]
    assert "x_test has pixels outside 0 … 4095, which are clipped" in raw.warnings[1]


def test_a_given_range_holds_for_every_number_type(tmp_path):
    for images in (WIDE, WIDE.astype(np.float32)):
        raw = read_arrays(save(tmp_path, x_train=images, y_train=LABELS), (0, 65535))
        np.testing.assert_array_equal(raw.train.images, np.rint(WIDE / 257).astype(np.uint8))


def test_booleans_are_black_and_white(tmp_path):
    raw = read_arrays(save(tmp_path, x_train=IMAGES > 9, y_train=LABELS))
    np.testing.assert_array_equal(raw.train.images, np.where(IMAGES > 9, 255, 0))


def test_data_for_a_checkpoint_of_8_bit_images_are_not_measured(tmp_path):
    same = read_arrays(save(tmp_path, x_train=IMAGES.astype(np.int64), y_train=LABELS), "recorded")
    np.testing.assert_array_equal(same.train.images, IMAGES)
    full = read_arrays(save(tmp_path, x_train=WIDE, y_train=LABELS), "recorded")
    assert full.pixel_range == (0, 65535)
    with pytest.raises(DataError, match="x_train is int64, and the network was trained on images of 8 bits"):
        read_arrays(save(tmp_path, x_train=WIDE.astype(np.int64), y_train=LABELS), "recorded")


@pytest.mark.parametrize("images", [WIDE.astype(np.float32), np.where(WIDE > 9, np.nan, 0.5)])
def test_no_remedy_destroys_the_images(tmp_path, images):
    with pytest.raises(DataError) as caught:
        read_arrays(save(tmp_path, x_train=images, y_train=LABELS))
    assert "astype" not in caught.value.remedy
    assert "--pixel-range" in caught.value.remedy


def with_pixel(value):
    images = (IMAGES / 255).astype(np.float32)
    images[7, 2, 2, 2] = value
    return images


BAD = {
    "no images": ({"x_train": None, "y_train": None}, "no x_train; the archive holds: nothing"),
    "no labels": ({"y_train": None}, "no y_train"),
    "half a test split": ({"x_test": IMAGES}, "no y_test"),
    "counts": ({"y_train": LABELS[:5]}, "x_train holds 12 images, and y_train 5 labels"),
    "objects": ({"y_train": np.array([Bomb()] * 12)}, "Python objects"),
    "channels first": ({"x_train": IMAGES.transpose(0, 3, 1, 2)}, r"\(12, 3, 6, 5\), which looks like \[N, C, H, W\]"),
    "flat images": ({"x_train": IMAGES.reshape(12, -1)}, r"x_train has shape \(12, 90\)"),
    "many channels": ({"x_train": np.zeros((12, 8, 8, 9), np.uint8)}, "9 channels"),
    "complex numbers": ({"x_train": IMAGES.astype(np.complex64)}, "x_train is complex64"),
    "texts": ({"x_train": IMAGES.astype(str)}, "x_train is <U3"),
    "test beyond the 8 bits of train": (
        {"x_test": IMAGES.astype(np.int16) + 200, "y_test": LABELS},
        "x_test: image 0 has a pixel of value",
    ),
    "NaN": ({"x_train": with_pixel(np.nan)}, "x_train: image 7 has a pixel of value nan"),
    "above one": ({"x_train": with_pixel(1.5)}, "x_train: image 7 has a pixel of value 1.5"),
    "below zero": ({"x_train": with_pixel(-0.5)}, "x_train: image 7 has a pixel of value -0.5"),
    "0 to 255 in float": ({"x_train": IMAGES.astype(np.float32)}, "x_train: image 0 has a pixel of value"),
    "one-hot labels": ({"y_train": np.eye(3)[LABELS]}, r"y_train has shape \(12, 3\)"),
    "float labels": ({"y_train": LABELS.astype(float)}, "y_train is float64"),
    "a negative label": ({"y_train": LABELS - 1}, "y_train: label 0 is -1"),
    "a gap in the labels": ({"y_train": LABELS * 2}, "the largest label is 4, but no example has label 1"),
    "a huge label": ({"y_train": np.where(LABELS == 2, 2**40, LABELS)}, "no example has label 2"),
    "a val label out of range": (
        {"x_val": IMAGES, "y_val": LABELS + 1},
        "y_val: label 2 is 3, but there are 3 classes",
    ),
    "too few names": ({"class_names": np.array(["cat", "dog"])}, "y_train: label 2 is 2, but there are 2 classes"),
    "too many names": ({"class_names": np.array(list("abcd"))}, "no training example: d"),
    "names that are numbers": ({"class_names": np.arange(3)}, "class_names is int64"),
    "an empty split": ({"x_test": IMAGES[:0], "y_test": LABELS[:0]}, "the test split is empty"),
    "no examples": ({"x_train": IMAGES[:0], "y_train": LABELS[:0]}, "no labels"),
    "a single class": ({"y_train": LABELS * 0}, "only one class"),
    "test images of another size": ({"x_test": IMAGES[:, :4], "y_test": LABELS}, "test images are 4x5x3"),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD)
def test_a_malformed_archive_is_refused(tmp_path, changes, message):
    path = save(tmp_path, **{key: value for key, value in (GOOD | changes).items() if value is not None})
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(str(path))
    assert str(path) in caught.value.message


@pytest.mark.parametrize("content", [b"", b"PK", b"no archive at all", b"PK\x03\x04" + bytes(50)])
def test_a_file_that_is_no_archive_is_refused(tmp_path, content):
    path = tmp_path / "toy.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"not a readable \.npz") as caught:
        load_dataset(str(path))
    assert "savez" in caught.value.remedy


def test_an_archive_that_does_not_fit_into_memory_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr("bncli.process.memory.available_memory", lambda: 1 << 20)
    with pytest.raises(DataError, match=r"of memory needed, 1\.0 MiB available"):
        load_dataset(str(save(tmp_path, **GOOD)))


@settings(max_examples=80, deadline=None)
@given(data=st.data(), compressed=st.booleans())
def test_no_bytes_raise_anything_but_a_data_error(data, compressed, tmp_path_factory):
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, x_train=IMAGES[:3, :2, :2], y_train=LABELS[:3])
    content = bytearray(buffer.getvalue())
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[position] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "fuzzed.npz"
    path.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    try:
        raw = read_arrays(path)
    except DataError:
        return
    assert raw.train.images.dtype == np.uint8


def needed_and_taken(path, dtype, splits, count):
    """(the memory asked for, the largest that reading took); NumPy reports its allocations to tracemalloc."""
    arrays = {}
    for split in splits:
        arrays[f"x_{split}"] = np.ones((count, 32, 32, 3), dtype)
        arrays[f"y_{split}"] = np.arange(count) % 10
    np.savez(path, **arrays)
    del arrays
    tracemalloc.start()
    try:
        load_dataset(str(path))
        return _needed_memory(path), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(
    "splits",
    [
        ("train",),
        *(pytest.param(splits, marks=pytest.mark.broad) for splits in (("train", "test"), ("train", "val", "test"))),
    ],
)
def test_the_memory_asked_for_grows_as_the_memory_taken(tmp_path, dtype, splits):
    """Chunks of a bounded size come on top, for which the reserve is kept."""
    small, large = (needed_and_taken(tmp_path / "x.npz", dtype, splits, count) for count in (4000, 8000))
    needed, taken = (b - a for a, b in zip(small, large, strict=True))
    assert 0.75 * needed < taken < 1.05 * needed
    assert small[1] - small[0] < 64 << 20


def test_a_zip_of_images_is_to_be_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for name in ("train/cat/1.JPG", "train/dog/1.JPG"):
            archive.writestr(name, b"")
    with pytest.raises(DataError, match=r"photos\.zip: no x_train; the archive holds: train/cat/1\.JPG") as caught:
        load_dataset(str(tmp_path / "photos.zip"))
    assert caught.value.remedy == "Unpack it, and give the folder with the images."
