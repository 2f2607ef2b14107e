"""The cache of image folders: nothing is read twice, nothing stale is used, and damage is noticed."""

import os
import time

import numpy as np
import pytest
from support.dataset_writers import colour_image, save_image, write_image_folder

from bncli.data import ImageOptions, cache_files, folder_listing, load_dataset, pixel_cache
from bncli.data.folder import open_image_folder
from bncli.data.pixel_cache import data_cache
from bncli.process.cache import user_cache


@pytest.fixture(autouse=True)
def _settled(monkeypatch):
    """The files of these tests are older than a tick of the clock."""
    monkeypatch.setattr(folder_listing, "_TICK_NS", 0)


@pytest.fixture
def folder(tmp_path):
    write_image_folder(tmp_path / "images", splits=("train", "test"))
    time.sleep(0.02)  # a tick
    return tmp_path / "images"


@pytest.fixture
def decoded(monkeypatch):
    """The files that are opened: their headers, and their pixels."""
    opened = {"headers": [], "pixels": []}
    for module, name, kind in (("folder", "read_header", "headers"), ("decoding", "decode", "pixels")):
        place = f"bncli.data.{module}.{name}"
        original = getattr(__import__(f"bncli.data.{module}", fromlist=[name]), name)
        monkeypatch.setattr(
            place, lambda path, *rest, f=original, k=kind: (opened[k].append(path.name), f(path, *rest))[1]
        )
    return opened


def same(first, second):
    for name in ("train", "val", "test"):
        one, other = getattr(first, name), getattr(second, name)
        np.testing.assert_array_equal(one.images[:], other.images[:])
        np.testing.assert_array_equal(one.labels, other.labels)
        assert list(one.files) == list(other.files)
    assert (first.sha256, first.mean, first.std) == (second.sha256, second.mean, second.std)


@pytest.mark.parametrize("stream", [False, True])
def test_a_second_command_opens_no_file(folder, decoded, stream):
    first = load_dataset(str(folder), images=ImageOptions(stream=stream))
    assert len(decoded["headers"]) == len(decoded["pixels"]) == 24
    second = load_dataset(str(folder), images=ImageOptions(stream=stream))
    assert len(decoded["headers"]) == len(decoded["pixels"]) == 24
    same(first, second)
    assert data_cache().datasets == 1


def test_streamed_and_kept_images_are_the_same(folder):
    kept = load_dataset(str(folder), images=ImageOptions(stream=False))
    same(kept, load_dataset(str(folder), images=ImageOptions(stream=True)))
    for path in (user_cache() / "decoded").iterdir():
        path.unlink()
    streamed = load_dataset(str(folder), images=ImageOptions(stream=True))
    assert streamed.is_streamed
    same(kept, streamed)


def test_a_changed_file_is_read_again_and_only_its_header(folder, decoded):
    before = open_image_folder(folder).read()
    save_image(colour_image(seed=99), folder / "train" / "cat" / "0.png")
    time.sleep(0.02)
    after = open_image_folder(folder).read()
    assert decoded["headers"][24:] == ["0.png"]
    assert before.sha256 != after.sha256
    np.testing.assert_array_equal(after.train.images[0], np.asarray(colour_image(seed=99)))


@pytest.mark.parametrize("options", [{"size": 4}, {"channels": 1}])
def test_other_options_have_other_images(folder, options):
    open_image_folder(folder).read()
    cached, shape = (
        open_image_folder(folder, ImageOptions(**options)).read(),
        (options.get("size", 8), options.get("channels", 3)),
    )
    assert (cached.train.images.shape[1], cached.train.images.shape[3]) == shape
    assert data_cache().datasets == 2


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("damage", ["truncate", "flip", "index"])
def test_damage_is_noticed_and_the_images_made_anew(folder, damage, stream):
    options = ImageOptions(stream=stream)
    before = load_dataset(str(folder), images=options)
    (pixels,) = (user_cache() / "decoded").glob("*.pixels")
    victim = next((user_cache() / "decoded").glob("*.npz")) if damage == "index" else pixels
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 0xFF
    victim.write_bytes(content[:100] if damage == "truncate" else content)
    same(before, load_dataset(str(folder), images=options))
    again = load_dataset(str(folder), images=options)
    same(before, again)
    assert data_cache().bytes == 24 * 8 * 8 * 3


def test_the_cache_is_bounded_and_can_be_switched_off(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("BNCLI_DATA_CACHE", "0")
    kept = load_dataset(str(folder))
    assert data_cache().datasets == 0
    same(kept, load_dataset(str(folder), images=ImageOptions(stream=True)))
    monkeypatch.setenv("BNCLI_DATA_CACHE", str(1.5 * 24 * 192 / 2**30))  # room for one of two
    other = tmp_path / "other"
    write_image_folder(other, splits=("train", "test"))
    time.sleep(0.02)
    for source in (folder, other):
        (user_cache() / "decoded").mkdir(exist_ok=True)
        for index in (user_cache() / "decoded").glob("*.npz"):
            index.unlink()
        load_dataset(str(source))
    assert data_cache().datasets == 1


def test_a_folder_that_others_can_write_to_is_not_trusted(folder, decoded):
    load_dataset(str(folder))
    for name in ("folders", "decoded"):
        (user_cache() / name).chmod(0o777)
    load_dataset(str(folder))
    assert len(decoded["headers"]) == len(decoded["pixels"]) == 48


def test_a_cache_that_cannot_be_written_costs_only_time(folder, monkeypatch, decoded):
    for module in (cache_files, pixel_cache):
        monkeypatch.setattr(module, "private_folder", lambda *names: (_ for _ in ()).throw(OSError))
    same(load_dataset(str(folder)), load_dataset(str(folder), images=ImageOptions(stream=True)))
    assert len(decoded["pixels"]) >= 48


def test_files_that_have_just_changed_are_not_remembered(folder, monkeypatch, decoded):
    monkeypatch.setattr(folder_listing, "_TICK_NS", 10**12)
    load_dataset(str(folder))
    load_dataset(str(folder))
    assert len(decoded["headers"]) == len(decoded["pixels"]) == 48


def test_an_unreadable_file_is_reported_each_time(folder):
    path = folder / "train" / "cat" / "0.png"
    path.write_bytes(path.read_bytes()[:80])  # the header is whole
    time.sleep(0.02)
    for stream in (False, True, True):
        raw = open_image_folder(folder, ImageOptions(stream=stream, bad_images="skip")).read()
        assert any("left out 1 of 24" in note for note in raw.warnings)
        assert len(raw.train) == 11
        assert os.fspath(raw.train.files[0]).endswith("1.png")


def test_a_file_rewritten_with_its_size_and_times_is_noticed(folder):
    before = open_image_folder(folder).read()
    path = folder / "train" / "cat" / "0.png"
    old = path.stat()
    path.write_bytes((folder / "train" / "cat" / "1.png").read_bytes().ljust(old.st_size, b"\0")[: old.st_size])
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))
    assert path.stat().st_mtime_ns == old.st_mtime_ns
    time.sleep(0.02)
    after = open_image_folder(folder, ImageOptions(bad_images="skip")).read()
    assert after.sha256 != before.sha256


def test_files_that_come_and_go_are_noticed_and_the_others_are_not_opened_again(folder, decoded):
    open_image_folder(folder).read()
    (folder / "train" / "cat" / "0.png").unlink()
    save_image(colour_image(seed=7), folder / "train" / "cat" / "00.png")
    time.sleep(0.02)
    after = open_image_folder(folder).read()
    assert decoded["headers"][24:] == ["00.png"]
    np.testing.assert_array_equal(after.train.images[0], np.asarray(colour_image(seed=7)))
