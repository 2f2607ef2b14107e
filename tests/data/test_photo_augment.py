"""Laws of the augmentation of photographs, against Pillow and NumPy."""

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from support.dataset_writers import save_image

from bncli.config.settings import DataConfig
from bncli.data import Augmentation, augment, threefry
from bncli.data.colour import erase, jitter_colour
from bncli.data.configured import augmentation_of
from bncli.data.image_file import decode_part, resized_part
from bncli.data.mixing import augmented, mix
from bncli.data.rand_augment import OPERATIONS, rand_augment
from bncli.data.random_crop import NUM_DRAWS, draw_box
from bncli.data.read_augment import ReadAugmentation
from bncli.data.sources import ArraySource

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 12, 16, 3), dtype=np.uint8)
KEYS = jax.random.split(jax.random.key(3), 6)
LABELS = np.arange(6, dtype=np.int32)
MEAN = (0.5, 0.4, 0.3)


def bits(seed, count=NUM_DRAWS):
    return threefry.random_bits(threefry.key_of(seed), count)


@given(seed=st.integers(0, 2**31), width=st.integers(1, 400), height=st.integers(1, 400), least=st.floats(0.01, 1))
def test_a_box_lies_in_the_image(seed, width, height, least):
    left, top, right, bottom = draw_box(bits(seed), width=width, height=height, min_area=least).corners
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


def test_boxes_have_the_areas_and_ratios_that_are_asked_for():
    boxes = [draw_box(bits(seed), width=500, height=400, min_area=0.08) for seed in range(1000)]
    areas = np.array([box.width * box.height / 200_000 for box in boxes])
    ratios = np.array([box.width / box.height for box in boxes])
    assert 0.079 < areas.min() < 0.1
    assert 0.9 < areas.max() <= 1
    assert 0.74 < ratios.min() < 0.76
    assert 1.31 < ratios.max() < 1.35


def test_an_image_of_an_extreme_shape_gives_its_centre():
    assert draw_box(bits(0), width=1000, height=10, min_area=1).corners == (493, 0, 506, 10)


def test_a_part_of_a_file_is_that_part_of_its_pixels(tmp_path):
    path = save_image(Image.fromarray(IMAGES[0]), tmp_path / "a.png")
    box = draw_box(bits(7), width=16, height=12, min_area=0.2)
    expected = Image.fromarray(IMAGES[0]).crop(box.corners).resize((8, 8), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(decode_part(path, (8, 8, 3), None, bits(7), 0.2), np.asarray(expected))
    whole = Image.fromarray(IMAGES[0]).crop(box.corners).resize((16, 12), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(resized_part(IMAGES[0], bits(7), 0.2), np.asarray(whole))


def test_a_large_jpeg_is_decoded_small_and_looks_the_same(tmp_path):
    ramp = np.linspace(0, 255, 1024).astype(np.uint8)
    image = Image.fromarray(np.stack([np.tile(ramp, (1024, 1))] * 3, axis=2))
    path = save_image(image, tmp_path / "a.jpg", quality=95)
    box = draw_box(bits(1), width=1024, height=1024, min_area=0.5)
    expected = np.asarray(image.crop(box.corners).resize((32, 32), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(decode_part(path, (32, 32, 3), None, bits(1), 0.5).astype(int) - expected).max() <= 3


def test_a_photograph_on_its_side_is_turned_before_it_is_cut(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save_image(Image.fromarray(IMAGES[0]), tmp_path / "a.png", exif=exif)
    upright = Image.fromarray(IMAGES[0]).transpose(Image.Transpose.ROTATE_270)
    box = draw_box(bits(2), width=12, height=16, min_area=0.2)
    expected = upright.crop(box.corners).resize((8, 8), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(decode_part(path, (8, 8, 3), None, bits(2), 0.2), np.asarray(expected))


@pytest.mark.broad
def test_jitter_is_that_of_pillow_in_some_order():
    """Each image is what Pillow's enhancers make of it by the factors and in the order that its key draws."""
    changed = np.asarray(jitter_colour(IMAGES, KEYS, strength=0.4))
    orders = list(itertools.permutations((ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)))
    kinds = [ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color]
    for image, key, result in zip(IMAGES, KEYS, changed, strict=True):
        order_key, factor_key = jax.random.split(key)
        factors = dict(zip(kinds, jax.random.uniform(factor_key, (3,), minval=0.6, maxval=1.4).tolist(), strict=True))
        expected = Image.fromarray(image)
        for kind in orders[int(jax.random.randint(order_key, (), 0, 6))]:
            expected = kind(expected).enhance(factors[kind])
        assert np.abs(result - np.asarray(expected)).max() <= 4  # Pillow rounds after each of three steps


@pytest.mark.parametrize("channels", [2, 4])
def test_where_channels_are_no_colours_none_of_them_is_special(channels):
    images = np.random.default_rng(0).integers(0, 256, (8, 5, 6, channels), dtype=np.uint8)
    keys = jax.random.split(jax.random.key(0), 8)
    changed = np.asarray(jitter_colour(images, keys, strength=0.4))
    assert not np.allclose(changed, images, atol=5)
    other_way = np.asarray(jitter_colour(images[..., ::-1], keys, strength=0.4))
    np.testing.assert_allclose(changed, other_way[..., ::-1], atol=1e-3)


def test_erasing_takes_one_rectangle_of_two_to_thirty_three_percent():
    images = np.full((200, 20, 20, 1), 9, np.float32)
    keys = jax.random.split(jax.random.key(0), 200)
    erased = np.asarray(erase(images, keys, probability=1.0, fill=np.float32([5])))[..., 0] == 5
    for one in erased:
        rows, columns = np.flatnonzero(one.any(axis=1)), np.flatnonzero(one.any(axis=0))
        assert one[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert 0.01 < one.mean() < 0.36
    half = np.asarray(erase(images, keys, probability=0.5, fill=np.float32([5])))
    assert 70 < (half == 5).any(axis=(1, 2, 3)).sum() < 130


def test_mixup_adds_partners_by_weights_that_sum_to_one():
    mixed, labels = jax.jit(lambda x, y, k: mix(x, y, k, Augmentation(mixup=0.4)))(IMAGES, LABELS, KEYS)
    partners = [1, 0, 3, 2, 5, 4]
    np.testing.assert_array_equal(labels.others, LABELS[partners])
    weights = np.asarray(labels.weights)[:, None, None, None]
    assert (weights >= 0.5).all()
    assert (weights <= 1).all()
    np.testing.assert_allclose(mixed, weights * IMAGES + (1 - weights) * IMAGES[partners], atol=1e-3)


@pytest.mark.broad
def test_cutmix_weighs_labels_by_the_pixels():
    ones, zeros = np.ones((4, 10, 10, 1), np.float32), np.zeros((4, 10, 10, 1), np.float32)
    images = np.stack([ones, zeros], axis=1).reshape(8, 10, 10, 1)
    mixed, labels = mix(images, np.arange(8), jax.random.split(jax.random.key(1), 8), Augmentation(cutmix=1.0))
    own = np.asarray(mixed)[::2].mean(axis=(1, 2, 3))  # 1 where the pixel is the example's own
    np.testing.assert_allclose(labels.weights[::2], own, rtol=1e-6)
    assert set(np.unique(mixed)) == {0.0, 1.0}
    assert (np.asarray(labels.weights) < 1).any()


@pytest.mark.broad
def test_with_both_on_each_example_is_mixed_by_one_of_them():
    images = RNG.uniform(0, 255, (64, 8, 8, 1)).astype(np.float32)
    keys = jax.random.split(jax.random.key(2), 64)
    mixed, _ = mix(images, np.arange(64), keys, Augmentation(mixup=5.0, cutmix=5.0))
    untouched = (np.asarray(mixed) == images).any(axis=(1, 2, 3))
    assert 16 < untouched.sum() < 48


def test_the_last_of_an_odd_batch_has_no_partner():
    mixed, labels = mix(IMAGES[:5], LABELS[:5], KEYS[:5], Augmentation(mixup=1.0))
    np.testing.assert_allclose(mixed[4], IMAGES[4], atol=1e-3)
    assert int(labels.others[4]) == 4


def test_what_is_off_changes_nothing():
    images, labels = augmented(IMAGES, LABELS, KEYS, Augmentation.none(), mean=MEAN)
    np.testing.assert_array_equal(images, IMAGES)
    assert labels is LABELS
    np.testing.assert_array_equal(erase(IMAGES, KEYS, probability=0.0, fill=np.float32([1, 1, 1])), IMAGES)
    np.testing.assert_allclose(jitter_colour(IMAGES, KEYS, strength=0.0), IMAGES, atol=1e-3)
    rows = np.arange(6)
    keys = threefry.fold_in(threefry.key_of(0), rows)
    np.testing.assert_array_equal(ReadAugmentation().read(ArraySource(IMAGES), rows, keys), IMAGES)


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_mirroring_has_its_probability(probability):
    settings = DataConfig(hflip=probability)
    changed = augment(IMAGES, KEYS, augmentation_of(settings, _Data(Augmentation())))
    np.testing.assert_array_equal(changed, IMAGES[:, :, ::-1] if probability else IMAGES)


class _Data:
    def __init__(self, augmentation):
        self.augmentation = augmentation


def test_settings_are_added_to_what_suits_the_data():
    own = Augmentation(max_shift=3, horizontal_flip=True)
    assert augmentation_of(DataConfig(), _Data(own)) == own
    assert augmentation_of(DataConfig(augment=False, mixup=1.0), _Data(own)).is_none
    cropped = augmentation_of(DataConfig(random_resized_crop=0.08), _Data(own))
    assert (cropped.max_shift, cropped.horizontal_flip, cropped.when_read.min_crop) == (0, True, 0.08)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("operation", range(len(OPERATIONS)))
def test_every_operation_of_randaugment_keeps_the_shape(operation, channels):
    image = IMAGES[0][..., :channels]
    for sign in (0, 1 << 31):
        choice = np.array([[operation, sign]], np.uint32)
        changed = rand_augment(image, choice, magnitude=15)
        assert (changed.dtype, changed.shape) == (np.uint8, image.shape)
        np.testing.assert_array_equal(changed, rand_augment(image, choice, magnitude=15))


def test_randaugment_shifts_by_its_share_of_the_width():
    right = rand_augment(IMAGES[0], np.array([[3, 1 << 31]], np.uint32), magnitude=30)
    pixels = int(150 / 331 * 16)
    np.testing.assert_array_equal(right[:, pixels:], IMAGES[0][:, :-pixels])
    assert not right[:, :pixels].any()


def test_an_example_is_changed_by_its_key_alone():
    """The same in any batch, at any place, in any process."""
    changes = ReadAugmentation(min_crop=0.3, randaugment=2)
    rows = np.arange(6)
    keys = threefry.fold_in(threefry.key_of(9), rows)
    whole = changes.read(ArraySource(IMAGES), rows, keys)
    for row in rows:
        np.testing.assert_array_equal(changes.read(ArraySource(IMAGES), rows[row:][:1], keys[row:][:1])[0], whole[row])
