"""The reference is right: its gradients are those of finite differences, its values those of the definitions."""

import numpy as np
import pytest

from bncli.selftest import reference

RNG = np.random.default_rng(0)
IMAGES, KERNEL = RNG.normal(size=(2, 4, 5, 3)), RNG.normal(size=(3, 3, 3, 2))
SCALE, BIAS, EPSILON = np.array([0.5, 2.0]), np.array([1.0, -1.0]), 1e-3
GRADIENT = RNG.normal(size=(2, 4, 5, 2))


def by_differences(f, x, gradient, step=1e-6):
    """The gradient of Σ gradient · f(x), element by element."""
    found = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[place] += step
        down[place] -= step
        found[place] = np.sum(gradient * (f(up) - f(down))) / (2 * step)
    return found


def test_a_convolution_is_the_sum_over_the_window():
    y = reference.conv(IMAGES, KERNEL)
    window = IMAGES[1, 1:4, 2:5]  # around row 2, column 3
    assert y[1, 2, 3] == pytest.approx(np.einsum("ijc,ijco->o", window, KERNEL))
    assert y[0, 0, 0] == pytest.approx(np.einsum("ijc,ijco->o", IMAGES[0, :2, :2], KERNEL[1:, 1:]))


def test_gradients_of_a_convolution():
    to_images, to_kernel = reference.conv_gradients(IMAGES, KERNEL, GRADIENT)
    by_images = by_differences(lambda images: reference.conv(images, KERNEL), IMAGES, GRADIENT)
    by_kernel = by_differences(lambda kernel: reference.conv(IMAGES, kernel), KERNEL, GRADIENT)
    np.testing.assert_allclose(to_images, by_images, atol=1e-6)
    np.testing.assert_allclose(to_kernel, by_kernel, atol=1e-6)


def test_gradients_of_bn():
    x = reference.conv(IMAGES, KERNEL)
    done = reference.normalize(x, SCALE, BIAS, EPSILON)
    np.testing.assert_allclose(done.y.mean(axis=(0, 1, 2)), BIAS)
    np.testing.assert_allclose(done.y.var(axis=(0, 1, 2)), SCALE**2 * done.var / (done.var + EPSILON))
    found = reference.normalize_gradients(done, SCALE, GRADIENT)
    functions = (
        (lambda x: reference.normalize(x, SCALE, BIAS, EPSILON).y, x),
        (lambda scale: reference.normalize(x, scale, BIAS, EPSILON).y, SCALE),
        (lambda bias: reference.normalize(x, SCALE, bias, EPSILON).y, BIAS),
    )
    for mine, (f, at) in zip(found, functions, strict=True):
        np.testing.assert_allclose(mine, by_differences(f, at, GRADIENT), atol=1e-6)
