"""The default data set: the images that scikit-learn distributes, and a test split that no seed moves."""

import numpy as np
from sklearn.datasets import load_digits

from bncli.data import load_dataset
from bncli.data.digits import read_digits


def rows(split):
    return {image.tobytes() for image in split.images}


def test_digits_are_scikit_learns_images_scaled_to_bytes():
    dataset = load_dataset("digits")
    images = np.concatenate([dataset.train.images, dataset.val.images, dataset.test.images])
    assert images.shape == (1797, 8, 8, 1)
    expected = np.rint(load_digits().images * 255 / 16).astype(np.uint8)[..., None]
    assert sorted(image.tobytes() for image in images) == sorted(image.tobytes() for image in expected)
    assert (images.min(), images.max()) == (0, 255)


def test_labels_stay_with_their_images():
    bunch = load_digits()
    expected = {
        np.rint(image * 255 / 16).astype(np.uint8).tobytes(): label
        for image, label in zip(bunch.images, bunch.target, strict=True)
    }
    dataset = load_dataset("digits")
    for split in (dataset.train, dataset.val, dataset.test):
        assert [expected[image.tobytes()] for image in split.images] == split.labels.tolist()


def test_a_fifth_is_the_test_split_of_every_seed():
    first, second = load_dataset("digits", seed=0), load_dataset("digits", seed=1)
    assert len(first.test) == 359
    assert rows(first.test) == rows(second.test)
    assert rows(first.val) != rows(second.val)
    assert np.bincount(first.test.labels).min() >= 34


def test_the_splits_share_no_image():
    dataset = load_dataset("digits")
    assert len(rows(dataset.train) | rows(dataset.val) | rows(dataset.test)) == 1797


def test_images_and_labels_are_in_scikit_learns_order():
    bunch, raw = load_digits(), read_digits()
    np.testing.assert_array_equal(raw.train.images[..., 0], np.rint(bunch.images * 255 / 16))
    np.testing.assert_array_equal(raw.train.labels, bunch.target)


def test_the_hash_in_earlier_checkpoints_still_names_this_data_set():
    assert load_dataset("digits").sha256 == "f35cc05d0d0e88bd277b7c1a0d9d923f0983d5e8d162f2fd659bbb04ff79c435"
