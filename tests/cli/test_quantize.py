"""``bncli fold --quantize int8``: measured beside float32, and nothing is written below the limit."""

import json

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
import onnx
from onnx import numpy_helper

import bncli
from bncli.jobs import quantize
from cli.conftest import document, invoke, succeed


@pytest.fixture(scope="module")
def quantized(ckpt, tmp_path_factory):
    """``ckpt`` folded and exported in both precisions, and the document of the fold."""
    out = tmp_path_factory.mktemp("quantized") / "out"
    return out, document("fold", ckpt, out, "--export", "onnx", "--quantize", "int8", "--quiet")


@pytest.mark.broad
def test_the_report_is_what_eval_finds(quantized):
    out, fold = quantized
    found = fold["quantized"]
    assert found["file"] == "model.int8.onnx"
    assert found["size"] == (out / "model.int8.onnx").stat().st_size
    assert "model.int8.onnx" in fold["files"]
    for file, key in (("model.int8.onnx", "accuracy_int8"), ("model.onnx", "accuracy_float32")):
        assert document("eval", out / file, "--split", "val")["accuracy"] == pytest.approx(found[key])
    assert abs(found["accuracy_int8"] - found["accuracy_float32"]) <= 0.02
    assert [row["batch_size"] for row in found["latency_ms"]] == list(quantize.BATCH_SIZES)
    assert json.loads((out / "fold_report.json").read_text())["quantized"] == found
    assert invoke("verify", out).exit_code == 0


def test_it_is_in_eight_bits(quantized):
    model = onnx.load(quantized[0] / "model.int8.onnx")
    kernels = {tensor.name: tensor for tensor in model.graph.initializer}
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    makers = {node.output[0]: node for node in model.graph.node}
    assert convs
    for conv in convs:
        weights = makers[conv.input[1]]
        assert weights.op_type == "DequantizeLinear"
        assert kernels[weights.input[0]].data_type == onnx.TensorProto.INT8
        assert numpy_helper.to_array(kernels[weights.input[1]]).size > 1  # one scale a channel


def test_below_the_limit_nothing_is_written(ckpt, tmp_path):
    options = ("--export", "onnx", "--quantize", "int8", "--min-accuracy", "1", "--quiet")
    result = invoke("fold", ckpt, tmp_path / "out", *options)
    assert result.exit_code == 3, result.output
    assert "below --min-accuracy 1" in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--quantize", "int8"], "--export onnx"),
        (["--min-accuracy", "0.5"], "--quantize int8"),
        (["--quantize", "int4", "--export", "onnx"], "int4"),
    ],
)
def test_options_without_effect_are_refused(ckpt, tmp_path, options, words):
    result = invoke("fold", ckpt, tmp_path / "out", *options)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())


def test_without_the_data_it_is_refused(trained, tmp_path):
    result = invoke("fold", trained.out, tmp_path / "out", "--export", "onnx", "--quantize", "int8", "--quiet")
    assert result.exit_code == 1
    assert "are not available" in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()


def test_the_terminal_shows_accuracy_and_speed_beside_float32(ckpt, tmp_path):
    text = succeed("fold", ckpt, tmp_path / "out", "--export", "onnx", "--quantize", "int8", "--dry-run", "--quiet")
    assert "model.int8.onnx" in text
    assert "in float32" in text
    assert not (tmp_path / "out").exists()


def test_the_search_for_dead_channels_says_what_it_found(ckpt, tmp_path):
    text = succeed("fold", ckpt, tmp_path / "out", "--prune-dead", "--export", "onnx", "--dry-run", "--quiet")
    assert "dead channel" in text or "no channel removed" in text
    assert "verified" in text


def test_bncli_load_runs_the_quantized_network(quantized):
    opened = bncli.load(quantized[0] / "model.int8.onnx")
    assert opened.logits(np.zeros((3, 8, 8, 1), np.uint8)).shape == (3, 10)
