"""The network for images of any size: neither its cost nor its head grows with the image's side."""

import jax
import pytest
from support.networks import network_of

from bncli.models.convnet import LARGEST_SIDE, stem_stride


def shapes(side):
    network = network_of((side, side, 3), name="convnet")
    return jax.eval_shape(lambda: network.init(jax.random.key(0), (side, side, 3)))["params"]


@pytest.mark.parametrize("side", range(1, 1000, 37))
def test_the_stem_brings_any_image_to_the_same_range_of_sides(side):
    stride = stem_stride(side)
    assert side / stride <= LARGEST_SIDE
    assert stride == 1 or side / stride > LARGEST_SIDE / 2


@pytest.mark.parametrize("side", [1, 8, 32, 96, 300])
def test_all_but_the_stem_has_the_same_size_for_any_image(side):
    found, usual = shapes(side), shapes(32)
    stem, _ = found.pop("Conv_0"), usual.pop("Conv_0")
    assert found == usual
    stride = stem_stride(side)
    assert stem["kernel"].shape == (*((3, 3) if stride == 1 else (2 * stride + 1,) * 2), 3, 32)
