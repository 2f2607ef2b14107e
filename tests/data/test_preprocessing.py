"""One object takes every uint8 image to the network's input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from bncli.config.document import Preprocessing
from bncli.data import Preprocessor, normalize

SETTINGS = Preprocessing(size=(4, 6), channels=3, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 1.0))


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_images_become_the_input_that_the_spec_announces(images, precision):
    preprocessor = Preprocessor(SETTINGS, precision)
    inputs = preprocessor(images)
    spec = preprocessor.input_spec(5)
    assert (inputs.shape, inputs.dtype) == (spec.shape, spec.dtype) == ((5, 4, 6, 3), jnp.dtype(precision))
    expected = (images / 255 - np.array(SETTINGS.mean)) / np.array(SETTINGS.std)
    np.testing.assert_allclose(inputs.astype(jnp.float32), expected, rtol=1e-2 if precision == "bfloat16" else 1e-5)
    np.testing.assert_array_equal(inputs, normalize(images, SETTINGS.mean, SETTINGS.std, dtype=precision))


def test_it_is_a_static_argument_of_jit(images):
    run = jax.jit(lambda preprocessor, images: preprocessor(images), static_argnums=0)
    same = [run(Preprocessor(SETTINGS, "float32"), images) for _ in range(2)]
    np.testing.assert_array_equal(*same)
    assert run._cache_size() == 1


def test_an_image_file_is_brought_to_size_and_channels(images, tmp_path):
    path = tmp_path / "grey.png"
    Image.fromarray(images[0, ..., 0]).resize((12, 8)).save(path)
    loaded = Preprocessor(SETTINGS, "float32").load(path)
    assert (loaded.shape, loaded.dtype) == ((4, 6, 3), np.uint8)


def test_a_data_set_and_its_checkpoint_agree(dataset):
    preprocessor = Preprocessor.of_dataset(dataset, "float32")
    assert preprocessor.image_shape == dataset.image_shape
    assert (preprocessor.settings.mean, preprocessor.settings.std) == (dataset.mean, dataset.std)
