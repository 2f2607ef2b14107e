"""Laws of augmentation: pixels are moved and never changed, and an example's key alone decides how."""

import os
import subprocess
import sys
from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bncli.data import Augmentation, augment, example_keys, normalize
from bncli.errors import ConfigError

SHIFT_AND_FLIP = Augmentation(max_shift=2, pad_mode="zero", horizontal_flip=True)
AUGMENTATIONS = [
    Augmentation(max_shift=1),
    Augmentation(horizontal_flip=True),
    SHIFT_AND_FLIP,
    Augmentation(max_shift=3, pad_mode="reflect", horizontal_flip=True),
]


def random_images(num_examples, *, height=8, width=9, channels=3, dtype=np.uint8):
    """Pixels are never 0, so that zero padding is told from the image."""
    values = np.random.default_rng(0).integers(1, 256, (num_examples, height, width, channels))
    return jnp.asarray(values.astype(dtype))


def random_keys(num_examples, *, epoch=0):
    return example_keys(jax.random.key(0), epoch, jnp.arange(num_examples))


def possible_outcomes(image, augmentation):
    """Every (row offset, column offset, flip) applied to ``image``, by NumPy's pad and plain slices."""
    shift = augmentation.max_shift
    mode = "reflect" if augmentation.pad_mode == "reflect" else "constant"
    padded = np.pad(image, ((shift, shift), (shift, shift), (0, 0)), mode=mode)
    height, width, _ = image.shape
    crops = [
        padded[row : row + height, column : column + width] for row, column in product(range(2 * shift + 1), repeat=2)
    ]
    return crops + ([crop[:, ::-1] for crop in crops] if augmentation.horizontal_flip else [])


@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=str)
def test_every_image_becomes_one_of_its_shifts_and_every_shift_occurs(augmentation):
    images = jnp.broadcast_to(random_images(1), (2000, 8, 9, 3))
    augmented = np.asarray(augment(images, random_keys(2000), augmentation))
    expected = [outcome.tobytes() for outcome in possible_outcomes(np.asarray(images[0]), augmentation)]
    assert len(set(expected)) == len(expected), "the images of this test must tell all outcomes apart"
    assert {image.tobytes() for image in augmented} == set(expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, jnp.bfloat16])
def test_the_dtype_is_kept(dtype):
    images = random_images(4, dtype=dtype)
    augmented = augment(images, random_keys(4), SHIFT_AND_FLIP)
    assert augmented.dtype == images.dtype
    expected = augment(random_images(4, dtype=np.uint8), random_keys(4), SHIFT_AND_FLIP)
    np.testing.assert_array_equal(augmented.astype(np.float32), expected.astype(np.float32))


def test_flips_that_are_given_take_the_place_of_those_that_are_drawn():
    images, keys = random_images(6), random_keys(6)
    flips = jnp.asarray([True, False, True, True, False, False])
    moved = np.asarray(augment(images, keys, Augmentation(max_shift=2, pad_mode="reflect"), flips=flips))
    unflipped = np.asarray(augment(images, keys, Augmentation(max_shift=2, pad_mode="reflect")))
    possible = [possible_outcomes(np.asarray(image), Augmentation(max_shift=2, pad_mode="reflect")) for image in images]
    for outcome, image, crops, flip in zip(moved, unflipped, possible, flips, strict=True):
        place = next(number for number, crop in enumerate(crops) if np.array_equal(crop, image))
        expected = crops[place][:, ::-1] if flip else crops[place]
        np.testing.assert_array_equal(outcome, expected)


def test_an_example_does_not_depend_on_its_place_or_its_neighbours():
    images, keys = random_images(12), random_keys(12)
    whole = np.asarray(augment(images, keys, SHIFT_AND_FLIP))
    order = np.random.default_rng(1).permutation(12)
    np.testing.assert_array_equal(augment(images[order], keys[order], SHIFT_AND_FLIP), whole[order])
    np.testing.assert_array_equal(augment(images[3:5], keys[3:5], SHIFT_AND_FLIP), whole[3:5])


def test_jit_changes_nothing():
    images, keys = random_images(12), random_keys(12)
    jitted = jax.jit(augment, static_argnames="augmentation")(images, keys, augmentation=SHIFT_AND_FLIP)
    np.testing.assert_array_equal(jitted, augment(images, keys, SHIFT_AND_FLIP))


def test_an_epoch_draws_anew():
    images = random_images(12)
    first, second = (augment(images, random_keys(12, epoch=epoch), SHIFT_AND_FLIP) for epoch in (0, 1))
    assert not np.array_equal(first, second)


def test_devices_change_nothing():
    program = """
import hashlib, jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from bncli.data import Augmentation, augment, example_keys
assert jax.device_count() == 4, jax.devices()
images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3), dtype=np.uint8))
indices = jnp.arange(16)
augmentation = Augmentation(max_shift=2, pad_mode="reflect", horizontal_flip=True)
step = jax.jit(lambda images, indices: augment(images, example_keys(jax.random.key(0), 1, indices), augmentation))
sharding = NamedSharding(Mesh(np.asarray(jax.devices()), ("data",)), PartitionSpec("data"))
spread = step(jax.device_put(images, sharding), jax.device_put(indices, sharding))
assert len(spread.sharding.device_set) == 4, spread.sharding
np.testing.assert_array_equal(spread, step(images, indices))
"""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr


def test_the_changes_of_an_example_never_change():
    """A resumed run must see what it would have seen, with any version."""
    images = jnp.arange(1, 101, dtype=jnp.int32).reshape(1, 10, 10, 1).repeat(8, axis=0)
    changed = np.asarray(augment(images, random_keys(8), SHIFT_AND_FLIP))[:, 4:6, 4:6, 0]
    offsets = [(1, 4), (1, 4), (4, 0), (0, 1), (4, 1), (0, 0), (0, 0), (1, 3)]
    flips = [0, 1, 1, 1, 0, 0, 0, 0]
    for pixels, (row, column), flip in zip(changed, offsets, flips, strict=True):
        columns = np.array([5, 4] if flip else [4, 5]) + column - 2
        assert pixels.tolist() == [[(line + row - 2) * 10 + place + 1 for place in columns] for line in (4, 5)]


def test_no_augmentation_returns_the_images_themselves():
    images = random_images(3)
    assert augment(images, random_keys(3), Augmentation.none()) is images
    assert Augmentation.none().is_none
    assert not any(augmentation.is_none for augmentation in AUGMENTATIONS)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(Augmentation, max_shift=-1), "max_shift is -1"),
        (partial(Augmentation, pad_mode="wrap"), "pad_mode is 'wrap'"),
        (lambda: augment(random_images(2), random_keys(2), Augmentation(max_shift=8)), "the images are 8x9"),
    ],
)
def test_impossible_augmentations_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_normalize_is_its_formula():
    images = random_images(4)
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.3, 0.4)
    expected = (np.asarray(images, np.float64) / 255 - np.asarray(mean)) / np.asarray(std)
    normalized = normalize(images, mean, std)
    assert normalized.dtype == np.float32
    np.testing.assert_allclose(normalized, expected, rtol=2e-6, atol=2e-6)
    np.testing.assert_array_equal(normalize(images, mean, std, dtype=jnp.bfloat16), normalized.astype(jnp.bfloat16))
