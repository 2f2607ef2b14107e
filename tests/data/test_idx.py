"""IDX files: read as written, and every malformed one refused by name."""

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.dataset_writers import cycled_labels, grey_images, idx_bytes, write_idx_folder

from bncli.data import KNOWN, load_dataset
from bncli.data.idx import holds_idx, read_idx, read_idx_folder
from bncli.errors import DataError

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
IMAGES = idx_bytes(grey_images(5))
LABELS = idx_bytes(cycled_labels(5))


@pytest.mark.parametrize("zipped", [False, True])
def test_a_folder_is_read_as_written(tmp_path, zipped):
    arrays = write_idx_folder(tmp_path, zipped=zipped)
    raw = read_idx_folder(tmp_path)
    np.testing.assert_array_equal(raw.train.images[..., 0], arrays["train-images-idx3-ubyte"])
    np.testing.assert_array_equal(raw.train.labels, arrays["train-labels-idx1-ubyte"])
    np.testing.assert_array_equal(raw.test.images[..., 0], arrays["t10k-images-idx3-ubyte"])
    np.testing.assert_array_equal(raw.test.labels, arrays["t10k-labels-idx1-ubyte"])
    assert raw.class_names == tuple("0123456789")


def test_a_plain_file_is_preferred_to_its_zipped_double(tmp_path):
    write_idx_folder(tmp_path, zipped=False)
    shutil.copy(tmp_path / "train-labels-idx1-ubyte", tmp_path / "train-labels-idx1-ubyte.gz")
    assert len(read_idx_folder(tmp_path).train) == 40


def test_the_content_and_not_the_suffix_says_what_a_file_is(tmp_path):
    write_idx_folder(tmp_path, zipped=True)
    (tmp_path / "train-images-idx3-ubyte.gz").rename(tmp_path / "train_x.bin")
    (tmp_path / "README.train.images").write_text("nothing")
    assert len(read_idx_folder(tmp_path).train) == 40


def test_a_folder_without_test_files_has_no_test_split(tmp_path):
    write_idx_folder(tmp_path)
    for path in tmp_path.glob("t10k*"):
        path.unlink()
    assert read_idx_folder(tmp_path).test is None
    assert len(load_dataset(str(tmp_path)).test) == 8


def test_a_folder_of_a_known_name_has_its_class_names(tmp_path):
    write_idx_folder(tmp_path / "fashion-mnist")
    raw = read_idx_folder(tmp_path / "fashion-mnist")
    assert raw.class_names == KNOWN["fashion-mnist"].class_names
    assert raw.augmentation.horizontal_flip


BAD_FILES = {
    "empty": (b"", "not an IDX file: it starts with nothing"),
    "another file": (b"<html>Not found", "not an IDX file: it starts with 3c 68 74 6d"),
    "floats": (b"\0\0\x0d\x01\0\0\0\x01", "type 0x0d and 1 dimensions"),
    "two dimensions": (b"\0\0\x08\x02\0\0\0\x01\0\0\0\x01\0", "type 0x08 and 2 dimensions"),
    "a header cut short": (IMAGES[:11], "the header ends after 11 bytes"),
    "values cut short": (IMAGES[:-7], "180 bytes of values expected, 173 found"),
    "trailing bytes": (IMAGES + b"\0", "continues after the 180 bytes"),
    "no values": (idx_bytes(grey_images(0)), "holds no values"),
    "a header that announces the moon": (b"\0\0\x08\x03" + b"\xff" * 12, "memory needed|header announces"),
    "a gzip cut short": (gzip.compress(IMAGES)[:-12], "the gzip stream is damaged"),
    "a gzip of another checksum": (gzip.compress(IMAGES)[:-8] + bytes(8), "the gzip stream is damaged"),
    "a gzip header only": (b"\x1f\x8b\x08", "the gzip stream is damaged"),
}


@pytest.mark.parametrize(("content", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_malformed_file_is_refused(tmp_path, content, message):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_idx(path)
    assert str(path) in caught.value.message


def remove(name):
    return lambda folder: (folder / name).unlink()


def replace(name, content):
    return lambda folder: (folder / name).write_bytes(content)


BAD_FOLDERS = {
    "no labels": (remove("train-labels-idx1-ubyte"), "no train labels", "train-labels-idx1-ubyte"),
    "no test images": (remove("t10k-images-idx3-ubyte"), "no test images", "t10k-images-idx3-ubyte"),
    "two image files": (replace("train-more-idx3-ubyte", IMAGES), "several files hold train images", "Keep one"),
    "another count": (replace("train-labels-idx1-ubyte", LABELS), "40 images, but .* 5 labels", "same data set"),
    "a damaged file": (replace("train-labels-idx1-ubyte", b"\0\0"), "not an IDX file", "error page"),
    "a gap": (
        replace("train-labels-idx1-ubyte", idx_bytes(cycled_labels(40) * 2)),
        "the largest label is 18, but no example has label 1",
        "without gaps",
    ),
    "a test label too large": (
        replace("t10k-labels-idx1-ubyte", idx_bytes(cycled_labels(20, 11))),
        "test: label 10 is 10, but there are 10 classes",
        "0 to 9",
    ),
}


@pytest.mark.parametrize(("damage", "message", "remedy"), BAD_FOLDERS.values(), ids=BAD_FOLDERS)
def test_a_malformed_folder_is_refused(tmp_path, damage, message, remedy):
    write_idx_folder(tmp_path, zipped=False)
    damage(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(str(tmp_path))
    assert str(tmp_path) in caught.value.message
    assert remedy in caught.value.remedy


def test_a_label_out_of_range_names_its_file(tmp_path):
    folder = tmp_path / "mnist"
    write_idx_folder(folder, num_classes=12, zipped=False)
    with pytest.raises(DataError, match="label 10 is 10, but there are 10 classes") as caught:
        load_dataset("mnist", data_dir=tmp_path)
    assert str(folder / "train-labels-idx1-ubyte") in caught.value.message


@settings(max_examples=60, deadline=None)
@given(data=st.data(), zipped=st.booleans())
def test_no_bytes_raise_anything_but_a_data_error(data, zipped, tmp_path_factory):
    content = bytearray(gzip.compress(IMAGES, mtime=0) if zipped else IMAGES)
    for position in data.draw(st.lists(st.integers(0, min(len(content) - 1, 40)), max_size=4)):
        content[position] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "fuzzed-train-images-idx"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    holds_idx(path.parent)
    try:
        values = read_idx(path)
    except DataError:
        return
    assert values.dtype == np.uint8


@pytest.mark.skipif(not FASHION_MNIST.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_the_real_fashion_mnist():
    dataset = load_dataset(str(FASHION_MNIST))
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (54_000, 6_000, 10_000)
    assert dataset.image_shape == (28, 28, 1)
    assert dataset.class_names[9] == "Ankle boot"
    np.testing.assert_array_equal(np.bincount(dataset.test.labels), 1000)
    np.testing.assert_allclose([*dataset.mean, *dataset.std], [0.2860, 0.3530], atol=2e-3)
    assert dataset.sha256.startswith("b4087a5d382b")
