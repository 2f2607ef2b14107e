"""Another program's variables in the user's model: the network that Flax has, or the names of what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.foreign_files import IMAGE_SHAPE, make_variables, save_item, save_msgpack, write_net

from bncli.checkpoint import open_foreign, sha256_tree
from bncli.config.settings import ModelConfig
from bncli.errors import BncliError, CheckpointError, ConfigError, ModelError, UsageError
from bncli.models import model_file_sha256

VARIABLES = make_variables()


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    """The name of ``Net``."""
    return write_net(tmp_path_factory.mktemp("net"))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The variables of ``Net`` in a file; only to be read."""
    path = tmp_path_factory.mktemp("saved") / "net.msgpack"
    save_msgpack(path, VARIABLES)
    return path


def open_net(path, name, *, image_shape=IMAGE_SHAPE, args=None, **options):
    model = ModelConfig(name=name, args=args or {}) if name is not None else None
    return open_foreign(path, model=model, image_shape=image_shape, **options)


def test_the_network_is_the_one_flax_applies(file, net):
    opened = open_net(file, net)
    images = np.random.default_rng(0).normal(size=(3, *IMAGE_SHAPE)).astype(np.float32)
    np.testing.assert_array_equal(
        opened.apply_fn(opened.variables, images), opened.model.apply(VARIABLES, images, train=False)
    )
    assert sha256_tree(opened.variables) == sha256_tree(VARIABLES)
    assert (opened.path, opened.step, opened.progress) == (file, 0, {})


def test_the_configuration_says_what_was_given_and_that_the_data_are_not_known(file, net):
    opened = open_net(file, net, args={"num_classes": 3}, mean=(0.25,), std=(0.5,))
    config = opened.config
    assert config.dataset is None
    assert (config.run.model.name, config.run.model.args) == (net, {"num_classes": 3})
    assert config.model_sha256 == model_file_sha256(net)
    assert config.preprocessing.image_shape == IMAGE_SHAPE
    assert (config.preprocessing.mean, config.preprocessing.std) == ((0.25,), (0.5,))
    assert opened.notes == ("read from a Flax msgpack file",)


@pytest.mark.parametrize(
    ("given", "assumed"),
    [
        ({}, "mean 0 and std 1 of the pixels"),
        ({"mean": (0.5,)}, "std 1 of the pixels"),
        ({"std": (2,)}, "mean 0 of the"),
    ],
)
def test_what_is_assumed_of_the_pixels_is_said(file, net, given, assumed):
    opened = open_net(file, net, **given)
    assert opened.notes[1].startswith(assumed)
    assert opened.config.preprocessing.mean == given.get("mean", (0,))
    assert opened.config.preprocessing.std == given.get("std", (1,))


def test_the_place_in_the_tree_is_said(tmp_path, net):
    save_item(tmp_path / "saved", {"state": VARIABLES})
    assert open_net(tmp_path / "saved", net).notes[0] == "read from an Orbax directory, at state"


def test_float64_becomes_float32_and_other_floats_stay(tmp_path, net):
    for dtype, expected in ((np.float64, np.float32), (np.float16, np.float16), (jnp.bfloat16, jnp.bfloat16)):
        save_msgpack(tmp_path / "file", jax.tree.map(lambda leaf, dtype=dtype: leaf.astype(dtype), VARIABLES))
        leaves = jax.tree.leaves(open_net(tmp_path / "file", net).variables)
        assert {leaf.dtype for leaf in leaves} == {np.dtype(expected)}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_precision_is_the_networks(file, net, dtype):
    assert open_net(file, net, args={"dtype": dtype}).config.run.training.precision == dtype


# What does not fit.


def changed(change):
    """The variables with one change."""
    variables = make_variables()
    change(variables)
    return variables


MISFITS = {
    "missing": (lambda v: v["params"]["Dense_0"].pop("bias"), "missing: params/Dense_0/bias$"),
    "missing layer": (
        lambda v: v["params"].pop("BatchNorm_0"),
        "missing: params/BatchNorm_0/bias, params/BatchNorm_0/scale$",
    ),
    "added": (
        lambda v: v["params"].update(Dense_1={"kernel": np.ones(3)}),
        "not of the model: params/Dense_1/kernel$",
    ),
    "renamed": (
        lambda v: v["params"]["Conv_0"].update(weight=v["params"]["Conv_0"].pop("kernel")),
        "missing: params/Conv_0/kernel; not of the model: params/Conv_0/weight$",
    ),
    "of another shape": (
        lambda v: v["params"]["Dense_0"].update(bias=np.ones(5, np.float32)),
        r"shape: params/Dense_0/bias is \(5,\), the model's \(3,\)$",
    ),
    "of another type": (
        lambda v: v["batch_stats"]["BatchNorm_0"].update(mean=np.ones(4, np.int32)),
        "batch_stats/BatchNorm_0/mean is int32, the model's float32$",
    ),
    "no array": (
        lambda v: v["params"]["Dense_0"].update(bias="three"),
        "params/Dense_0/bias is a str, not an array$",
    ),
    "a list": (
        lambda v: v["params"]["Dense_0"].update(bias=[1.0, 2.0, 3.0]),
        "missing: params/Dense_0/bias; not of the model: params/Dense_0/bias/0, .*/2$",
    ),
    "many added": (
        lambda v: v["params"].update({f"Dense_{k}": {"kernel": np.ones(3)} for k in range(1, 6)}),
        "not of the model: params/Dense_1/kernel, .*, params/Dense_3/kernel and 2 more$",
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_arrays_that_are_not_the_models_are_named(name, tmp_path, net):
    change, words = MISFITS[name]
    save_msgpack(tmp_path / "file", changed(change))
    with pytest.raises(CheckpointError, match=words) as caught:
        open_net(tmp_path / "file", net)
    assert caught.value.message.startswith(f"the arrays in {tmp_path / 'file'} are not those of {net}; ")
    assert "--model-arg" in caught.value.remedy


# what is called for -> what is given in place of the right thing, the error, the words it has
CALLS = {
    "no model": ({"name": None}, UsageError, "does not hold the model's code$"),
    "neither": ({"name": None, "image_shape": None}, UsageError, "the model's code and the shape of its images$"),
    "no shape": ({"image_shape": None}, UsageError, "does not hold the shape of its images$"),
    "bncli's model": ({"name": "cnn"}, UsageError, "--model cnn: a checkpoint that bncli did not write"),
    "no such file": ({"name": "gone.py:Net"}, ModelError, r"gone\.py: no such file"),
    "no such argument": ({"args": {"depth": 4}}, ModelError, "--model-arg depth"),
    "other classes": ({"args": {"num_classes": 4}}, CheckpointError, r"Dense_0/bias is \(3,\), the model's \(4,\)"),
    "other channels": ({"image_shape": (8, 8, 3)}, CheckpointError, r"is \(3, 3, 1, 4\), the model's \(3, 3, 3, 4\)"),
    "two means": ({"mean": (0, 0)}, UsageError, "--mean has 2 numbers, and --input-shape 1 channels"),
    "two stds": ({"std": (1, 1)}, UsageError, "--std has 2 numbers"),
    "std of 0": ({"std": (0,)}, ConfigError, "std"),
    "mean of nan": ({"mean": (float("nan"),)}, ConfigError, "mean"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_cannot_be_answered_says_what_is_wrong(name, file, net):
    given, error, words = CALLS[name]
    with pytest.raises(BncliError, match=words) as caught:
        open_net(file, **{"name": net} | given)
    assert type(caught.value) is error


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ({"name": None, "image_shape": None}, "Add --model file.py:Class and --input-shape H,W,C."),
        ({"name": None}, "Add --model file.py:Class."),
        ({"image_shape": None}, "Add --input-shape H,W,C."),
    ],
)
def test_the_options_to_add_are_those_that_are_missing(file, net, given, remedy):
    with pytest.raises(UsageError) as caught:
        open_net(file, **{"name": net} | given)
    assert caught.value.remedy == remedy


def test_a_network_whose_outputs_are_no_logits_is_refused(tmp_path, net):
    rng = np.random.default_rng(0)
    variables = make_variables()
    del variables["params"]["Dense_0"]
    variables["params"]["Conv_0"]["bias"] = rng.normal(size=4).astype(np.float32)
    save_msgpack(tmp_path / "file", variables)
    with pytest.raises(ModelError, match=r"returns outputs of shape \(2, 8, 8, 4\)") as caught:
        open_net(tmp_path / "file", net.replace(":Net", ":Segmenter"))
    assert "bncli.fold" in caught.value.remedy
