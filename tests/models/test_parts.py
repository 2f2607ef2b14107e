"""The parts of a network: its head whatever its name, its layers by depth, and what patterns name."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from support.breadth import broad

from bncli.config.settings import FineTuneConfig, ModelConfig
from bncli.errors import ModelError, UsageError
from bncli.frameworks.linen import as_network
from bncli.models import MODELS, build_network
from bncli.models.parts import frozen_parts, named_paths, network_parts

SHAPE = (16, 16, 3)


def parts_of(network):
    variables = jax.eval_shape(lambda: network.init(jax.random.key(0), SHAPE))
    return network_parts(network, variables, SHAPE)


def built_in(name, **changes):
    return parts_of(build_network(ModelConfig(name=name, **changes), num_classes=3, image_shape=SHAPE))


def custom(module):
    return parts_of(as_network(module))


class Named(nn.Module):
    """A backbone in one module and a head of two layers in another, as timm and Keras build them."""

    @nn.compact
    def __call__(self, x, train):
        x = Backbone(name="encoder")(x, train)
        return Head(name="classifier")(x)


class Backbone(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        for number in range(3):
            x = nn.Conv(4, (3, 3), name=f"conv{number}")(x)
            x = nn.BatchNorm(use_running_average=not train, name=f"bn{number}")(x)
        return x.mean((1, 2))


class Head(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="last")(nn.relu(nn.Dense(5, name="first")(x)))


class OwnNorm(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        mean = self.variable("batch_stats", "average", jnp.zeros, (x.shape[-1],))
        x = nn.BatchNorm(use_running_average=not train, use_scale=False, use_bias=False)(x - mean.value)
        return nn.Dense(3)(x.reshape(len(x), -1))


# The others differ from these in numbers alone.
QUICK = ("cnn", "convnet", "efficientnet_lite0", "mlp", "resnet20")


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", broad(MODELS, lambda name: name in QUICK))
def test_the_head_of_a_built_in_network_makes_its_logits(name):
    parts = built_in(name)
    arrays = {"kernel"} if name == "fastnet" else {"kernel", "bias"}
    assert {path.rpartition("/")[2] for path in parts.head_paths} == arrays
    assert parts.backbone | parts.head_paths == set(parts.paths)
    assert frozenset().union(*parts.groups) == parts.backbone
    assert sum(map(len, parts.groups)) == len(parts.backbone)
    assert not parts.foreign


def test_a_module_that_is_named_as_a_head_is_the_head_as_a_whole():
    parts = custom(Named())
    assert parts.head == "classifier"
    assert len(parts.head_paths) == 4


def test_layers_are_in_the_order_of_the_forward_pass_each_with_its_bn():
    layers = [sorted({path.rpartition("/")[0] for path in group}) for group in custom(Named()).groups]
    assert layers == [[f"encoder/bn{number}", f"encoder/conv{number}"] for number in range(3)]
    assert len(built_in("cnn").groups) == 6
    assert len(built_in("resnet18").groups) == 9  # the stem and eight blocks
    assert len(built_in("mlp", bn=False).groups) == 3


@pytest.mark.parametrize(
    ("pattern", "named"),
    [
        ("Conv_0", {"Conv_0/kernel"}),
        ("Conv_0/", {"Conv_0/kernel"}),
        ("Conv_[01]", {"Conv_0/kernel", "Conv_1/kernel"}),
        ("*/scale", {f"BatchNorm_{number}/scale" for number in range(6)}),
        ("BatchNorm_5/bias", {"BatchNorm_5/bias"}),
    ],
)
def test_a_pattern_names_arrays_or_modules(pattern, named):
    assert named_paths(built_in("cnn"), [pattern]) == named


@pytest.mark.parametrize("pattern", ["Conv_9", "conv_0", "", "nothing"])
def test_a_pattern_that_names_nothing_is_an_error_with_the_nearest_names(pattern):
    with pytest.raises(UsageError, match="no array of the network has such a path") as caught:
        named_paths(built_in("cnn"), [pattern])
    assert "nearest are" in caught.value.remedy
    assert "all but Dense_0" in caught.value.remedy
    assert pattern.lower() != "conv_0" or "Conv_0" in caught.value.remedy


def test_a_bn_layer_that_is_frozen_whole_keeps_its_statistics():
    parts = built_in("cnn")
    frozen = partial(lambda *patterns: frozen_parts(FineTuneConfig(freeze=patterns), parts).norms)
    assert frozen("BatchNorm_0") == {"BatchNorm_0"}
    assert frozen("BatchNorm_0/scale") == frozenset()
    assert frozen("BatchNorm_0/scale", "BatchNorm_0/bias") == {"BatchNorm_0"}
    assert frozen("backbone") == set(parts.norms)
    assert frozen("Conv_*") == frozenset()


@pytest.mark.parametrize(("mode", "arrays"), [("statistics", 0), ("all", 12)])
def test_frozen_bn_is_every_layer_and_stays_when_the_rest_is_released(mode, arrays):
    parts = built_in("cnn")
    config = FineTuneConfig(freeze=("Conv_0",), freeze_bn=mode, unfreeze_at=2)
    before, after = (frozen_parts(config, parts, released=released) for released in (False, True))
    assert before.norms == after.norms == set(parts.norms)
    assert len(after.paths) == arrays
    assert before.paths - after.paths == {"Conv_0/kernel"}


def test_bn_without_arrays_is_frozen_by_its_name():
    parts = custom(OwnNorm())
    assert frozen_parts(FineTuneConfig(freeze=("Dense_0/bias",)), parts).norms == frozenset()
    assert parts.norms == ("BatchNorm_0",)


def test_statistics_that_no_flax_layer_keeps_cannot_be_frozen():
    parts = custom(OwnNorm())
    assert parts.foreign == ("average",)
    with pytest.raises(ModelError, match=r"average is kept by a layer that is no flax\.linen\.BatchNorm"):
        frozen_parts(FineTuneConfig(freeze_bn="statistics"), parts)
