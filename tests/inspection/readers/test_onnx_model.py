"""BN layers in ONNX models: the nodes' own arrays and attributes, wherever the arrays lie."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bncli.errors import CheckpointError
from bncli.inspection import inspect_stats
from bncli.inspection.readers import Asked
from bncli.inspection.readers import read as read_any
from bncli.inspection.readers.assembly import NO_LAYER, NOT_IN_THE_REST
from bncli.inspection.readers.onnx_model import read

RNG = np.random.default_rng(0)
C = 3


def arrays_of(name, dtype=np.float32):
    """{name of an input: its values}, in the order of a node's inputs."""
    values = {part: RNG.normal(size=C).astype(dtype) for part in ("weight", "bias", "running_mean")}
    values["running_var"] = np.exp(RNG.normal(size=C)).astype(dtype)
    return {f"{name}.{part}": array for part, array in values.items()}


def node_of(name, given="x", out=None, **attributes):
    names = [f"{name}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
    return helper.make_node(
        "BatchNormalization", [given, *names], [out or f"{name}_y"], name=f"/{name}/BN", **attributes
    )


def model_of(nodes, arrays, **options):
    tensors = [
        array if isinstance(array, TensorProto) else numpy_helper.from_array(array, name)
        for name, array in arrays.items()
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", C]) for name in ("x", nodes[-1].output[0]))
    model = helper.make_model(helper.make_graph(nodes, "net", [x], [y], tensors), **options)
    model.ir_version = 9
    return model


def saved(model, directory, **options):
    path = directory / "model.json"  # a name by which onnx would choose another parser
    onnx.save(model, path, format="protobuf", **options)
    return path


@pytest.fixture
def one():
    """A model of one layer, and its arrays."""
    arrays = arrays_of("layer1.bn")
    return model_of([node_of("layer1.bn", epsilon=0.25, momentum=0.5)], arrays), arrays


def check_numbers(layer, arrays, name):
    for mine, theirs in (("mean", "running_mean"), ("var", "running_var"), ("scale", "weight"), ("bias", "bias")):
        np.testing.assert_array_equal(layer.stored()[mine], np.asarray(arrays[f"{name}.{theirs}"], np.float64))


def test_numbers_epsilon_and_momentum_are_the_nodes_own(one, tmp_path):
    model, arrays = one
    contents = read_any(saved(model, tmp_path), Asked(epsilon=1.0))
    (layer,) = contents.layers
    assert (contents.format, layer.name, layer.epsilon, layer.momentum) == ("onnx", "layer1.bn", 0.25, 0.5)
    check_numbers(layer, arrays, "layer1.bn")
    assert any("epsilon 1 is ignored" in note for note in contents.notes)
    assert any("biased" in note for note in contents.notes)


def test_attributes_that_are_not_there_are_the_operators_defaults(tmp_path):
    (layer,) = read(saved(model_of([node_of("bn")], arrays_of("bn")), tmp_path), Asked()).layers
    assert (layer.epsilon, layer.momentum) == (pytest.approx(1e-5), pytest.approx(0.9))


def test_layers_come_in_the_order_of_the_nodes_and_know_whether_a_relu_alone_follows(tmp_path):
    nodes = [
        node_of("z", out="a"),
        helper.make_node("Relu", ["a"], ["b"]),
        node_of("m", "b", out="c"),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("Add", ["c", "d"], ["e"]),
    ]
    layers = read(saved(model_of(nodes, arrays_of("z") | arrays_of("m")), tmp_path), Asked()).layers
    assert [(layer.name, layer.relu_follows) for layer in layers] == [("z", True), ("m", False)]


def test_layers_that_share_a_name_are_numbered(tmp_path):
    nodes = [node_of("bn", out="a"), node_of("bn", "a", out="b")]
    layers = read(saved(model_of(nodes, arrays_of("bn")), tmp_path), Asked()).layers
    assert [layer.name for layer in layers] == ["bn#1", "bn#2"]


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
@pytest.mark.parametrize("raw", [True, False])
def test_every_dtype_and_field_keeps_its_numbers(dtype, raw, tmp_path):
    arrays = arrays_of("bn", dtype)
    tensors = arrays
    if not raw:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        tensors = {name: helper.make_tensor(name, kind, [C], array) for name, array in arrays.items()}
    (layer,) = read(saved(model_of([node_of("bn")], tensors), tmp_path), Asked()).layers
    assert layer.dtype == np.dtype(dtype).name
    check_numbers(layer, arrays, "bn")


def test_bfloat16_keeps_its_numbers(tmp_path):
    arrays = {name: np.array([0.5, -3.0, 2.0**100]) for name in arrays_of("bn")}
    tensors = {name: helper.make_tensor(name, TensorProto.BFLOAT16, [C], array) for name, array in arrays.items()}
    (layer,) = read(saved(model_of([node_of("bn")], tensors), tmp_path), Asked()).layers
    assert layer.dtype == "bfloat16"
    check_numbers(layer, arrays, "bn")


def test_constants_and_what_passes_them_on_are_found(tmp_path):
    arrays = arrays_of("bn")
    constants = [
        helper.make_node("Constant", [], [f"{name}.c"], value=numpy_helper.from_array(array))
        for name, array in arrays.items()
    ]
    passed = [helper.make_node("Identity", [f"{name}.c"], [name]) for name in arrays]
    (layer,) = read(saved(model_of([*constants, *passed, node_of("bn")], {}), tmp_path), Asked()).layers
    check_numbers(layer, arrays, "bn")


def test_external_data_beside_the_model_are_read(one, tmp_path):
    model, arrays = one
    path = saved(model, tmp_path, save_as_external_data=True, location="weights.data", size_threshold=0)
    (layer,) = read(path, Asked()).layers
    check_numbers(layer, arrays, "layer1.bn")
    (tmp_path / "weights.data").write_bytes(b"\0" * 8)
    with pytest.raises(CheckpointError, match=r"weights\.data is missing or too short"):
        read(path, Asked())


def external(model, **entries):
    """The model with its arrays elsewhere."""
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value)
    return model


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "link", "sub/../../secret"])
def test_external_data_elsewhere_are_not_read(location, one, tmp_path):
    inside = tmp_path / "model"
    inside.mkdir()
    (tmp_path / "secret").write_bytes(b"\0" * 4 * C)
    (inside / "link").symlink_to(tmp_path / "secret")
    path = saved(external(one[0], location=location), inside)
    with pytest.raises(CheckpointError, match="outside of the model's directory, and is not read"):
        read(path, Asked())


def test_a_layer_whose_statistics_depend_on_the_input_is_left_out_with_a_note(tmp_path):
    nodes = [helper.make_node("Relu", ["x"], ["bn.running_mean"]), node_of("bn", out="a"), node_of("other", "a")]
    arrays = {name: array for name, array in arrays_of("bn").items() if name != "bn.running_mean"}
    contents = read(saved(model_of(nodes, arrays | arrays_of("other")), tmp_path), Asked())
    assert [layer.name for layer in contents.layers] == ["other"]
    assert "1 BN layer left out, because an array of it is not stored but computed by Relu: bn" in contents.notes
    alone = read(saved(model_of(nodes[:2], arrays), tmp_path), Asked())
    assert alone.layers == ()
    assert NOT_IN_THE_REST in alone.notes
    assert not any(NO_LAYER in note or "looks folded" in note for note in alone.notes)


def tensor_node(op_type, given, out, **attributes):
    return helper.make_node(op_type, given, [out], **attributes)


COMPUTED = {
    "Cast": lambda name, array: (
        [tensor_node("Cast", ["s"], name, to=TensorProto.FLOAT)],
        {"s": array.astype(np.float16)},
    ),
    "Squeeze": lambda name, array: (
        [tensor_node("Squeeze", ["s", "axes"], name)],
        {"s": array[:, None, None], "axes": np.array([1, 2])},
    ),
    "Squeeze before opset 13": lambda name, array: (
        [tensor_node("Squeeze", ["s"], name, axes=[0])],
        {"s": array[None]},
    ),
    "Unsqueeze and Reshape": lambda name, array: (
        [tensor_node("Unsqueeze", ["s"], "u", axes=[0]), tensor_node("Reshape", ["u", "shape"], name)],
        {"s": array, "shape": np.array([-1])},
    ),
    "Constant": lambda name, array: ([tensor_node("Constant", [], name, value_floats=list(array))], {}),
    "ConstantOfShape": lambda name, array: (
        [
            tensor_node("ConstantOfShape", ["n"], "zeros"),
            tensor_node("Add", ["zeros", "s"], name),
        ],
        {"n": np.array([len(array)]), "s": array},
    ),
    "arithmetic": lambda name, array: (
        [tensor_node("Mul", ["s", "two"], "m"), tensor_node("Sub", ["m", "s"], name)],
        {"s": array, "two": np.array([2], np.float32)},
    ),
    "Expand and Concat": lambda name, array: (
        [tensor_node("Concat", ["head", "tail"], "c", axis=0), tensor_node("Expand", ["c", "n"], name)],
        {"head": array[:1], "tail": array[1:], "n": np.array([len(array)])},
    ),
}


@pytest.mark.parametrize("kind", COMPUTED)
def test_constants_behind_nodes_of_constants_are_computed_as_the_runtime_does(kind, tmp_path):
    arrays = {name: array.astype(np.float16).astype(np.float32) for name, array in arrays_of("bn").items()}
    nodes, stored = COMPUTED[kind]("bn.running_mean", arrays["bn.running_mean"])
    rest = {name: array for name, array in arrays.items() if name != "bn.running_mean"}
    (layer,) = read(saved(model_of([*nodes, node_of("bn")], stored | rest), tmp_path), Asked()).layers
    check_numbers(layer, arrays, "bn")


def test_a_constant_that_would_take_much_time_or_memory_is_left_out(tmp_path):
    rest = {name: array for name, array in arrays_of("bn").items() if name != "bn.running_mean"}
    doubled = [tensor_node("Add", [f"v{k}", f"v{k}"], f"v{k + 1}") for k in range(30)]
    nodes = [*doubled, tensor_node("Identity", ["v30"], "bn.running_mean"), node_of("bn")]
    arrays = rest | {"v0": np.ones(C, np.float32)}
    (layer,) = read(saved(model_of(nodes, arrays), tmp_path), Asked()).layers
    np.testing.assert_array_equal(layer.mean, np.full(C, 2.0**30))
    huge = [tensor_node("ConstantOfShape", ["n"], "bn.running_mean"), node_of("bn")]
    contents = read(saved(model_of(huge, rest | {"n": np.array([1 << 40])}), tmp_path), Asked())
    assert any("1,099,511,627,776 values, which is too large for BN" in note for note in contents.notes)


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("opset", "outputs", "attributes", "train_mode"),
    [
        (17, 1, {}, False),
        (17, 1, {"training_mode": 0}, False),
        (17, 1, {"training_mode": 1}, True),
        (17, 3, {"training_mode": 1}, True),
        (8, 5, {}, True),
        (8, 1, {}, False),
    ],
)
def test_the_mode_of_a_node_is_a_finding_of_its_own(opset, outputs, attributes, train_mode, tmp_path):
    node = node_of("bn", **attributes)
    node.output.extend(f"extra_{number}" for number in range(1, outputs))
    model = model_of([node], arrays_of("bn"), opset_imports=[helper.make_opsetid("", opset)])
    report = inspect_stats(saved(model, tmp_path))
    assert [finding.code for finding in report.findings] == ["train-mode"] * train_mode


def test_placeholders_in_train_mode_are_no_statistics_that_were_never_updated(tmp_path):
    arrays = arrays_of("bn") | {"bn.running_mean": np.zeros(C, np.float32), "bn.running_var": np.ones(C, np.float32)}
    report = inspect_stats(saved(model_of([node_of("bn", training_mode=1)], arrays), tmp_path))
    assert [finding.code for finding in report.findings] == ["train-mode"]


def in_functions(nodes, arrays, depth):
    """The model with its nodes in a local function, which another one calls, and so on."""
    names, opset = list(arrays), helper.make_opsetid("", 17)
    functions = [helper.make_function("local", "f0", ["x", *names], [nodes[-1].output[0]], nodes, [opset])]
    for level in range(1, depth):
        call = helper.make_node(f"f{level - 1}", ["x", *names], ["out"], domain="local")
        imports = [opset, helper.make_opsetid("local", 1)]
        functions.append(helper.make_function("local", f"f{level}", ["x", *names], ["out"], [call], imports))
    call = helper.make_node(f"f{depth - 1}", ["x", *names], ["result"], domain="local")
    imports = [opset, helper.make_opsetid("local", 1)]
    return model_of([call], arrays, functions=functions, opset_imports=imports)


@pytest.mark.parametrize("depth", [1, 3])
def test_layers_in_local_functions_are_found(depth, tmp_path):
    arrays = arrays_of("bn")
    (layer,) = read(saved(in_functions([node_of("bn", epsilon=0.25)], arrays, depth), tmp_path), Asked()).layers
    assert layer.epsilon == 0.25
    check_numbers(layer, arrays, "bn")


def test_operators_of_others_are_named_before_it_is_said_that_there_is_no_bn(tmp_path):
    nodes = [helper.make_node("Norm", ["x"], ["a"], domain="com.acme"), helper.make_node("Relu", ["a"], ["y"])]
    contents = read(saved(model_of(nodes, {}), tmp_path), Asked())
    assert contents.notes == (NOT_IN_THE_REST, "not examined, operators of other domains: com.acme.Norm")


@pytest.mark.parametrize("name", ["resnet50", "densenet121", "inception_v2", "shufflenet"])
def test_the_light_models_of_the_onnx_package_are_read(name):
    path = Path(onnx.__file__).parent / f"backend/test/data/light/light_{name}.onnx"
    if not path.is_file():
        pytest.skip("this onnx has no light models")
    nodes = [node for node in onnx.load(path).graph.node if node.op_type == "BatchNormalization"]
    assert nodes
    assert len(read(path, Asked()).layers) == len(nodes)


def test_fewer_values_than_the_shape_says_are_an_error(one, tmp_path):
    model, _ = one
    model.graph.initializer[2].raw_data = b"\0" * 4
    with pytest.raises(CheckpointError, match=r"has 1 values, but shape \[3\]"):
        read(saved(model, tmp_path), Asked())


@pytest.mark.parametrize("biased", [True, False])
def test_without_bn_it_says_whether_it_looks_folded(biased, tmp_path):
    arrays = {"w": np.ones((2, C, 1, 1), np.float32)} | ({"b": np.ones(2, np.float32)} if biased else {})
    contents = read(saved(model_of([helper.make_node("Conv", ["x", *arrays], ["y"])], arrays), tmp_path), Asked())
    assert contents.layers == ()
    assert any("looks folded" in note for note in contents.notes) == biased
