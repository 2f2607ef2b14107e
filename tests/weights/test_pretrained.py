"""Weights bring the library they are from, its constants, and the preprocessing of its images."""

import json

import numpy as np
import pytest
from support.torch_files import write_torch
from support.torch_weights import state_dict, write_safetensors

from bncli.config.document import Crop
from bncli.errors import CheckpointError, UsageError
from bncli.weights import read

RESNET = "torchvision or timm"
HALF = (0.5, 0.5, 0.5)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    write_safetensors(path, state_dict("resnet18", RESNET))
    return path


@pytest.fixture(scope="module")
def lite(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "lite.safetensors"
    write_safetensors(path, state_dict("efficientnet_lite0", "timm"))
    return path


def test_a_resnet_is_torchvisions_unless_told(resnet):
    found = read(str(resnet))
    assert found.record.origin == "torchvision"
    assert found.record.num_classes == 7
    assert found.model.args == {"padding": "symmetric", "small_images": False}
    assert found.preprocessing.crop == Crop(resize=256)
    assert found.preprocessing.image_shape == (224, 224, 3)
    assert "--weights-from timm" in found.notes[0]
    assert read(str(resnet), origin="timm").notes == ()


def test_a_network_that_depends_on_the_library_needs_to_be_told(lite):
    with pytest.raises(UsageError, match="do not tell if these are weights of timm or timm-tf") as caught:
        read(str(lite))
    assert "--weights-from timm-tf" in caught.value.remedy
    symmetric, same = (read(str(lite), origin=origin) for origin in ("timm", "timm-tf"))
    assert (symmetric.model.args, symmetric.model.bn_epsilon) == ({"padding": "symmetric"}, 1e-5)
    assert (same.model.args, same.model.bn_epsilon, same.model.bn_momentum) == ({"padding": "same"}, 1e-3, 0.99)
    assert (same.preprocessing.mean, same.preprocessing.std) == (HALF, HALF)
    assert same.preprocessing.crop == Crop(resize=256, interpolation="bicubic")


def test_a_library_with_other_names_is_refused(lite):
    with pytest.raises(UsageError, match="--weights-from torchvision: the arrays have the names that timm gives"):
        read(str(lite), origin="torchvision")


def described(path, folder, **settings):
    """The weights in a folder of their own, with timm's ``config.json``."""
    target = folder / "model.safetensors"
    target.write_bytes(path.read_bytes())
    (folder / "config.json").write_text(json.dumps({"architecture": "resnet18", **settings}))
    return folder


def test_what_timm_writes_beside_its_weights_is_followed(resnet, tmp_path):
    settings = {"input_size": [3, 160, 160], "crop_pct": 0.95, "interpolation": "bicubic", "mean": HALF, "std": HALF}
    names = [f"name {k}" for k in range(7)]
    folder = described(resnet, tmp_path, pretrained_cfg=settings, label_names=names)
    found = read(str(folder))
    assert found.record.origin == "timm"
    assert found.record.class_names == tuple(names)
    assert found.preprocessing.crop == Crop(resize=168, interpolation="bicubic")
    assert found.preprocessing.image_shape == (160, 160, 3)
    assert found.preprocessing.mean == HALF
    assert found.notes == ()


@pytest.mark.parametrize(
    "settings",
    [
        {"input_size": [3, 224, 200]},
        {"input_size": "large"},
        {"crop_pct": 0},
        {"crop_pct": None},
        {"interpolation": "lanczos"},
        {"mean": [1, 2]},
        {"std": [0, 1, 1]},
    ],
)
def test_a_preprocessing_that_cannot_be_followed_is_named(resnet, tmp_path, settings):
    folder = described(resnet, tmp_path, pretrained_cfg=settings)
    with pytest.raises(CheckpointError, match=rf"config.json: {next(iter(settings))} is"):
        read(str(folder))


def test_a_name_of_timm_tells_of_tensorflow(lite, tmp_path):
    path = tmp_path / "tf_efficientnet_lite0-0aa007d2.safetensors"
    path.write_bytes(lite.read_bytes())
    assert read(str(path)).record.origin == "timm-tf"


@pytest.mark.broad
def test_pytorchs_file_holds_the_same(tmp_path):
    arrays = state_dict("mobilenet_v2", "torchvision")
    write_torch(tmp_path / "w.pth", {"state_dict": arrays, "epoch": 3})
    write_safetensors(tmp_path / "w.safetensors", arrays)
    a, b = (read(str(tmp_path / name)) for name in ("w.pth", "w.safetensors"))
    assert a.model == b.model
    assert a.variables.keys() == b.variables.keys()
    for path, array in a.variables.items():
        np.testing.assert_array_equal(array, b.variables[path])


def test_a_checkpoint_of_bncli_is_weights_too(trained):
    found = read(str(trained.out))
    assert found.record.origin == "bncli"
    assert found.model == trained.config.run.model
    assert found.preprocessing == trained.config.preprocessing
    assert found.record.class_names == trained.config.dataset.class_names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"origin": "timm"}, "--weights-from timm: .* is a checkpoint of bncli"),
        ({"model": "resnet18"}, "--model resnet18: .* holds weights of cnn"),
    ],
)
def test_a_checkpoint_knows_its_network(trained, options, message):
    with pytest.raises(UsageError, match=message):
        read(str(trained.out), **options)


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("words")
    for name in ("a.txt", "nothing.pth"):
        with pytest.raises(CheckpointError, match=name):
            read(str(tmp_path / name))


@pytest.mark.parametrize("length", [0, 4, 8, 100, 5000])
def test_a_file_that_was_cut_short_is_damaged(resnet, tmp_path, length):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(resnet.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=r"cut\.safetensors"):
        read(str(path))


def test_an_own_model_cannot_be_filled_from_a_library(resnet):
    with pytest.raises(UsageError, match="only be read into a built-in network"):
        read(str(resnet), model="net.py:Net")
