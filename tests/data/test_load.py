"""What the user writes after ``--data``: told by content, found or refused with the remedy."""

import os
from pathlib import Path

import numpy as np
import pytest
from support.dataset_writers import (
    cifar10_files,
    grey_images,
    idx_bytes,
    write_files,
    write_idx_folder,
    write_image_folder,
)

from bncli.data import KNOWN, ImageOptions, load_dataset, user_data_dir
from bncli.errors import ConfigError, DataError, UsageError


def write_npz(folder):
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "toy.npz", x_train=grey_images(30), y_train=np.arange(30) % 3)
    return folder / "toy.npz"


def make_source(kind, root):
    if kind == "idx":
        write_idx_folder(root)
    elif kind == "cifar":
        write_files(root, cifar10_files())
    elif kind == "images":
        write_image_folder(root)
    else:
        return write_npz(root)
    return root


@pytest.mark.parametrize("kind", ["idx", "cifar", "images", "npz"])
def test_every_kind_is_told_by_its_content(tmp_path, kind):
    source = make_source(kind, tmp_path / "x")
    calls = [load_dataset(str(source), seed=seed) for seed in (0, 0, 1)]
    assert calls[0].source == str(source)
    assert {dataset.sha256 for dataset in calls} == {calls[0].sha256}
    np.testing.assert_array_equal(calls[0].val.images, calls[1].val.images)
    assert not np.array_equal(calls[0].val.images, calls[2].val.images)
    np.testing.assert_array_equal(calls[0].test.images, calls[2].test.images)


@pytest.mark.parametrize("kind", ["idx", "cifar", "npz"])
def test_only_image_files_are_resized_or_converted(tmp_path, kind):
    source = str(make_source(kind, tmp_path / "x"))
    height, _, channels = load_dataset(source).image_shape
    assert load_dataset(source, images=ImageOptions(size=height, channels=channels)).image_shape[0] == height
    with pytest.raises(UsageError, match=f"--image-size is {height + 1}"):
        load_dataset(source, images=ImageOptions(size=height + 1))
    with pytest.raises(UsageError, match=f"--channels is {4 - channels}"):
        load_dataset(source, images=ImageOptions(channels=4 - channels))


@pytest.mark.parametrize("name", [name for name in KNOWN if name != "digits"])
def test_a_known_data_set_that_is_not_here_says_how_to_get_it(name, tmp_path):
    with pytest.raises(DataError, match=f"{name} is not on this machine") as caught:
        load_dataset(name, data_dir=tmp_path / "mine")
    assert str(tmp_path / "mine") in caught.value.message
    remedy = caught.value.remedy
    assert f"bncli data fetch {name}" in remedy
    assert str(user_data_dir() / name) in remedy
    for file in KNOWN[name].files:
        assert file.name in remedy


@pytest.mark.parametrize(
    ("source", "suggestion"),
    [("CIFAR10", "cifar10"), ("fashion_mnist", "fashion-mnist"), ("mnits", "mnist"), ("digit", "digits")],
)
def test_a_misspelt_name_is_corrected(source, suggestion):
    with pytest.raises(DataError, match="neither a file or folder") as caught:
        load_dataset(source)
    assert f"Did you mean {suggestion}?" in caught.value.remedy
    assert "Known names: cifar10, cifar100, digits, fashion-mnist, mnist" in caught.value.remedy


def test_a_name_like_no_other_is_not_corrected(tmp_path):
    with pytest.raises(DataError) as caught:
        load_dataset(str(tmp_path / "zzz"))
    assert "Did you mean" not in caught.value.remedy


def test_a_name_is_a_name_even_beside_a_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_image_folder(Path("digits"))
    assert load_dataset("digits").source == "bncli"
    assert load_dataset("./digits").class_names == ("cat", "dog")


BAD_SOURCES = {
    "an empty folder": ({}, "", "holds no data set"),
    "a folder of loose images": ({"1.png": b""}, "", "1 image and no class folders"),
    "a folder of other files": ({"1.txt": b""}, "", "holds no data set"),
    "a text file": ({"x.txt": b"hello"}, "x.txt", "not a file that can be read as a data set"),
    "a pickle": ({"x.pkl": b"\x80\x04."}, "x.pkl", "not a file that can be read as a data set"),
    "one IDX file": ({"x": idx_bytes(grey_images(2))}, "x", "a single IDX file is not a data set"),
    "a gzip of something": ({"x.gz": b"\x1f\x8b\x08"}, "x.gz", "damaged"),
}


@pytest.mark.parametrize(("files", "source", "message"), BAD_SOURCES.values(), ids=BAD_SOURCES)
def test_what_is_no_data_set_is_refused(tmp_path, files, source, message):
    write_files(tmp_path, files)
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(str(tmp_path / source))
    assert str(tmp_path / source) in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize("fraction", [0, 1, 1.5])
def test_a_val_fraction_out_of_range_is_refused_before_reading(fraction):
    with pytest.raises(ConfigError, match="fraction"):
        load_dataset("no such source", val_fraction=fraction)


@pytest.mark.parametrize("source", ["x" * 5000, "/".join(["x" * 200] * 40), "a\0b", "~nobody-of-this-name/x", "", "\n"])
def test_a_source_that_can_be_no_path_is_refused(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        load_dataset(source)
    assert len(caught.value.message) < 600


@pytest.mark.parametrize("data_dir", ["x" * 5000, "a\0b"])
def test_a_data_dir_that_can_be_no_path_is_refused(data_dir):
    with pytest.raises(DataError):
        load_dataset("mnist", data_dir=Path(data_dir))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX alone")
@pytest.mark.parametrize(
    "name", ["x.npz", "d/train-images-idx3-ubyte", "d/data_batch_1.bin", "d/cifar-10-binary.tar.gz", "d/a/1.png"]
)
def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError):
        load_dataset(str(tmp_path / name.split("/")[0]))


@pytest.mark.parametrize("source", ["pipe", "device"])
def test_what_is_neither_a_file_nor_a_folder_is_said_so(tmp_path, source):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    with pytest.raises(DataError, match=f"{source}: neither a regular file nor a folder"):
        load_dataset(str(tmp_path / source))
