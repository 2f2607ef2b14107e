"""The data of a checkpoint: those it knows, or others that fit it."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from support.dataset_writers import save_image
from support.tiny import make_split, run_config

from bncli.config.settings import DataConfig
from bncli.data.configured import augmentation_of, load_configured, load_matching
from bncli.errors import DataError, UsageError
from bncli.training.assembly import checkpoint_config


def changes(dataset, **settings):
    """The augmentation of a run with these settings."""
    return augmentation_of(DataConfig(**settings), dataset)


def test_shift_padding_and_flips_are_the_data_sets_own_unless_given(dataset):
    own = dataset.augmentation
    assert changes(dataset) == own
    asked = changes(dataset, augment_shift=3, augment_padding="reflect", augment_flip="alternating", hflip=0.5)
    assert (asked.max_shift, asked.pad_mode, asked.alternates) == (3, "reflect", True)
    assert changes(dataset, augment_shift=0).is_none
    assert not changes(dataset, augment_flip="alternating").alternates  # these images are not mirrored at all
    assert changes(dataset, augment_shift=3, random_resized_crop=0.5).max_shift == 0


def test_a_shift_as_large_as_the_image_is_refused(dataset):
    assert changes(dataset, augment_shift=7).max_shift == 7
    with pytest.raises(UsageError, match="--augment-shift 8: the images have 8×8 pixels"):
        changes(dataset, augment_shift=8)


@pytest.fixture
def unknown(dataset):
    """The configuration of a network for 8×8 grey images whose data are not known."""
    return replace(checkpoint_config(run_config(), dataset), dataset=None)


def test_data_that_are_not_known_must_be_named(unknown):
    with pytest.raises(DataError, match="are not known") as caught:
        load_matching(unknown)
    assert "--data" in caught.value.remedy


def test_any_classes_will_do_for_a_network_whose_own_are_not_known(unknown, tmp_path):
    split = make_split(30, seed=0)
    np.savez(tmp_path / "two.npz", x_train=split.images, y_train=split.labels % 2)
    assert load_matching(unknown, source=str(tmp_path / "two.npz")).num_classes == 2


@pytest.mark.parametrize(("size", "channels"), [(9, 1), (8, 3)])
def test_images_of_another_shape_are_refused_in_the_words_of_the_checkpoint(unknown, tmp_path, size, channels):
    split = make_split(30, seed=0, size=size, channels=channels)
    np.savez(tmp_path / "other.npz", x_train=split.images, y_train=split.labels)
    with pytest.raises(DataError, match=r"other\.npz has other images than the checkpoint takes: \(8, 8, 1\)"):
        load_matching(unknown, source=str(tmp_path / "other.npz"))


@pytest.mark.parametrize(("recorded", "expected"), [((0, 4095), (0, 4095)), (None, (0, 65535))])
def test_other_data_are_scaled_by_the_range_of_the_training(unknown, tmp_path, recorded, expected):
    """Never by a range of their own, which the network has not seen."""
    values = np.random.default_rng(0).integers(0, 1024, (30, 8, 8), np.uint16)
    np.savez(tmp_path / "ten_bits.npz", x_train=values, y_train=np.arange(30) % 2)
    for number, image in enumerate(values):
        save_image(Image.fromarray(image), tmp_path / "folder" / f"{number % 2}" / f"{number}.png")
    config = replace(unknown, preprocessing=replace(unknown.preprocessing, pixel_range=recorded))
    for source in ("ten_bits.npz", "folder"):
        dataset = load_matching(config, source=str(tmp_path / source))
        assert dataset.pixel_range == expected
        largest = max(split.images.max() for split in (dataset.train, dataset.val, dataset.test))
        assert largest == round(int(values.max()) * 255 / expected[1])


def test_the_size_that_a_training_chose_is_not_announced_again(tmp_path):
    """`--image-size` is an option of the training alone."""
    for number in range(20):
        values = np.full((12 + number, 15, 3), number, np.uint8)
        save_image(Image.fromarray(values), tmp_path / "photos" / f"{number % 2}" / f"{number}.png")
    run = run_config(data={"source": str(tmp_path / "photos")})
    first = load_configured(run.data, seed=0)
    assert any("--image-size changes this" in warning for warning in first.warnings)
    again = load_matching(checkpoint_config(run, first))
    assert again.warnings == ()
    assert (again.image_shape, again.sha256) == (first.image_shape, first.sha256)
