"""Laws of patch whitening: its outputs are uncorrelated and of variance 1; the images alone decide its kernel."""

import numpy as np
import pytest

from bncli.models.whitening import EPSILON, patch_size, whitening_kernel

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def smooth_images(num_images=40, *, side=9, channels=3, seed=0):
    """Random walks along the rows: neighbouring pixels are alike, as in photographs. uint8 [N, H, W, C]."""
    steps = np.random.default_rng(seed).normal(size=(num_images, side, side, channels))
    return (127 + 20 * np.cumsum(steps, axis=2)).clip(0, 255).astype(np.uint8)


def patches_of(images, size, mean, std):
    """Every patch of the normalized images, one after the other in Python: float64 [P, k k C]."""
    normalized = (images / 255 - np.array(mean)) / np.array(std)
    positions = range(images.shape[1] - size + 1)
    return np.array(
        [image[i : i + size, j : j + size].ravel() for image in normalized for i in positions for j in positions]
    )


@pytest.mark.parametrize(("channels", "size"), [(3, 2), (1, 3), (3, 1)])
def test_the_outputs_are_uncorrelated_and_of_variance_one(channels, size):
    images, mean, std = smooth_images(channels=channels), MEAN[:channels], STD[:channels]
    kernel = whitening_kernel(images, size, mean=mean, std=std, epsilon=0.0)
    dimension = size * size * channels
    assert kernel.shape == (size, size, channels, 2 * dimension)
    outputs = patches_of(images, size, mean, std) @ kernel.reshape(dimension, -1)
    half = outputs[:, :dimension]
    np.testing.assert_allclose(half.T @ half / len(half), np.eye(dimension), atol=1e-3)
    np.testing.assert_array_equal(outputs[:, dimension:], -half)


def test_it_is_the_formula():
    """By another decomposition: the singular values of the patches, and ε beside their squares."""
    images = smooth_images()
    kernel = whitening_kernel(images, 2, mean=MEAN, std=STD).reshape(12, 24)[:, :12]
    patches = patches_of(images, 2, MEAN, STD)
    _, values, directions = np.linalg.svd(patches / np.sqrt(len(patches)), full_matrices=False)
    expected = directions.T / np.sqrt(values**2 + EPSILON)
    signs = np.sign((expected * kernel).sum(axis=0))
    np.testing.assert_allclose(kernel, expected * signs, rtol=1e-4, atol=1e-4)


def test_neither_the_order_of_the_images_nor_that_of_the_sums_changes_a_bit():
    images = smooth_images(600, side=5)
    kernel = whitening_kernel(images, 2, mean=MEAN, std=STD)
    np.testing.assert_array_equal(kernel, whitening_kernel(images[::-1], 2, mean=MEAN, std=STD))


def test_images_of_one_colour_have_a_finite_kernel():
    kernel = whitening_kernel(np.zeros((3, 4, 4, 1), np.uint8), 3, mean=(0.0,), std=(1.0,))
    assert np.isfinite(kernel).all()


def test_a_patch_is_never_larger_than_the_image():
    assert patch_size(32, 32, 3) == 2
    assert patch_size(28, 28, 1) == 3
    assert patch_size(2, 5, 1) == 2
    assert patch_size(1, 1, 3) == 1
