"""The ``cnn`` is its forward pass written out, in both placements of BN and without."""

import jax
import numpy as np
import pytest
from support.networks import batch_norm, network_of, num_parameters, random_images, random_variables

EPSILON = 1e-3
SHAPE = (9, 10, 2)  # odd, so that each pooling drops a row


def convolve(x, params):
    """A 3×3 convolution with zero padding as a sum of nine shifted products, float64."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = x.shape[1:3]
    y = sum(
        padded[:, i : i + height, j : j + width] @ params["kernel"][i, j].astype(np.float64)
        for i in range(3)
        for j in range(3)
    )
    return y + params.get("bias", 0)


def pool(x):
    height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    corners = [x[:, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1)]
    return np.max(corners, axis=0)


def forward(variables, x, *, placement):
    """The logits, layer by layer."""
    params = variables["params"]
    for layer in range(4):
        x = convolve(x, params[f"Conv_{layer}"])
        if placement == "post":
            x = batch_norm(np.maximum(x, 0), variables, f"BatchNorm_{layer}", epsilon=EPSILON)
        elif placement == "pre":
            x = np.maximum(batch_norm(x, variables, f"BatchNorm_{layer}", epsilon=EPSILON), 0)
        else:
            x = np.maximum(x, 0)
        if layer % 2:
            x = pool(x)
    return x.reshape(len(x), -1) @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]


def settings(placement):
    return {
        "name": "cnn",
        "args": {"features": [3, 4]},
        "bn": placement is not None,
        "bn_placement": placement or "pre",
        "bn_epsilon": EPSILON,
    }


@pytest.mark.parametrize("placement", ["pre", "post", None])
def test_eval_mode_is_the_forward_pass_written_out(placement):
    network = network_of(SHAPE, **settings(placement))
    variables = random_variables(network, SHAPE)
    x = random_images(2, SHAPE)
    expected = forward(variables, x.astype(np.float64), placement=placement)
    np.testing.assert_allclose(network.logits(variables, x), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(("placement", "has_bias"), [("pre", False), ("post", True), (None, True)])
def test_a_convolution_has_a_bias_unless_bn_follows_at_once(placement, has_bias):
    network = network_of(SHAPE, **settings(placement))
    params = jax.eval_shape(lambda: network.init(jax.random.key(0), SHAPE))["params"]
    assert {("bias" in layer) for name, layer in params.items() if name.startswith("Conv")} == {has_bias}


def test_by_default_it_is_the_classic_net():
    kernels = sum(9 * i * o for i, o in [(1, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128)])
    norms = 2 * 2 * (32 + 64 + 128)
    assert (
        num_parameters(network_of((8, 8, 1), num_classes=10, name="cnn"), (8, 8, 1)) == kernels + norms + 128 * 10 + 10
    )
