"""An exported model.onnx in place of a checkpoint: the same settings and logits; a damaged one is refused."""

import shutil
import sys

import jax
import numpy as np
import onnx
import pytest
from onnx import helper
from support.damage import damaged_bytes, few_or_many, for_examples

import bncli
from bncli.checkpoint import read_config
from bncli.config import document
from bncli.errors import BncliError, CheckpointError, ConfigError
from bncli.jobs.fold import FoldOptions, fold_checkpoint
from bncli.jobs.predict import predict


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "out"
    fold_checkpoint(bncli.load(trained.out), out, FoldOptions(exports=("onnx",)))
    return out / "model.onnx"


def test_it_opens_like_the_folded_checkpoint_wherever_it_lies(exported, tmp_path):
    moved = tmp_path / "a model"
    moved.write_bytes(exported.read_bytes())
    folded, opened = bncli.load(exported.parent), bncli.load(moved)
    assert opened.config == folded.config == read_config(moved)
    assert opened.step == folded.step
    assert opened.network is None
    images = np.random.default_rng(0).normal(size=(5, 8, 8, 1)).astype(np.float32)
    expected = folded.apply_fn(folded.variables, images)
    for apply in (opened.apply_fn, jax.jit(opened.apply_fn)):
        np.testing.assert_allclose(apply({}, images), expected, rtol=1e-4, atol=1e-5)


def test_it_predicts(exported, tmp_path):
    from PIL import Image

    image = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "image.png")
    (one,), (other,) = (
        predict(bncli.load(path), [tmp_path / "image.png"], top=3).rows for path in (exported, exported.parent)
    )
    assert [c.name for c in one.classes] == [c.name for c in other.classes]
    np.testing.assert_allclose(*[[c.probability for c in p.classes] for p in (one, other)], atol=1e-5)


def graph_without_metadata() -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    shapes = value("x", 1, ["b", 2]), value("y", 1, ["b", 2])
    return helper.make_model(
        helper.make_graph(nodes, "g", [shapes[0]], [shapes[1]]),
        ir_version=8,
        opset_imports=[helper.make_opsetid("", 18)],
    )


def with_config(text: str) -> bytes:
    model = graph_without_metadata()
    helper.set_model_props(model, {"bncli.config": text})
    return model.SerializeToString()


def with_external_data() -> bytes:
    """A model that asks for the bytes of a file elsewhere."""
    model = graph_without_metadata()
    tensor = onnx.TensorProto(name="k", data_type=1, dims=[2], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/passwd")
    model.graph.initializer.append(tensor)
    model.graph.node[0].CopyFrom(helper.make_node("Add", ["x", "k"], ["y"]))
    helper.set_model_props(model, {"bncli.config": "{}"})
    return model.SerializeToString()


NO_MODEL = "is not a checkpoint directory, and no ONNX model"
BAD = {
    "cut off": (lambda content: content[: len(content) // 2], CheckpointError, NO_MODEL),
    "empty": (lambda content: b"", CheckpointError, NO_MODEL),
    "external data": (lambda content: with_external_data(), CheckpointError, NO_MODEL),
    "no metadata": (
        lambda content: graph_without_metadata().SerializeToString(),
        CheckpointError,
        "was not written by bncli",
    ),
    "settings that are none": (lambda content: with_config("{}"), ConfigError, "Field required"),
    "text": (lambda content: b"hello", CheckpointError, NO_MODEL),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_by_name(exported, tmp_path, name):
    damage, error, message = BAD[name]
    path = tmp_path / "bad.onnx"
    path.write_bytes(damage(exported.read_bytes()))
    with pytest.raises(error, match=message) as caught:
        bncli.load(path)
    assert str(path) in caught.value.message
    assert caught.value.remedy


def test_without_onnxruntime_the_remedy_is_the_extra(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(CheckpointError, match="needs onnxruntime") as caught:
        bncli.load(exported)
    assert caught.value.remedy == "pip install 'bncli[onnx]'"


def test_damage_to_it_is_found_by_its_checksum(exported, tmp_path):
    out = shutil.copytree(exported.parent, tmp_path / "out")
    content = bytearray(exported.read_bytes())
    content[len(content) // 2] ^= 1
    (out / "model.onnx").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model.onnx is damaged: its SHA-256 is not the one in files.sha256"):
        bncli.load(out / "model.onnx")


@few_or_many(40, 400)
def test_damage_without_a_checksum_is_a_model_or_an_error(exported, tmp_path, count):
    path = tmp_path / "model.onnx"
    outcomes = []

    def read(content):
        path.write_bytes(content)
        try:
            bncli.load(path)
            outcomes.append(None)
        except BncliError as error:
            outcomes.append(error)

    for_examples(count, damaged_bytes(exported.read_bytes(), header=2000), read)
    assert None in outcomes
    assert any(outcomes)


def test_a_model_with_names_that_are_no_text_is_refused(exported, tmp_path):
    path = tmp_path / "model.onnx"
    content = exported.read_bytes()
    key = document.ONNX_KEY.encode()
    assert key in content
    path.write_bytes(content.replace(key, b"\xff" * len(key)))
    with pytest.raises(CheckpointError, match=r"model.onnx "):
        bncli.load(path)
