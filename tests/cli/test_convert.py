"""Weights of torchvision as a checkpoint that the other commands take, and as the start of a training."""

import json

import numpy as np
import pytest
from PIL import Image
from support.torch_weights import state_dict, write_safetensors

import bncli
from cli.conftest import TINY, document, invoke, succeed

CLASSES = 3


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    write_safetensors(path, state_dict("resnet18", "torchvision or timm", num_classes=CLASSES))
    return path


@pytest.fixture(scope="module")
def converted(weights, tmp_path_factory):
    """The checkpoint, for images of 40 pixels, and the document of the command."""
    out = tmp_path_factory.mktemp("converted") / "ckpt"
    names = out.parent / "names.txt"
    names.write_text("cat\ndog\nhouse\n")
    return out, document("convert", weights, out, "--image-size", 40, "--class-names", names)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Noise of three classes, in two sizes."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        (root / name).mkdir()
        for number in range(6):
            shape = (48, 60, 3) if number % 2 else (50, 44, 3)
            Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(root / name / f"{number}.png")
    return root


def test_every_array_is_accounted_for(converted):
    _, printed = converted
    account = printed["weights"]
    assert (len(account["taken"]), account["new"], len(account["ignored"])) == (102, [], 20)
    assert account["taken"][0] == {
        "source": "conv1.weight",
        "source_shape": [64, 3, 7, 7],
        "target": "params/conv_init/kernel",
        "shape": [7, 7, 3, 64],
        "reason": None,
    }
    assert printed["preprocessing"]["size"] == [40, 40]
    assert printed["preprocessing"]["crop"] == {"resize": 46, "interpolation": "bilinear"}


@pytest.mark.broad
def test_it_is_a_checkpoint_for_the_other_commands(converted, photos, tmp_path):
    out, _ = converted
    image = photos / "a" / "1.png"
    predicted = document("predict", out, image)["images"][0]["classes"]
    assert {row["name"] for row in predicted} == {"cat", "dog", "house"}
    assert document("eval", out, "--data", photos, "--split", "train")["num_examples"] > 9
    assert len(document("inspect-stats", out)["layers"]) == 20
    succeed("verify", out)
    folded = document("fold", out, tmp_path / "out")
    assert (folded["folded"], folded["kept"]) == (20, 0)
    again = document("predict", tmp_path / "out", image)["images"][0]["classes"]
    assert [row["name"] for row in again] == [row["name"] for row in predicted]


def test_the_crop_is_that_of_the_library(converted, photos):
    checkpoint = bncli.load(converted[0])
    path = photos / "a" / "1.png"  # 48 high, 60 wide
    with Image.open(path) as image:
        scaled = image.resize((57, 46), Image.Resampling.BILINEAR)  # 46 · 60 // 48 = 57
    expected = np.asarray(scaled.crop((8, 3, 48, 43)))  # round((57 − 40) / 2) = 8
    np.testing.assert_array_equal(checkpoint.preprocessor.load(path), expected)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "resnet34"], ["missing: layer1.2.conv1.weight", "--model resnet18"]),
        (["--weights-from", "timm-tf"], ["--weights-from timm-tf", "torchvision or timm"]),
        (["--class-names", "README"], ["README"]),
    ],
)
def test_what_cannot_be_converted(weights, tmp_path, options, words, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke("convert", weights, tmp_path / "out", *options)
    assert result.exit_code in (1, 2)
    assert all(word in result.stderr for word in words), result.stderr
    assert not (tmp_path / "out").exists()


def test_a_wrong_number_of_names(weights, tmp_path):
    (tmp_path / "names.txt").write_text("cat\n")
    result = invoke("convert", weights, tmp_path / "out", "--class-names", tmp_path / "names.txt")
    assert result.exit_code == 1
    assert "has 1 names, and the weights have 3 classes" in result.stderr


def test_the_settings_that_weights_decide_are_printed(weights, photos):
    text = succeed("train", "--weights", weights, "--data", photos, "--image-size", 48, "--print-config")
    for line in ('name = "resnet18"', 'padding = "symmetric"', "image_size = 48", "resize = 55", "channels = 3"):
        assert line in text
    # Those of the recipe for few images of one's own, which the call can undo.
    assert "epochs = 10\n" in text
    assert 'freeze_bn = "statistics"' in text
    options = ["--image-size", 48, "--freeze-bn", "none"]
    assert 'freeze_bn = "none"' in succeed("train", "--weights", weights, "--data", photos, *options, "--print-config")


@pytest.mark.broad
def test_training_begins_with_the_weights(ckpt, tmp_path):
    options = ["--weights", ckpt, "--epochs", 2, "--learning-rate", 1e-7, "--quiet"]
    whole = document("train", *options, "--out", tmp_path / "whole")
    assert len(whole["weights"]["taken"]) > 0
    assert whole["weights"]["new"] == []
    before = document("eval", ckpt, "--split", "val")
    assert whole["history"][0]["val_accuracy"] == pytest.approx(before["accuracy"], abs=0.05)
    assert json.loads((tmp_path / "whole" / "config.json").read_text())["weights"]["origin"] == "bncli"


def test_a_setting_that_the_weights_bind(ckpt, tmp_path):
    result = invoke("train", "--weights", ckpt, "--bn-epsilon", 0.5, "--out", tmp_path / "x", *TINY[-1:])
    assert result.exit_code == 2
    assert "--bn-epsilon 0.5: the weights of" in result.stderr
