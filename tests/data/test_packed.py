"""Packed images are those of the source; a packing goes on after a kill; damage and hostile files are named."""

import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.dataset_writers import colour_image, save_image, write_image_folder

from bncli.config.document import Crop
from bncli.data import Augmentation, ImageOptions, load_dataset
from bncli.data.array_record import num_records, write_records
from bncli.data.dataset import RawDataset, Split
from bncli.data.feed import TrainingBatches, TrainingFeed
from bncli.data.load import open_contents
from bncli.data.packable import ArrayContents
from bncli.data.packed import PackedSource
from bncli.data.packing import pack
from bncli.errors import DataError, UsageError


@pytest.fixture
def folder(tmp_path):
    write_image_folder(tmp_path / "images", splits=("train", "test"))
    return tmp_path / "images"


@pytest.fixture
def packed(folder, tmp_path):
    pack(open_contents(str(folder)), tmp_path / "packed", shard_bytes=1000)  # 5 images of 192 bytes
    return tmp_path / "packed"


def same(first, second):
    for name in ("train", "val", "test"):
        one, other = getattr(first, name), getattr(second, name)
        np.testing.assert_array_equal(one.images[:], other.images[:])
        np.testing.assert_array_equal(one.labels, other.labels)
    facts = ("name", "class_names", "sha256", "mean", "std", "augmentation", "pixel_range", "crop")
    assert [getattr(first, fact) for fact in facts] == [getattr(second, fact) for fact in facts]


def raw_dataset(rng, counts, shape):
    def split(count):
        labels = np.arange(count, dtype=np.int32) % 2
        return Split(rng.integers(0, 256, (count, *shape), np.uint8), labels) if count else None

    train, val, test = map(split, counts)
    return RawDataset("made", ("a", "b"), train, val, test, Augmentation(max_shift=1), "made")


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 99),
    counts=st.tuples(st.integers(20, 40), *[st.sampled_from([0, 3, 9])] * 2),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 3])),
    shard_bytes=st.sampled_from([1, 100, 1 << 20]),
)
def test_packed_images_are_those_of_the_source(tmp_path_factory, seed, counts, shape, shard_bytes):
    out, place = tmp_path_factory.mktemp("packed"), tmp_path_factory.mktemp("source") / "made.npz"
    raw = raw_dataset(np.random.default_rng(seed), counts, shape)
    splits = {"train": raw.train, "val": raw.val, "test": raw.test}
    present = {name: split for name, split in splits.items() if split is not None}
    np.savez(
        place,
        **{f"x_{name}": split.images for name, split in present.items()},
        **{f"y_{name}": split.labels for name, split in present.items()},
    )
    result = pack(open_contents(str(place)), out, shard_bytes=shard_bytes)
    assert (result.num_images, result.kept) == (sum(counts), 0)
    for stream in (False, True):
        loaded = load_dataset(str(out), images=ImageOptions(stream=stream))
        assert loaded.is_streamed == stream
        same(load_dataset(str(place)), loaded)


@pytest.mark.parametrize("stream", [False, True])
def test_a_packed_folder_is_the_folder(folder, packed, stream):
    same(load_dataset(str(folder)), load_dataset(str(packed), images=ImageOptions(stream=stream)))


def test_workers_read_the_same_batches(packed):
    train = load_dataset(str(packed), images=ImageOptions(stream=True)).train.images
    source = pickle.loads(pickle.dumps(train.source))  # noqa: S301 - made here
    assert isinstance(source, PackedSource)
    feed = TrainingFeed(TrainingBatches(source, train.rows, seed=0, batch_size=4, start=0), workers=0)
    expected = TrainingBatches(train.source, train.rows, seed=0, batch_size=4, start=0)
    for step in range(5):
        np.testing.assert_array_equal(feed.images(step), expected[step])
    feed.close()


def test_options_are_chosen_when_packing(folder, tmp_path):
    crop = Crop(resize=6)
    images = ImageOptions(size=4, channels=1, crop=crop)
    pack(open_contents(str(folder), images=images), tmp_path / "small")
    same(load_dataset(str(folder), images=images), load_dataset(str(tmp_path / "small")))
    same(load_dataset(str(folder), images=images), load_dataset(str(tmp_path / "small"), images=images))
    with pytest.raises(DataError, match=r"small: packed with --resize 6 .* resized to 7 pixels") as caught:
        load_dataset(str(tmp_path / "small"), images=ImageOptions(crop=Crop(resize=7)))
    assert "--resize 7 --interpolation bilinear" in caught.value.remedy
    with pytest.raises(UsageError, match="the images are 4x4, but --image-size is 8"):
        load_dataset(str(tmp_path / "small"), images=ImageOptions(size=8))


class Killed(BaseException):
    """Ends a packing where a signal would."""


def stop_after(images):
    def progress(stage, done, total):
        if stage == "packing train" and done >= images:
            raise Killed

    return progress


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("leftover", ["nothing", "no index", "damaged shard", "temporary"])
def test_a_packing_goes_on_behind_its_last_whole_shard(folder, packed, tmp_path, leftover):
    out = tmp_path / "again"
    with pytest.raises(Killed):
        pack(open_contents(str(folder)), out, shard_bytes=1000, progress=stop_after(10))
    with pytest.raises(DataError, match="its packing has not ended"):
        load_dataset(str(out))
    second = out / "train-00001-of-00003.array_record"
    if leftover == "no index":
        second.with_suffix(".npz").unlink()
    elif leftover == "damaged shard":
        second.write_bytes(second.read_bytes()[:-1])
    elif leftover == "temporary":
        (out / ".train-00002-of-00003.array_record.17").write_bytes(b"part")
    result = pack(open_contents(str(folder)), out, shard_bytes=1000)
    assert result.kept == (2 if leftover in ("nothing", "temporary") else 1)
    assert content(out) == content(packed)


@pytest.mark.parametrize(
    "damaged", [None, "train-00001-of-00003.array_record", "train-00001-of-00003.npz", "dataset.json"]
)
def test_a_packing_that_has_ended_is_checked_and_mended(folder, packed, damaged):
    before = content(packed)
    if damaged:
        (packed / damaged).write_bytes(before[damaged][:-1])
    result = pack(open_contents(str(folder)), packed, shard_bytes=1000)
    assert result.kept == result.shards - ("train" in (damaged or ""))
    assert content(packed) == before


def kill_when(process, folder, pattern, count):
    """Kill a packing when its folder has so many files of a pattern; True if it had not ended before."""
    deadline = time.monotonic() + 120
    while process.poll() is None and len(list(folder.glob(pattern))) < count:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


@pytest.mark.broad
def test_a_command_that_is_killed_again_and_again_packs_the_same_bytes(tmp_path):
    source, out, whole = (tmp_path / name for name in ("large.npz", "out", "whole"))
    images = np.random.default_rng(0).integers(0, 256, (3000, 128, 128, 3), np.uint8)
    np.savez(source, x_train=images, y_train=np.arange(3000, dtype=np.int32) % 5)
    words = [sys.executable, "-m", "bncli", "data", "pack", str(source)]
    subprocess.run([*words, str(whole)], capture_output=True, check=True)
    temporary, shard, index = ".*.array_record.*", "[!.]*.array_record", "[!.]*.npz"
    for pattern, count in ((temporary, 1), (shard, 1), (index, 1), (shard, 2), (index, 2)):
        process = subprocess.Popen([*words, str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert kill_when(process, out, pattern, count)
    assert not (out / "dataset.json").exists()
    done = subprocess.run([*words, str(out), "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["kept"] >= 2
    assert content(out) == content(whole)


def test_other_data_do_not_go_on_a_packing(folder, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(Killed):
        pack(open_contents(str(folder)), out, shard_bytes=1000, progress=stop_after(5))
    with pytest.raises(UsageError, match="other options"):
        pack(open_contents(str(folder), images=ImageOptions(size=4)), out, shard_bytes=1000)
    time.sleep(0.02)
    save_image(colour_image(seed=9), folder / "train" / "cat" / "0.png")
    with pytest.raises(UsageError, match="or the data have changed since"):
        pack(open_contents(str(folder)), out, shard_bytes=1000)


def test_a_folder_with_something_else_is_left_alone(folder, packed, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    (packed / "packing.json").unlink()  # as an earlier bncli left it
    for out, message in ((tmp_path / "mine", "not an empty folder"), (packed, "holds packed images already")):
        before = content(out)
        with pytest.raises(UsageError, match=message):
            pack(open_contents(str(folder)), out)
        assert content(out) == before
    with pytest.raises(UsageError, match="packed already"):
        open_contents(str(packed))
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        pack(open_contents(str(folder)), tmp_path / "file")


def test_unreadable_images_are_refused_or_left_out(folder, tmp_path):
    path = folder / "train" / "cat" / "0.png"
    path.write_bytes(path.read_bytes()[:80])  # the header is whole
    with pytest.raises(DataError, match=r"1 of 24 files are not readable images:\n  .*cat.0\.png: "):
        pack(open_contents(str(folder)), tmp_path / "out", shard_bytes=1000)
    skipping = ImageOptions(bad_images="skip")
    result = pack(open_contents(str(folder), images=skipping), tmp_path / "out", shard_bytes=1000)
    assert result.kept == result.shards  # nothing is decoded twice
    assert any("left out 1 of 24" in note for note in result.notes)
    same(load_dataset(str(folder), images=skipping), load_dataset(str(tmp_path / "out")))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "empty"])
@pytest.mark.parametrize("victim", ["train-00001-of-00003.array_record", "train-00001-of-00003.npz", "dataset.json"])
def test_damage_is_refused_by_name(packed, victim, damage, stream):
    load_dataset(str(packed))  # its SHA-256 is remembered
    path = packed / victim
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 0xFF
    contents = {"flip": bytes(whole), "truncate": bytes(whole[: len(whole) // 2]), "empty": b""}
    time.sleep(0.02)  # a tick
    path.unlink() if damage == "remove" else path.write_bytes(contents[damage])
    with pytest.raises(DataError, match=victim):
        load_dataset(str(packed), images=ImageOptions(stream=stream))


def rewritten(packed, change, *, shard=0):
    """The packed folder with a changed description of one shard."""
    document = json.loads((packed / "dataset.json").read_text())
    change(document, document["shards"]["train"][shard])
    (packed / "dataset.json").write_text(json.dumps(document))


def with_index(packed, **arrays):
    """A shard whose index was replaced, with the right SHA-256."""
    name = "train-00000-of-00003"
    with np.load(packed / f"{name}.npz") as archive:
        kept = {key: archive[key] for key in archive.files}
    np.savez(packed / f"{name}.npz", **(kept | arrays))
    sha256 = hashlib.sha256((packed / f"{name}.npz").read_bytes()).hexdigest()
    rewritten(packed, lambda document, shard: shard.update(index_sha256=sha256))


class Opened:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": np.array([0, 1], np.int32)}, "not the index of 5 packed images"),
        ({"labels": np.zeros(5, np.int64)}, "not the index of 5 packed images"),
        ({"values": np.zeros((5, 1), np.uint64)}, "not the index of 5 packed images"),
        ({"labels": np.full(5, 7, np.int32)}, "label 0 is 7, but there are 2 classes"),
    ],
)
def test_a_forged_index_is_refused(packed, arrays, message):
    with_index(packed, **arrays)
    with pytest.raises(DataError, match=message):
        load_dataset(str(packed), images=ImageOptions(stream=True))


def test_nothing_is_unpickled(packed, tmp_path):
    with_index(packed, labels=np.array([Opened(str(tmp_path / "owned"))] * 5, object))
    with pytest.raises(DataError, match="Object arrays cannot be loaded"):
        load_dataset(str(packed))
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda document, shard: shard.update(name="../train-00000-of-00003"), "shards.train.0.name"),
        (lambda document, shard: shard.update(images=-1), "shards.train.0.images"),
        (lambda document, shard: document.update(shape=[8, 8, 10**9]), "train-00000-of-00003.npz"),
        (lambda document, shard: document.update(shape=[8, 0, 3]), "shape"),
        (lambda document, shard: document["shards"].update(train=[]), "shards.train"),
        (lambda document, shard: document["shards"].pop("train"), "shards has no train"),
        (lambda document, shard: document.update(schema="bncli.packed/2"), "schema"),
        (lambda document, shard: document.update(class_names=["cat"]), "there is only one class|classes"),
        (lambda document, shard: shard.update(name="train-00001-of-00003"), "a shard is named twice"),
    ],
)
def test_a_forged_description_is_refused(packed, change, message):
    rewritten(packed, change)
    with pytest.raises(DataError, match=message):
        load_dataset(str(packed), images=ImageOptions(stream=True))


def replaced_shard(packed, records):
    path = packed / "train-00000-of-00003.array_record"
    path.unlink()
    write_records(path, records)
    found = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "num_bytes": path.stat().st_size}
    rewritten(packed, lambda document, shard: shard.update(found))


@pytest.mark.parametrize(("records", "message"), [([b"x"] * 5, "has 1 bytes, not the 192"), ([b"x" * 192], "record")])
def test_records_of_another_kind_are_refused(packed, records, message):
    replaced_shard(packed, records)
    for stream in (False, True):
        with pytest.raises(DataError, match=rf"train-00000-of-00003\.array_record: .*{message}"):
            load_dataset(str(packed), images=ImageOptions(stream=stream)).train.images[:]


def test_other_pixels_with_right_hashes_of_files_are_noticed_in_memory(packed):
    replaced_shard(packed, [bytes(192)] * 5)
    with pytest.raises(DataError, match="not those of the SHA-256"):
        load_dataset(str(packed), images=ImageOptions(stream=False))


def test_a_pipe_is_not_opened(packed):
    path = packed / "train-00000-of-00003.array_record"
    size = path.stat().st_size
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match=f"not the {size:,} that were packed"):
        load_dataset(str(packed))
    with pytest.raises(DataError, match="not a regular file"):
        num_records(path)


def test_a_full_disk_is_told_before_anything_is_decoded(folder, tmp_path, monkeypatch):
    contents = open_contents(str(folder))
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("bncli.data.packing.shutil.disk_usage", lambda path: usage)
    with pytest.raises(DataError, match="of disk left"):
        pack(contents, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.array_record"))


def test_a_data_set_in_memory_keeps_its_augmentation(tmp_path):
    raw = raw_dataset(np.random.default_rng(0), (20, 4, 4), (4, 4, 3))
    changes = Augmentation(max_shift=2, pad_mode="reflect", horizontal_flip=True)
    pack(ArrayContents(replace(raw, augmentation=changes)), tmp_path / "out")
    assert load_dataset(str(tmp_path / "out")).augmentation == changes
