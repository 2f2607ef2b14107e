"""The settings that weights decide, and those that nobody may change."""

import pytest
from support.torch_weights import state_dict, write_safetensors

from bncli.config.options import by_key
from bncli.errors import UsageError
from bncli.weights import read, settings_of


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    write_safetensors(path, state_dict("efficientnet_lite0", "efficientnet-pytorch"))
    return read(str(path))


def decided(weights, asked=None, *, resizes=True):
    values = settings_of(weights, {by_key()[key]: value for key, value in (asked or {}).items()}, resizes=resizes)
    return {option.key: value for option, value in values.items()}


def test_image_files_take_the_preprocessing_of_the_weights(weights):
    found = decided(weights)
    assert found["model.name"] == "efficientnet_lite0"
    assert (found["model.bn_epsilon"], found["model.bn_momentum"]) == (1e-3, 0.99)
    assert (found["data.image_size"], found["data.resize"], found["data.channels"]) == (224, 256, 3)
    assert found["data.mean"] == "0.5,0.5,0.5"


def test_arrays_keep_their_size(weights):
    found = decided(weights, resizes=False)
    assert not {"data.image_size", "data.resize", "data.channels"} & set(found)
    assert found["data.mean"] == "0.5,0.5,0.5"


def test_another_size_is_cropped_in_proportion(weights):
    found = decided(weights, {"data.image_size": 96})
    assert found["data.resize"] == 110
    assert "data.image_size" not in found


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.name", "resnet18"),
        ("model.bn_epsilon", 1e-5),
        ("model.bn", False),
        ("model.bn_placement", "post"),
        ("model.args", {"padding": "symmetric"}),
    ],
)
def test_what_the_weights_bind_cannot_be_changed(weights, key, value):
    with pytest.raises(UsageError, match=f"--{by_key()[key].flag} .*: the weights of .* were trained with"):
        decided(weights, {key: value})


def test_saying_the_same_is_no_change(weights):
    found = decided(weights, {"model.args": {"padding": "same"}, "model.name": "efficientnet_lite0"})
    assert found["model.args"] == {"padding": "same"}


@pytest.mark.parametrize(("key", "value"), [("model.bn_momentum", 0.9), ("model.dropout", 0.0), ("data.mean", "0,0,0")])
def test_the_user_chooses_everything_else(weights, key, value):
    assert key not in decided(weights, {key: value})
