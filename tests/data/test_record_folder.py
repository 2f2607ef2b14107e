"""ArrayRecord files, of TFDS or plain, are the image folder of the same images; bad records and files are named."""

import json
import pickle
import re
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.dataset_writers import example_bytes, labelled_images, write_image_folder, write_records, write_tfds

from bncli.data import ImageOptions, folder_listing, load_dataset, record_folder
from bncli.data.examples import bytes_of, feature_names, integer_of, parse_example
from bncli.data.feed import TrainingBatches, TrainingFeed
from bncli.data.load import holds_image_files, open_contents
from bncli.data.packing import pack
from bncli.errors import DataError


@pytest.fixture
def images(tmp_path):
    return write_image_folder(tmp_path / "images", splits=("train", "val", "test"))


def examples(images, split):
    return [example_bytes(image=content, label=label, id=b"x") for content, label in labelled_images(images, split)]


@pytest.fixture
def tfds(images, tmp_path):
    names = {"train": "train", "validation": "val", "test": "test"}
    splits = {name: examples(images, split) for name, split in names.items()}
    return write_tfds(tmp_path / "made" / "1.0.0", splits)


@pytest.fixture
def plain(images, tmp_path):
    root = tmp_path / "plain"
    root.mkdir()
    records = {
        split: [example_bytes(image__encoded=a, image__class__label=b) for a, b in labelled_images(images, split)]
        for split in ("train", "val", "test")
    }
    write_records(root / "my-train-00000-of-00002.array_record", records["train"][:5])
    write_records(root / "my-train-00001-of-00002.array_record", records["train"][5:])
    write_records(root / "validation.array_record", records["val"])
    write_records(root / "test.array_record-00000-of-00001", records["test"])
    (root / "labels.txt").write_text("cat\ndog\n")
    return root


def same(first, second):
    for name in ("train", "val", "test"):
        one, other = getattr(first, name), getattr(second, name)
        np.testing.assert_array_equal(one.images[:], other.images[:])
        np.testing.assert_array_equal(one.labels, other.labels)
    facts = ("class_names", "sha256", "mean", "std", "augmentation", "pixel_range", "crop")
    assert [getattr(first, fact) for fact in facts] == [getattr(second, fact) for fact in facts]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", ["tfds", "plain"])
def test_records_are_the_images_of_the_folder(kind, stream, images, request):
    source = str(request.getfixturevalue(kind))
    for options in (ImageOptions(stream=stream), ImageOptions(stream=stream, size=5, channels=1)):
        loaded = load_dataset(source, images=options)
        assert loaded.is_streamed == stream
        same(load_dataset(str(images), images=options), loaded)
    assert loaded.name == {"tfds": "made", "plain": "plain"}[kind]
    assert holds_image_files(source)


def test_random_parts_are_those_of_the_files(images, tfds):
    options = ImageOptions(size=5, random_crop=True)
    one, other = (load_dataset(str(source), images=options).train.images for source in (images, tfds))
    bits = np.random.default_rng(0).integers(0, 1 << 32, (12, 40), dtype=np.uint32)
    for index in range(12):
        parts = [lazy.source.read_crop(index, bits[index], 0.3) for lazy in (one, other)]
        np.testing.assert_array_equal(*parts)


def test_other_processes_read_the_same_batches(tfds):
    train = load_dataset(str(tfds), images=ImageOptions(stream=True)).train.images
    source = pickle.loads(pickle.dumps(train.source))  # noqa: S301 - made here
    feed = TrainingFeed(TrainingBatches(source, train.rows, seed=0, batch_size=4, start=0), workers=0)
    expected = TrainingBatches(train.source, train.rows, seed=0, batch_size=4, start=0)
    for step in range(4):
        np.testing.assert_array_equal(feed.images(step), expected[step])
    feed.close()


def test_records_can_be_packed(images, tfds, tmp_path):
    pack(open_contents(str(tfds)), tmp_path / "packed")
    same(load_dataset(str(images)), load_dataset(str(tmp_path / "packed")))


def test_a_second_command_reads_no_record(tfds, monkeypatch):
    monkeypatch.setattr(folder_listing, "_TICK_NS", 0)
    time.sleep(0.02)
    first, read = load_dataset(str(tfds)), []
    original = record_folder._read_entries
    monkeypatch.setattr(record_folder, "_read_entries", lambda *rest: (read.append(1), original(*rest))[1])
    same(first, load_dataset(str(tfds)))
    assert not read
    shard = tfds / "made-test.array_record-00000-of-00002"
    write_records(shard, [example_bytes(image=b"", label=1)] * 6)
    with pytest.raises(
        DataError, match=r"6 of 36 records are not readable images:\n  .*made-test.*00000.*: record 0: "
    ):
        load_dataset(str(tfds))
    assert read


def png(images):
    return (images / "train" / "cat" / "0.png").read_bytes()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda png: b"\xff" * 9, "not a tf.train.Example"),
        (lambda png: b"", "it has no feature 'label'"),
        (lambda png: example_bytes(image=png), "it has no feature 'label'"),
        (lambda png: example_bytes(label=0), "it has no feature 'image'"),
        (lambda png: example_bytes(image=png, label=b"0"), "its feature 'label' holds 1 bytes, not one of integers"),
        (lambda png: example_bytes(image=1.5, label=0), "its feature 'image' holds 1 numbers, not one of bytes"),
        (lambda png: example_bytes(image=png, label=2), "its label is 2, but there are 2 classes"),
        (lambda png: example_bytes(image=png, label=-1), "its label is -1, but there are 2 classes"),
        (lambda png: example_bytes(image=png, label=1 << 40), "its label is 1099511627776"),
        (lambda png: example_bytes(image=b"text", label=0), "not an image, or of an unsupported kind"),
        (lambda png: example_bytes(image=png[:60], label=0), "image file is truncated"),
    ],
)
def test_a_bad_record_is_named_and_can_be_left_out(make, reason, images, tfds):
    records = examples(images, "train")
    records[6] = make(png(images))
    write_records(tfds / "made-train.array_record-00001-of-00002", records[6:])
    with pytest.raises(DataError) as caught:
        load_dataset(str(tfds))
    shard = "made-train.array_record-00001-of-00002"
    assert f"{tfds / shard}: record 0: {reason}" in caught.value.message
    assert "1 of 36 records" in caught.value.message
    assert "--bad-images skip" in caught.value.remedy
    for stream in (False, True):
        loaded = load_dataset(str(tfds), images=ImageOptions(bad_images="skip", stream=stream))
        assert len(loaded.train) == 11
        assert any("left out 1 of 36 records" in warning for warning in loaded.warnings)


def edit(path, change):
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def features(change):
    return lambda root: edit(root / "features.json", lambda doc: change(doc["featuresDict"]["features"]))


def info(change):
    return lambda root: edit(root / "dataset_info.json", change)


def damage(root):
    path = root / "made-train.array_record-00000-of-00002"
    content = bytearray(path.read_bytes())
    content[120:140] = bytes(20)
    path.write_bytes(content)


FAULTS = {
    "a file is missing": (
        lambda root: (root / "made-train.array_record-00001-of-00002").unlink(),
        r"made-train\.array_record-00001-of-00002: missing, though dataset_info.json names it",
    ),
    "a file has fewer records": (
        lambda root: write_records(root / "made-train.array_record-00001-of-00002", [b""]),
        "00001-of-00002: 1 records, not the 6 of dataset_info.json",
    ),
    "a file is cut": (
        lambda root: (root / "made-test.array_record-00000-of-00002").write_bytes(b"short"),
        "made-test.array_record-00000-of-00002: not a whole ArrayRecord file",
    ),
    "a record is damaged": (damage, r"made-train\.array_record-00000-of-00002: record 0: cannot be read: "),
    "another format": (
        info(lambda doc: doc.update(fileFormat="tfrecord")),
        r"prepared it as tfrecord, .*`tfds convert_format --dataset_version_dir=.*1.0.0 --out_file_format=array_record",
    ),
    "no format named": (info(lambda doc: doc.pop("fileFormat")), "prepared it as tfrecord"),
    "a template that leads out": (
        info(lambda doc: doc["splits"][0].update(filepathTemplate="../{SPLIT}")),
        r"dataset_info.json: \.\./\{SPLIT\} is no template of files in its folder",
    ),
    "a template of other keys": (
        info(lambda doc: doc["splits"][0].update(filepathTemplate="{OTHER}")),
        "is no template",
    ),
    "no train": (
        info(lambda doc: doc["splits"].pop(0)),
        "no split of the name train; those that are there: validation, test",
    ),
    "no JSON": (lambda root: (root / "features.json").write_text("{"), "features.json: the document: Invalid JSON"),
    "a negative length": (
        info(lambda doc: doc["splits"][0].update(shardLengths=["-1"])),
        "dataset_info.json: splits.0.shardLengths.0: ",
    ),
    "no image": (features(lambda found: found.pop("image")), "no feature is an image"),
    "no label": (features(lambda found: found.pop("label")), "no feature is a class label"),
    "an image of floats": (
        features(lambda found: found["image"]["image"].update(dtype="float32")),
        "the pixels of its feature image are float32",
    ),
    "a class twice": (lambda root: (root / "label.labels.txt").write_text("a\na\n"), "names the class a twice"),
    "too few names": (lambda root: (root / "label.labels.txt").write_text("a\n"), "1 names, but features.json has 2"),
    "names of other bytes": (
        lambda root: (root / "label.labels.txt").write_bytes(b"\xff\n"),
        "names of classes in UTF-8",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_folder_of_tfds_is_told(fault, tfds):
    spoil, words = FAULTS[fault]
    spoil(tfds)
    with pytest.raises(DataError) as caught:
        load_dataset(str(tfds))
    assert re.search(words, f"{caught.value.message} {caught.value.remedy}")


def test_two_labels_need_a_supervised_one(tfds):
    features(lambda found: found.update(kind=found["label"]))(tfds)
    assert load_dataset(str(tfds)).class_names == ("cat", "dog")
    info(lambda doc: doc.pop("supervisedKeys"))(tfds)
    with pytest.raises(DataError, match="several features are a class label: label, kind"):
        load_dataset(str(tfds))


def test_a_split_without_labels_or_of_another_name_is_not_used(images, tmp_path):
    unlabelled = [example_bytes(image=content, label=-1) for content, _ in labelled_images(images, "test")]
    splits = {"train": examples(images, "train"), "test": unlabelled, "corrupted": unlabelled}
    dataset = load_dataset(str(write_tfds(tmp_path / "made", splits)))
    assert dataset.warnings == (
        "splits that are not used: corrupted",
        "the test split has no labels, so it is not used",
    )
    assert len(dataset.train) + len(dataset.val) + len(dataset.test) == 12


def test_classes_without_names_are_numbered(tfds):
    (tfds / "label.labels.txt").unlink()
    assert load_dataset(str(tfds)).class_names == ("0", "1")


def test_the_folder_above_names_the_version(tfds):
    with pytest.raises(DataError, match="each version") as caught:
        load_dataset(str(tfds.parent))
    assert str(tfds) in caught.value.remedy


def test_a_plain_folder_may_be_one_file(images, tmp_path):
    root = tmp_path / "one"
    root.mkdir()
    write_records(root / "all.array_record", examples(images, "train"))
    dataset = load_dataset(str(root))
    assert dataset.class_names == ("0", "1")
    assert len(dataset.train) + len(dataset.val) + len(dataset.test) == 12


def test_a_bad_plain_folder_is_told(images, plain):
    (plain / "my-train-00001-of-00002.array_record").rename(plain / "extra.array_record")
    with pytest.raises(DataError, match=r"my-train-00001-of-00002.array_record: missing, though my-train-00000"):
        load_dataset(str(plain))
    (plain / "my-train-00000-of-00002.array_record").rename(plain / "train.array_record")
    with pytest.raises(DataError, match=r"extra.array_record: its name does not tell its split"):
        load_dataset(str(plain))
    (plain / "extra.array_record").unlink()
    write_records(plain / "train.array_record", [bytes(192)])
    with pytest.raises(DataError, match=r"train.array_record: record 0: not a tf.train.Example") as caught:
        load_dataset(str(plain))
    assert "tf.train.Example messages" in caught.value.remedy
    write_records(plain / "train.array_record", [example_bytes(pixels=b"", label=1)])
    with pytest.raises(DataError, match="record 0: no feature of an image has a usual name; only 'label', 'pixels'"):
        load_dataset(str(plain))
    write_records(plain / "train.array_record", [])
    with pytest.raises(DataError, match=r"train.array_record: no record"):
        load_dataset(str(plain))
    (plain / "train.array_record").unlink()
    with pytest.raises(DataError, match="no split of the name train; those that are there: test, validation"):
        load_dataset(str(plain))


@settings(max_examples=200, deadline=None)
@given(
    content=st.one_of(
        st.binary(max_size=60),
        st.tuples(st.integers(0, 40), st.integers(0, 255)).map(
            lambda change: (lambda raw: raw[: change[0]] + bytes([change[1]]) + raw[change[0] + 1 :])(
                example_bytes(image=b"pixels", label=3)
            )
        ),
    )
)
def test_any_bytes_are_an_example_or_a_value_error(content):
    try:
        example = parse_example(content)
        assert all(isinstance(name, str) for name in feature_names(example))
        assert isinstance(bytes_of(example, "image"), bytes)
        assert isinstance(integer_of(example, "label"), int)
    except ValueError:
        pass


@pytest.mark.broad
def test_records_train_to_the_bytes_of_the_folder(images, tfds, plain, tmp_path):
    import bncli

    runs = {"folder": (images, {}), "tfds": (tfds, {}), "plain": (plain, {}), "streamed": (tfds, {"stream": True})}
    found = set()
    for name, (source, data) in runs.items():
        settings = {"data": data, "training": {"epochs": 2, "batch_size": 4}, "model": {"name": "mlp"}}
        found.add(bncli.train(settings, str(source), out=tmp_path / f"{name}-run").sha256)
    assert len(found) == 1
