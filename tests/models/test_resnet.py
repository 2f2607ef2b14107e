"""The residual networks have the published sizes, and each block starts as its shortcut."""

from functools import partial

import flax.linen as nn
import jax
import numpy as np
import pytest
from support.networks import network_of, num_parameters, random_images

from bncli.models.resnet import BottleneckBlock, ResNetBlock

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("name", "shape", "num_classes", "expected"),
    [
        # He et al. 2015, table 6: 0.27M with shortcuts that pad; the two projections add 2,560 + 192.
        ("resnet20", (32, 32, 3), 10, 269_722 + 2_752),
        ("resnet18", (224, 224, 3), 1000, 11_689_512),  # torchvision's
        ("resnet50", (224, 224, 3), 1000, 25_557_032),  # torchvision's
    ],
)
def test_parameter_counts_are_the_published_ones(name, shape, num_classes, expected):
    assert num_parameters(network_of(shape, num_classes=num_classes, name=name), shape) == expected


@pytest.mark.parametrize(("size", "kernel", "positions"), [(64, (3, 3), 64), (65, (7, 7), 17)])
def test_the_stem_keeps_the_size_of_small_images_alone(size, kernel, positions):
    network = network_of((size, size, 3), name="resnet18")
    seen = []

    def record(next_fun, args, kwargs, context):
        if isinstance(context.module, ResNetBlock):
            seen.append(args[0].shape[1])
        return next_fun(*args, **kwargs)

    with nn.intercept_methods(record):
        variables = jax.eval_shape(lambda: network.init(KEY, (size, size, 3)))
    assert variables["params"]["conv_init"]["kernel"].shape[:2] == kernel
    assert seen[0] == positions
    assert seen[-1] == -(-positions // 8)  # three of the four stages halve


@pytest.mark.parametrize("block", [ResNetBlock, BottleneckBlock])
@pytest.mark.parametrize("bn", [True, False])
@pytest.mark.parametrize("train", [True, False])
def test_a_block_starts_as_its_shortcut(block, bn, train):
    norm = partial(nn.BatchNorm, use_running_average=not train) if bn else None
    features = 4
    x = random_images(3, (4, 4, features * block.expansion))
    module = block(features, 1, conv=nn.Conv, norm=norm)
    y, _ = module.apply(module.init(KEY, x), x, mutable=["batch_stats"])
    np.testing.assert_allclose(y, nn.relu(x), atol=1e-6)


@pytest.mark.parametrize("block", [ResNetBlock, BottleneckBlock])
def test_a_strided_block_projects_its_shortcut(block):
    x = random_images(2, (4, 4, 3))
    module = block(2, 2, conv=nn.Conv, norm=partial(nn.BatchNorm, use_running_average=True))
    y, variables = module.init_with_output(KEY, x)
    assert y.shape == (2, 2, 2, 2 * block.expansion)
    assert variables["params"]["conv_proj"]["kernel"].shape == (1, 1, 3, 2 * block.expansion)
