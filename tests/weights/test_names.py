"""Laws of the tables: each names every array of a network once, and some of the names are known for certain."""

import numpy as np
import pytest
from support.breadth import broad

from bncli.models import MODELS
from bncli.weights.names import LIBRARIES, OURS
from bncli.weights.networks import known_networks
from bncli.weights.origins import ORIGINS, possible_origins
from bncli.weights.translate import expected_shapes, targets

PAIRS = [
    (model, library)
    for model, known in known_networks().items()
    for library, rows in LIBRARIES.items()
    if rows.architecture == known.architecture and possible_origins(model, library)
]
# The two smallest of each architecture; the others differ in their numbers of blocks alone.
TRACED = ("efficientnet_lite0", "efficientnet_lite2", "mobilenet_v2", "resnet18", "resnet50")
QUICK = ("efficientnet_lite0", "mobilenet_v2", "resnet18")


@pytest.mark.parametrize(
    ("model", "library"), broad([pair for pair in PAIRS if pair[0] in TRACED], lambda pair: pair[0] in QUICK)
)
def test_every_array_of_the_network_has_one_name(model, library):
    paths = [target.path for target in targets(model, library).values()]
    assert sorted(paths) == sorted(expected_shapes(model, 3))


@pytest.mark.parametrize(("model", "library"), PAIRS)
def test_no_two_arrays_share_a_name_or_a_place(model, library):
    rows = targets(model, library)
    layers = known_networks()[model].layers
    assert len(rows) == sum({"conv": 1, "norm": 4, "dense": 2}[layer.kind] for layer in layers)
    assert len({target.path for target in rows.values()}) == len(rows)


def test_the_tables_name_the_same_roles():
    for library in LIBRARIES.values():
        assert set(library.names) == set(OURS[library.architecture])


# Numbers of arrays in the state dicts of torchvision 0.29 and timm 1.0, counters included.
@pytest.mark.parametrize(
    ("model", "count"),
    [("resnet18", 122), ("resnet34", 218), ("resnet50", 320), ("resnet101", 626), ("resnet152", 932)],
)
def test_a_resnet_has_as_many_arrays_as_torchvisions(model, count):
    rows = targets(model, "torchvision or timm")
    assert len(rows) + sum(name.endswith("running_var") for name in rows) == count


KNOWN = {
    ("resnet50", "torchvision or timm"): {
        "conv1.weight": "params/conv_init/kernel",
        "layer1.0.downsample.1.running_var": "batch_stats/BottleneckBlock_0/BatchNorm_3/var",
        "layer4.2.bn3.weight": "params/BottleneckBlock_15/BatchNorm_2/scale",
    },
    ("resnet18", "torchvision or timm"): {
        "layer2.0.downsample.0.weight": "params/ResNetBlock_2/conv_proj/kernel",
    },
    ("mobilenet_v2", "torchvision"): {
        "features.1.conv.1.weight": "params/InvertedResidual_0/Conv_1/kernel",
        "features.17.conv.3.bias": "params/InvertedResidual_16/BatchNorm_2/bias",
        "features.18.0.weight": "params/conv_head/kernel",
    },
    ("mobilenet_v2", "timm"): {
        "blocks.0.0.conv_pw.weight": "params/InvertedResidual_0/Conv_1/kernel",
        "blocks.6.0.conv_pwl.weight": "params/InvertedResidual_16/Conv_2/kernel",
    },
    ("efficientnet_lite0", "efficientnet-pytorch"): {
        "_blocks.15._bn2.running_mean": "batch_stats/InvertedResidual_15/BatchNorm_2/mean",
        "_fc.bias": "params/Dense_0/bias",
    },
}


@pytest.mark.parametrize(("model", "library"), KNOWN)
def test_names_that_are_known(model, library):
    for name, path in KNOWN[model, library].items():
        assert targets(model, library)[name].path == path


def test_an_array_goes_there_and_back():
    for target in targets("resnet18", "torchvision or timm").values():
        rank = 1 if target.axes is None else len(target.axes)
        source = np.arange(np.prod(range(2, 2 + rank)), dtype=np.float32).reshape(*range(2, 2 + rank))
        here = target.array(source)
        assert target.shape(source.shape) == here.shape
        assert target.source_shape(here.shape) == source.shape


def test_every_origin_has_a_preprocessing_for_each_of_its_networks():
    for origin in ORIGINS:
        for model in known_networks():
            if model.startswith(origin.models):
                images = origin.images_of(model)
                assert images.resize >= images.size
                assert min(images.std) > 0


def test_the_known_networks_are_models():
    assert set(known_networks()) < set(MODELS)
