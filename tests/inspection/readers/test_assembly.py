"""From arrays to layers: stacked ones apart, what does not belong together refused, no BN explained."""

import numpy as np
import pytest

from bncli.errors import CheckpointError
from bncli.inspection.readers.arrays import Stored, in_memory
from bncli.inspection.readers.assembly import MAX_LAYERS, NO_LAYER, contents_of
from bncli.inspection.readers.settings import Asked

RNG = np.random.default_rng(0)


def read(tree, **asked):
    return contents_of(in_memory(tree), file_format="safetensors", asked=Asked(**asked))


def torch_layer(*shape, dtype=np.float32, **others):
    arrays = {name: RNG.normal(size=shape).astype(dtype) for name in ("running_mean", "weight", "bias")}
    return arrays | {"running_var": np.exp(RNG.normal(size=shape)).astype(dtype)} | others


def test_the_numbers_are_those_of_the_file_in_float64():
    arrays = torch_layer(5, num_batches_tracked=np.int64(12))
    (layer,) = read({"bn": arrays}).layers
    for mine, theirs in (
        ("mean", "running_mean"),
        ("var", "running_var"),
        ("scale", "weight"),
        ("bias", "bias"),
    ):
        np.testing.assert_array_equal(layer.stored()[mine], arrays[theirs])
        assert layer.stored()[mine].dtype == np.float64
    assert (layer.name, layer.channels, layer.updates, layer.dtype) == ("bn", 5, 12, "float32")
    assert (layer.epsilon, layer.momentum) == (1e-5, 0.9)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_dtype_is_that_of_the_statistics(dtype):
    (layer,) = read({"bn": torch_layer(5, dtype=dtype)}).layers
    assert layer.dtype == np.dtype(dtype).name


def test_stacked_layers_are_one_each():
    arrays = torch_layer(2, 3, 5, num_batches_tracked=np.full((2, 3), 7))
    layers = read({"block": {"bn": arrays}}).layers
    assert [layer.name for layer in layers] == [f"block.bn[{i},{j}]" for i in range(2) for j in range(3)]
    np.testing.assert_array_equal(layers[4].mean, arrays["running_mean"][1, 1])
    np.testing.assert_array_equal(layers[4].scale, arrays["weight"][1, 1])
    assert {layer.updates for layer in layers} == {7}


@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (1, 1, 1, 4), (4, 1)])
def test_axes_of_one_stack_nothing(shape):
    (layer,) = read({"bn": torch_layer(*shape)}).layers
    assert (layer.name, layer.channels) == ("bn", 4)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (torch_layer(3, weight=np.ones(4)), r"the BN layer bn differ in shape: mean \[3\], var \[3\], scale \[4\]"),
        (torch_layer(0), "the BN layer bn has no channels"),
        (torch_layer(3, running_mean=np.ones(3, np.int8)), "mean of the BN layer bn is int8"),
        (torch_layer(MAX_LAYERS + 1, 2), "4,097 BN layers"),
    ],
)
def test_what_is_no_layer_of_a_network_is_refused_by_name(layer, words):
    with pytest.raises(CheckpointError, match=words) as caught:
        read({"bn": layer})
    assert caught.value.remedy


def test_claimed_sizes_are_refused_before_anything_is_read():
    def read_it():
        raise AssertionError

    huge = Stored((1 << 40,), "float32", read_it)
    arrays = {("bn", name): huge for name in ("running_mean", "running_var")}
    with pytest.raises(CheckpointError, match="too many for a network"):
        contents_of(arrays, file_format="safetensors", asked=Asked())


@pytest.mark.parametrize("count", [np.float32(np.nan), np.int64(-1), np.ones((3, 3)), np.array("text")])
def test_a_count_that_is_none_is_unknown(count):
    (layer,) = read({"bn": torch_layer(3, num_batches_tracked=count)}).layers
    assert layer.updates is None


CONV = {"weight": np.ones((4, 1, 3, 3), np.float32)}
BIASED = CONV | {"bias": np.ones(4, np.float32)}


@pytest.mark.parametrize(
    ("tree", "folded"),
    [({"conv": BIASED}, True), ({"conv": CONV}, False), ({"a": BIASED, "b": CONV}, False), ({}, False)],
)
def test_without_bn_it_says_so_and_whether_it_looks_folded(tree, folded):
    contents = read(tree)
    assert contents.layers == ()
    assert contents.notes[0] == NO_LAYER
    assert any("looks folded" in note for note in contents.notes) == folded
