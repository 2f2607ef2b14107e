"""Commands on checkpoints that bncli did not write, and on what ``bncli fold`` makes of them."""

import importlib.util
import json

import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image
from support.foreign_files import (
    make_state,
    make_variables,
    save_item,
    save_msgpack,
    save_safetensors,
    save_steps,
    write_net,
)
from support.tiny import make_split

import bncli
from bncli.errors import UsageError
from bncli.measure.score import summarize
from cli.conftest import document, invoke, succeed

VARIABLES = make_variables()
SHAPE = ["--input-shape", "8,8,1"]
NORMALISED = ["--mean", "0.25", "--std", "0.5"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with a model's code, an image, data of three classes, and ``saved``, a file; only to be read."""
    path = tmp_path_factory.mktemp("place")
    write_net(path)
    test = make_split(24, seed=3)
    np.savez(path / "data.npz", x_train=test.images, y_train=test.labels, x_test=test.images, y_test=test.labels)
    Image.fromarray(test.images[0, ..., 0]).save(path / "image.png")
    save_msgpack(path / "saved", make_state(VARIABLES))
    return path


@pytest.fixture
def model(place, monkeypatch):
    """The options that name the model, from where it lies."""
    monkeypatch.chdir(place)
    return ["--model", "net.py:Net"]


def logits_of(place, images):
    """What Flax makes of the images: [N, K]."""
    spec = importlib.util.spec_from_file_location("net", place / "net.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return np.asarray(module.Net().apply(VARIABLES, (images / np.float32(255) - 0.25) / 0.5, train=False))


def expected_sha256(place):
    test = np.load(place / "data.npz")
    predictions = logits_of(place, test["x_test"]).argmax(axis=1)
    zeros = np.zeros(len(predictions))
    names = ("0", "1", "2")
    summary = summarize(losses=zeros, predictions=predictions, in_top5=zeros, labels=test["y_test"], class_names=names)
    return summary.predictions_sha256


WRITERS = {
    "flax": lambda path: save_msgpack(path, make_state(VARIABLES)),
    "safetensors": lambda path: save_safetensors(path, VARIABLES),
    "orbax": lambda path: save_item(path, {"state": VARIABLES, "note": "the third try"}),
    "orbax, steps": lambda path: save_steps(path, {7: ocp.args.StandardSave(VARIABLES)}),
}


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", WRITERS)
def test_the_folded_checkpoint_predicts_what_flax_does(name, place, model, tmp_path):
    WRITERS[name](tmp_path / "saved")
    result = document("fold", tmp_path / "saved", tmp_path / "out", *model, *SHAPE, *NORMALISED)
    assert (result["folded"], result["kept"]) == (1, 0)
    assert result["step"] == (7 if name == "orbax, steps" else 0)
    assert "random images" in result["verification"]["examples"]
    scored = document("eval", tmp_path / "out", "--data", place / "data.npz")
    assert scored["predictions_sha256"] == expected_sha256(place)
    assert scored["num_examples"] == 24


def test_the_folded_checkpoint_is_one_like_any_other(place, model, tmp_path):
    out = tmp_path / "out"
    text = " ".join(succeed("fold", "saved", out, *model, *SHAPE, "--mean", "0.25").split())
    assert "read from a Flax msgpack file" in text
    assert "std 1 of the pixels, scaled to [0, 1], are assumed" in text
    assert "bncli eval" in text
    assert "--data …" in text
    assert document("inspect-stats", out)["folded_from"]["checkpoint"] == "saved"
    (image,) = document("predict", out, "image.png")["images"]
    assert sorted(row["name"] for row in image["classes"]) == ["0", "1", "2"]
    config = json.loads((out / "config.json").read_text())
    assert config["dataset"] is None
    assert config["run"]["model"]["name"] == f"{place}/net.py:Net"  # to be found from anywhere


def test_eval_needs_data_of_as_many_classes(model, tmp_path):
    succeed("fold", "saved", tmp_path / "out", *model, *SHAPE)
    unknown = invoke("eval", tmp_path / "out")
    assert unknown.exit_code == 1
    assert "are not known" in unknown.stderr
    assert "--data" in unknown.stderr
    others = invoke("eval", tmp_path / "out", "--data", "digits")
    assert others.exit_code == 1
    assert "the data have 10 classes, and" in others.stderr


# what is given -> the exit code, and the words of the answer
CALLS = {
    "nothing": ([], 2, "Add --model file.py:Class and --input-shape H,W,C."),
    "no shape": (["--model", "net.py:Net"], 2, "Add --input-shape H,W,C."),
    "no model": (SHAPE, 2, "Add --model file.py:Class."),
    "two sizes": (["--input-shape", "8,8"], 2, "bncli.fold in Python"),
    "a size of 0": (["--input-shape", "8,0,1"], 2, "bncli.fold in Python"),
    "words": (["--input-shape", "8,8,grey"], 2, "bncli.fold in Python"),
    "no mean": (["--mean", "a"], 2, "--mean 'a' is not numbers"),
    "no key": (["--model-arg", "width"], 2, "is not key=value"),
    "three means": ([*SHAPE, "--model", "net.py:Net", "--mean", "0,0,0"], 2, "--mean has 3 numbers"),
    "std of 0": ([*SHAPE, "--model", "net.py:Net", "--std", "0"], 1, "std"),
    "other classes": (
        [*SHAPE, "--model", "net.py:Net", "--model-arg", "num_classes=4"],
        1,
        "params/Dense_0/bias is (3,), the model's (4,)",
    ),
    "a step": ([*SHAPE, "--model", "net.py:Net", "--step", "3"], 1, "has no step '3'"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_lacks_something_says_what(name, model, tmp_path):
    given, code, words = CALLS[name]
    result = invoke("fold", "saved", tmp_path / "out", *given)
    assert result.exit_code == code, result.output
    assert words in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "option", [["--model-arg", "width=3"], SHAPE, ["--mean", "0"], ["--std", "1"]], ids=lambda option: option[0]
)
def test_bnclis_own_checkpoint_takes_none_of_these(ckpt, tmp_path, option):
    result = invoke("fold", ckpt, tmp_path / "out", *option)
    assert result.exit_code == 2
    assert f"{option[0]}: {ckpt} is bncli's own checkpoint" in " ".join(result.stderr.split())


def test_what_is_no_checkpoint_is_named_before_anything_is_asked_for(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no checkpoint")
    for name in ("empty", "notes.txt", "missing"):
        result = invoke("fold", tmp_path / name, tmp_path / "out")
        assert result.exit_code == 1
        assert str(tmp_path / name) in "".join(result.stderr.split("\n"))
        assert "remedy:" in result.stderr


def test_a_network_in_bfloat16_folds_by_its_own_tolerance(model, tmp_path):
    result = document("fold", "saved", tmp_path / "out", *model, *SHAPE, "--model-arg", "dtype=bfloat16")
    assert result["folded"] == 1
    assert result["verification"]["tolerance"] > 0.01
    assert json.loads((tmp_path / "out" / "config.json").read_text())["run"]["training"]["precision"] == "bfloat16"


def test_eval_scores_another_programs_checkpoint(place, model):
    scored = document("eval", "saved", *model, *SHAPE, *NORMALISED, "--data", "data.npz")
    assert scored["predictions_sha256"] == expected_sha256(place)
    unknown = invoke("eval", "saved", *model, *SHAPE)
    assert unknown.exit_code == 1
    assert "--data" in unknown.stderr


def test_predict_says_what_it_assumes(model):
    result = invoke("predict", "saved", "image.png", *model, *SHAPE, "--mean", "0.25")
    assert result.exit_code == 0, result.output
    assert "std 1 of the pixels, scaled to [0, 1], are assumed" in " ".join(result.stderr.split())
    assert "image.png" in result.stdout


def test_recalibrate_makes_bnclis_own_checkpoint_of_it(place, model, tmp_path):
    out = tmp_path / "out"
    result = document("recalibrate", "saved", out, *model, *SHAPE, *NORMALISED, "--data", "data.npz")
    assert result["after"]["loss"] != result["before"]["loss"]
    scored = document("eval", out, "--data", "data.npz", "--split", "val")
    assert scored["loss"] == result["after"]["loss"]
    (layer,) = document("inspect-stats", out, "--data", "data.npz")["data"]["layers"]
    assert layer["drift"]["distance"] < 1e-5


def test_bench_compares_it_with_the_folded_one(model, tmp_path):
    succeed("fold", "saved", tmp_path / "out", *model, *SHAPE, *NORMALISED)
    few = ["--batch-sizes", "1", "--rounds", "5", "--no-cold"]
    result = document("bench", "saved", tmp_path / "out", *model, *SHAPE, *few)
    assert [row["kind"] for row in result["networks"]] == ["trained", "folded"]
    lacking = invoke("bench", "saved", "--model", "net.py:Net")
    assert lacking.exit_code == 2
    assert "--input-shape H,W,C" in lacking.stderr
    own = invoke("bench", tmp_path / "out", *SHAPE)
    assert own.exit_code == 2
    assert "bncli's own checkpoint" in " ".join(own.stderr.split())


def test_inspect_stats_knows_the_network_of_a_named_model(place, model):
    alone = document("inspect-stats", "saved")
    known = document("inspect-stats", "saved", *model, *SHAPE)
    assert [row["name"] for row in known["layers"]] == ["BatchNorm_0"]
    assert any("assumed" in note for note in alone["notes"])
    assert not any("ε" in note for note in known["notes"])
    measured = document("inspect-stats", "saved", *model, *SHAPE, *NORMALISED, "--data", "data.npz")
    assert measured["data"]["layers"][0]["drift"]["distance"] > 0.1


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        (["--data", "data.npz"], 1, "Add --model file.py:Class and --input-shape H,W,C"),
        (SHAPE, 2, "Add --model file.py:Class"),
        (["--model", "net.py:Net"], 2, "Add --input-shape H,W,C."),
    ],
)
def test_inspect_stats_says_what_it_lacks(model, given, code, words):
    result = invoke("inspect-stats", "saved", *given)
    assert result.exit_code == code, result.output
    assert words in " ".join(result.stderr.split())


@pytest.mark.parametrize("command", ["eval", "predict", "inspect-stats", "recalibrate"])
def test_each_command_refuses_facts_about_bnclis_own_checkpoint(command, ckpt, tmp_path):
    more = {"predict": [tmp_path], "recalibrate": [tmp_path / "out"]}.get(command, [])
    result = invoke(command, ckpt, *more, *SHAPE)
    assert result.exit_code == 2
    assert f"--input-shape: {ckpt} is bncli's own checkpoint" in " ".join(result.stderr.split())


@pytest.mark.broad
def test_the_same_in_python(place, model):
    report = bncli.inspect_stats(
        "saved", model="net.py:Net", input_shape=(8, 8, 1), mean=(0.25,), std=(0.5,), data="data.npz"
    )
    text = document("inspect-stats", "saved", *model, *SHAPE, *NORMALISED, "--data", "data.npz")
    assert report.data.layers[0].drift.distance == text["data"]["layers"][0]["drift"]["distance"]
    with pytest.raises(UsageError, match="network is not known"):
        bncli.inspect_stats("saved", data="data.npz")
