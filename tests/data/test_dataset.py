"""What holds for any data set: checked, hashed before it is split, split without loss, measured exactly."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from bncli.data import Augmentation, Split
from bncli.data.dataset import RawDataset, build_dataset, dataset_sha256, numbered_classes, pixel_statistics
from bncli.data.lazy_images import LazyImages
from bncli.errors import DataError


def make_split(num_examples, *, num_classes=3, side=4, seed=0):
    images = np.random.default_rng(seed).integers(0, 256, (num_examples, side, side, 2), dtype=np.uint8)
    return Split(images, (np.arange(num_examples) % num_classes).astype(np.int32))


def make_raw(train, *, val=None, test=None, num_classes=3):
    return RawDataset(
        name="toy",
        class_names=tuple("abcdefgh"[:num_classes]),
        train=train,
        val=val,
        test=test,
        augmentation=Augmentation.none(),
        source="toy.npz",
    )


def examples(*splits):
    """The multiset of (image, label)."""
    return sorted(
        (image.tobytes(), int(label))
        for split in splits
        for image, label in zip(split.images, split.labels, strict=True)
    )


@pytest.mark.parametrize("has_val", [False, True])
@pytest.mark.parametrize("has_test", [False, True])
def test_every_example_is_in_one_split(has_val, has_test):
    train = make_split(60)
    val, test = (make_split(9, seed=seed) if has else None for seed, has in ((1, has_val), (2, has_test)))
    everything = examples(*(split for split in (train, val, test) if split is not None))
    dataset = build_dataset(make_raw(train, val=val, test=test), val_fraction=0.25, seed=3)
    assert examples(dataset.train, dataset.val, dataset.test) == everything
    assert len(dataset.test) == (9 if has_test else 12)
    assert len(dataset.val) == (9 if has_val else 15 if has_test else 12)
    assert (dataset.image_shape, dataset.num_classes) == ((4, 4, 2), 3)


def test_the_seed_moves_val_and_neither_test_nor_the_hash():
    first, second = (build_dataset(make_raw(make_split(60)), val_fraction=0.2, seed=seed) for seed in (0, 1))
    assert examples(first.test) == examples(second.test)
    assert first.sha256 == second.sha256
    assert examples(first.val) != examples(second.val)


def test_the_hash_sees_every_pixel_every_label_and_every_split():
    raw = make_raw(make_split(6), test=make_split(3, seed=1))
    other_pixel, other_label = make_split(6), make_split(6)
    other_pixel.images[5, 3, 3, 1] ^= 1
    other_label.labels[5] = 0
    variants = [raw, replace(raw, train=other_pixel), replace(raw, train=other_label), replace(raw, test=None)]
    variants.append(replace(raw, val=raw.test, test=None))
    assert len({dataset_sha256(variant) for variant in variants}) == len(variants)


def test_the_hash_never_changes():
    # It is stored with every run; a new value would call every stored run's data set changed.
    split = Split(np.arange(8, dtype=np.uint8).reshape(2, 2, 2, 1), np.array([0, 1], np.int32))
    expected = "7f4ebc83b263"
    assert dataset_sha256(make_raw(split, num_classes=2)).startswith(expected)


@settings(max_examples=40, deadline=None)
@given(images=npst.arrays(np.uint8, npst.array_shapes(min_dims=4, max_dims=4, max_side=6)), chunk=st.integers(1, 200))
def test_pixel_statistics_are_those_of_numpy(images, chunk):
    import bncli.data.dataset as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK_BYTES", chunk)
        mean, std = pixel_statistics(images)
    scaled = images.astype(np.float64) / 255
    np.testing.assert_allclose(mean, scaled.mean(axis=(0, 1, 2)), atol=1e-12)
    np.testing.assert_allclose(std, np.maximum(scaled.std(axis=(0, 1, 2)), 1 / 255), atol=1e-7)


@pytest.mark.parametrize("has_val", [False, True])
def test_pixel_statistics_are_those_of_train_alone(has_val):
    dark, bright = make_split(60), make_split(9, seed=1)
    dark.images[:] //= 2
    dataset = build_dataset(make_raw(dark, val=bright if has_val else None, test=bright), val_fraction=0.25, seed=3)
    assert (dataset.mean, dataset.std) == pixel_statistics(dataset.train.images)
    everything = np.concatenate([split.images for split in (dataset.train, dataset.val, dataset.test)])
    assert dataset.mean != pixel_statistics(everything)[0]


def test_the_std_of_a_constant_channel_is_not_zero():
    _, std = pixel_statistics(np.full((3, 2, 2, 1), 7, np.uint8))
    assert std == (1 / 255,)


@pytest.mark.parametrize("shape", [(600, 100, 100, 1), (70_000, 1, 1, 1), (1, 70_000, 1, 1)])
@pytest.mark.parametrize("way", [np.asarray, LazyImages.of_array])
def test_pixel_statistics_do_not_overflow(shape, way):
    mean, std = pixel_statistics(way(np.full(shape, 255, np.uint8)))
    assert (mean, std) == ((1.0,), (1 / 255,))


BAD = {
    "an empty train split": (make_raw(make_split(0)), "the train split is empty"),
    "an empty test split": (make_raw(make_split(6), test=make_split(0)), "the test split is empty"),
    "images without pixels": (make_raw(make_split(6, side=0)), "no pixels"),
    "splits of two sizes": (make_raw(make_split(6), val=make_split(6, side=5)), "val images are 5x5x2"),
    "a label out of range": (
        make_raw(make_split(6), test=make_split(6, num_classes=6)),
        "toy.npz: test: label 3 is 3, but there are 3 classes",
    ),
    "a single class": (make_raw(make_split(6, num_classes=1), num_classes=1), "only one class, a"),
    "an empty class": (make_raw(make_split(6), num_classes=5), r"2 of 5 classes have no training example: d \(3\), e"),
    "only classes of one": (make_raw(make_split(3)), "every class has a single example"),
}


@pytest.mark.parametrize(("raw", "message"), BAD.values(), ids=BAD)
def test_what_cannot_be_trained_on_is_refused(raw, message):
    with pytest.raises(DataError, match=message) as caught:
        build_dataset(raw, val_fraction=0.1, seed=0)
    assert "toy.npz" in caught.value.message


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "no labels"),
        ([0, -3, -1], "label 1 is -3"),
        ([0, 1, 3], "the largest label is 3, but no example has label 2"),
        ([1, 2], "no example has label 0"),
        ([2**63], "no example has label 0"),
    ],
)
def test_classes_without_names_are_numbered_without_gaps(labels, message):
    with pytest.raises(DataError, match=message):
        numbered_classes(np.asarray(labels, np.uint64 if max(labels, default=0) > 9 else np.int64), origin="y")
    assert numbered_classes(np.array([2, 0, 1, 1]), origin="y") == ("0", "1", "2")
