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
    first, *rest = shapes(side).items()
    assert rest == list(shapes(32).items())[1:]
    assert first[1]["kernel"].shape[:2] == ((3, 3) if stem_stride(side) == 1 else (2 * stem_stride(side) + 1,) * 2)
