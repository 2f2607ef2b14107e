"""The ``mlp`` is its forward pass written out."""

import numpy as np
import pytest
from support.networks import batch_norm, network_of, num_parameters, random_images, random_variables

SHAPE = (4, 3, 2)
EPSILON = 1e-3


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("placement", ["pre", "post", None])
def test_eval_mode_is_the_forward_pass_written_out(placement):
    network = network_of(
        SHAPE,
        name="mlp",
        args={"features": [5, 4]},
        bn=placement is not None,
        bn_placement=placement or "pre",
        bn_epsilon=EPSILON,
        dropout=0.5,  # off in eval mode
    )
    variables = random_variables(network, SHAPE)
    images = random_images(6, SHAPE)
    x = images.reshape(6, -1).astype(np.float64)
    for layer in range(2):
        dense = variables["params"][f"Dense_{layer}"]
        x = x @ dense["kernel"] + dense["bias"]
        if placement == "pre":
            x = batch_norm(x, variables, f"BatchNorm_{layer}", epsilon=EPSILON)
        x = sigmoid(x)
        if placement == "post":
            x = batch_norm(x, variables, f"BatchNorm_{layer}", epsilon=EPSILON)
    expected = x @ variables["params"]["Dense_2"]["kernel"] + variables["params"]["Dense_2"]["bias"]
    np.testing.assert_allclose(network.logits(variables, images), expected, rtol=1e-4, atol=1e-4)


def test_by_default_it_has_three_layers_of_100():
    without_bn = num_parameters(network_of((28, 28, 1), num_classes=10, name="mlp", bn=False), (28, 28, 1))
    assert without_bn == (784 + 1) * 100 + 2 * (100 + 1) * 100 + (100 + 1) * 10
