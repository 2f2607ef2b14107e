"""The network for few epochs: its layers are those that it names, and nothing of its BN is left after a fold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.networks import batch_norm, network_of, random_images, random_variables

import bncli

SHAPE = (9, 9, 3)
EPSILON = 0.01


def network(shape=SHAPE, **settings):
    return network_of(shape, name="fastnet", args={"features": [3, 4]}, bn_epsilon=EPSILON, **settings)


def conv(x, kernel, *, pad):
    """A convolution with a stride of 1, position by position: [B, H, W, I], [k, k, I, O] -> [B, H', W', O]."""
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    size = kernel.shape[0]
    height, width = x.shape[1] - size + 1, x.shape[2] - size + 1
    y = np.zeros((len(x), height, width, kernel.shape[3]))
    for i in range(height):
        for j in range(width):
            y[:, i, j] = np.tensordot(x[:, i : i + size, j : j + size], kernel, axes=3)
    return y


def gelu(x):
    """x Φ(x) by the usual approximation (Hendrycks & Gimpel 2016, arXiv 1606.08415, section 2)."""
    return x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2


def pooled(x):
    height, width = x.shape[1] // 2, x.shape[2] // 2
    windows = [x[:, i : 2 * height : 2, j : 2 * width : 2] for i in (0, 1) for j in (0, 1)]
    return np.max(windows, axis=0)


def test_it_is_its_layers_one_after_the_other():
    variables, images = random_variables(network(), SHAPE), random_images(2, SHAPE)
    kernels = {name: layer.get("kernel") for name, layer in variables["params"].items()}
    x = gelu(conv(images, kernels["whiten"], pad=0))
    for stage in range(2):
        x = pooled(conv(x, kernels[f"Conv_{2 * stage}"], pad=1))
        x = gelu(batch_norm(x, variables, f"BatchNorm_{2 * stage}", epsilon=EPSILON))
        x = conv(x, kernels[f"Conv_{2 * stage + 1}"], pad=1)
        x = gelu(batch_norm(x, variables, f"BatchNorm_{2 * stage + 1}", epsilon=EPSILON))
    expected = x.max(axis=(1, 2)) @ kernels["Dense_0"] / 9
    np.testing.assert_allclose(jax.jit(network().logits)(variables, images), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("shape", "patches"), [((9, 9, 3), 24), ((8, 8, 1), 18), ((1, 1, 3), 6), ((40, 33, 3), 24)])
def test_it_takes_images_of_any_size(shape, patches):
    variables = jax.eval_shape(lambda: network(shape).init(jax.random.key(0), shape))
    assert variables["params"]["whiten"]["kernel"].shape[-1] == patches
    logits = jax.eval_shape(network(shape).logits, variables, jax.ShapeDtypeStruct((2, *shape), jnp.float32))
    assert logits.shape == (2, 3)


def test_every_bn_is_folded_into_the_convolution_before_it_through_the_pool():
    """Each γ is 1 in the recipe, so no gain is negative; here some are, and a max-pool keeps their sign."""
    variables, images = random_variables(network(), SHAPE), random_images(4, SHAPE)
    folded = bncli.fold(network().logits, variables, images)
    assert [(row.status, row.direction) for row in folded.report.norms] == [("folded", "backward")] * 4
    assert "batch_stats" not in folded.variables
    np.testing.assert_allclose(folded(images), jax.jit(network().logits)(variables, images), rtol=1e-3, atol=1e-4)


def test_without_bn_its_convolutions_have_a_bias():
    variables = jax.eval_shape(lambda: network(bn=False).init(jax.random.key(0), SHAPE))
    assert set(variables) == {"params"}
    assert {name for name, layer in variables["params"].items() if "bias" in layer} == {f"Conv_{i}" for i in range(4)}
