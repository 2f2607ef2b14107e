"""Equalised layers compute the same, and their weights have one range."""

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
import onnx
from onnx import helper, numpy_helper

from bncli.checkpoint.onnx_file import OnnxNetwork
from bncli.folding.export.onnx.equalize import equalized
from bncli.jobs import quantize


def model_of(nodes, arrays, shape, classes):
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["b", *shape])],
        [helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, ["b", *classes])],
        initializer=[numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()


def outputs(content, x):
    return OnnxNetwork.from_bytes(content).run(x)


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("between", [[], ["Relu"], ["Relu", "GlobalMaxPool"]])
def test_equalising_keeps_the_network_and_gives_both_layers_one_range(groups, between):
    rng = np.random.default_rng(groups)
    arrays = {
        "k1": rng.normal(size=(6, 3, 3, 3)) * np.exp(rng.normal(0, 3, (6, 1, 1, 1))),
        "b1": rng.normal(size=6),
        "k2": rng.normal(size=(12, 6 // groups, 1, 1)),
    }
    nodes = [helper.make_node("Conv", ["input", "k1", "b1"], ["v0"])]
    nodes += [helper.make_node(op, [f"v{n}"], [f"v{n + 1}"]) for n, op in enumerate(between)]
    nodes.append(helper.make_node("Conv", [f"v{len(between)}", "k2"], ["output"], group=groups))
    size = 1 if "GlobalMaxPool" in between else 6
    content = model_of(nodes, arrays, (3, 8, 8), (12, size, size))
    after = equalized(content)
    assert after.pairs == 1
    x = rng.normal(size=(2, 3, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(outputs(after.content, x), outputs(content, x), rtol=2e-4, atol=2e-4)
    found = {t.name: numpy_helper.to_array(t) for t in onnx.load_model_from_string(after.content).graph.initializer}
    ours = np.abs(found["k1"]).max(axis=(1, 2, 3))
    theirs = np.abs(found["k2"].reshape(groups, 12 // groups, 6 // groups)).max(axis=1).reshape(-1)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    assert ours.max() / ours.min() < (np.abs(arrays["k1"]).max(axis=(1, 2, 3)).max()) / (
        np.abs(arrays["k1"]).max(axis=(1, 2, 3)).min()
    )


def test_a_layer_that_is_read_twice_or_behind_another_operation_is_left_alone():
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=(3, 3, 1, 1)) for name in ("k1", "k2", "k3", "k4")}
    nodes = [
        helper.make_node("Conv", ["input", "k1"], ["a"]),
        helper.make_node("Conv", ["a", "k2"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Conv", ["c", "k3"], ["d"]),
        helper.make_node("Sigmoid", ["d"], ["e"]),
        helper.make_node("Conv", ["e", "k4"], ["output"]),
    ]
    assert equalized(model_of(nodes, arrays, (3, 4, 4), (3, 4, 4))).pairs == 0


def test_dead_channels_stay_as_they_are():
    rng = np.random.default_rng(0)
    arrays = {"k1": rng.normal(size=(4, 3, 1, 1)), "b1": rng.normal(size=4), "k2": rng.normal(size=(2, 4, 1, 1))}
    arrays["k1"][1] = 0
    arrays["k2"][:, 2] = 0
    nodes = [
        helper.make_node("Conv", ["input", "k1", "b1"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "k2"], ["output"]),
    ]
    content = model_of(nodes, arrays, (3, 4, 4), (2, 4, 4))
    x = rng.normal(size=(1, 3, 4, 4)).astype(np.float32)
    np.testing.assert_allclose(outputs(equalized(content).content, x), outputs(content, x), rtol=1e-4, atol=1e-5)


def test_images_for_the_ranges_are_spread_over_the_classes():
    assert len(quantize._spread(10, 512)) == 10
    found = quantize._spread(10_000, 512)
    assert len(found) == 512
    assert (found[0], found[-1]) == (0, 9_999)


@pytest.fixture(scope="module")
def gelu_like():
    """Convolution, cube, convolution."""
    rng = np.random.default_rng(0)
    arrays = {"k1": rng.normal(size=(4, 3, 1, 1)), "k2": rng.normal(size=(2, 4, 1, 1))}
    nodes = [
        helper.make_node("Conv", ["input", "k1"], ["a"], name="first"),
        helper.make_node("Mul", ["a", "a"], ["b"]),
        helper.make_node("Mul", ["b", "a"], ["c"]),
        helper.make_node("Conv", ["c", "k2"], ["output"], name="second"),
    ]
    return model_of(nodes, arrays, (3, 4, 4), (2, 4, 4))


@pytest.mark.parametrize("way", quantize.WAYS)
def test_a_way_keeps_in_float32_what_it_says(gelu_like, way):
    images = np.random.default_rng(1).normal(size=(8, 3, 4, 4)).astype(np.float32)
    nodes = onnx.load_model_from_string(quantize._quantized(gelu_like, images, way)).graph.node
    eight_bits = {name for node in nodes if node.op_type == "DequantizeLinear" for name in node.output}
    kinds = {
        (node.op_type, node.name if node.op_type == "Conv" else ""): set(node.input) <= eight_bits
        for node in nodes
        if node.op_type in ("Conv", "Mul")
    }
    assert kinds == {
        ("Conv", "first"): not way.first_in_float32,
        ("Conv", "second"): True,
        ("Mul", ""): not way.layers_only,
    }


def test_the_first_way_that_suffices_is_kept_and_else_the_closest():
    expected = np.zeros(1000, int)
    made = []

    def candidates(*agreements):
        for number, share in enumerate(agreements):
            made.append(number)
            predictions = np.where(np.arange(1000) < 1000 * share, 0, 1)
            yield quantize.Candidate(quantize.WAYS[number], b"", predictions, expected)

    assert quantize.closest(candidates(0.9, 0.996, 1.0)).agreement == 0.996
    assert made == [0, 1]
    assert quantize.closest(candidates(0.9, 0.97, 0.97)).way == quantize.WAYS[1]
