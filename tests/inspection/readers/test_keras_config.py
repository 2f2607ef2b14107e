"""A Keras configuration says where each layer is in a weights file, what it is called, and what BN needs."""

import json

import pytest

from bncli.errors import CheckpointError
from bncli.inspection.readers.keras_config import Configuration, Configured, parse


def node(class_name, name, **config):
    return {"class_name": class_name, "config": {"name": name, **config}}


def norm(name="bn", **config):
    return node("BatchNormalization", name, epsilon=0.5, momentum=0.25, **config)


def model(*layers):
    return node("Functional", "model", layers=list(layers))


def configured(*layers):
    return parse(json.dumps(model(*layers))).layers


STATISTICS = ("moving_mean", "moving_variance")


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("renorm", [True, False])
def test_a_bn_layer_has_the_arrays_that_its_flags_say(scale, center, renorm):
    (layer,) = configured(norm(scale=scale, center=center, renorm=renorm))
    assert layer.is_batch_norm
    assert (layer.epsilon, layer.momentum) == (0.5, 0.25)
    more = ("moving_stddev", "renorm_mean", "renorm_stddev") if renorm else ()
    assert layer.variables == (*["gamma"] * scale, *["beta"] * center, *STATISTICS, *more)


def test_flags_that_are_not_said_are_on_and_settings_are_unknown():
    (layer,) = configured(node("BatchNormalization", "bn"))
    assert layer.variables == ("gamma", "beta", *STATISTICS)
    assert (layer.epsilon, layer.momentum) == (None, None)


@pytest.mark.parametrize(
    ("layer", "is_batch_norm"),
    [
        (node("BatchNormalizationV1", "x"), True),
        (node("SyncBatchNormalization", "x"), True),
        (node("Custom>Frozen", "x", moving_variance_initializer={"class_name": "Ones", "config": {}}), True),
        (node("GroupNormalization", "bn"), False),
        (node("LayerNormalization", "batch_normalization"), False),
    ],
)
def test_the_class_says_what_is_bn_and_not_the_name(layer, is_batch_norm):
    assert configured(layer)[0].is_batch_norm is is_batch_norm


def test_paths_are_numbered_by_class_as_keras_saves_them():
    inner = node("Sequential", "inner", layers=[norm("bn")])
    wrapped = node("TimeDistributed", "td", layer=norm("bn"))
    blocks = [node("Custom>MyBlock", f"block{n}", parts=[norm("x"), norm("y")], norm=norm("bn")) for n in range(2)]
    layers = configured(norm("first"), inner, node("Dense", "dense"), wrapped, *blocks, norm("last"))
    assert {"/".join(layer.names): "/".join(layer.path) for layer in layers if layer.is_batch_norm} == {
        "first": "layers/batch_normalization",
        "inner/bn": "layers/sequential/layers/batch_normalization",
        "td/bn": "layers/time_distributed/layer",
        "block0/x": "layers/my_block/parts/batch_normalization",
        "block0/y": "layers/my_block/parts/batch_normalization_1",
        "block0/bn": "layers/my_block/norm",
        "block1/x": "layers/my_block_1/parts/batch_normalization",
        "block1/y": "layers/my_block_1/parts/batch_normalization_1",
        "block1/bn": "layers/my_block_1/norm",
        "last": "layers/batch_normalization_1",
    }


def test_a_sequential_model_may_be_a_list():
    (layer,) = parse(json.dumps({"class_name": "Sequential", "config": [norm("bn")]})).layers
    assert (layer.path, layer.names) == (("layers", "batch_normalization"), ("bn",))


A, B, C = (Configured(("layers", name), (name,), STATISTICS) for name in "abc")
IN = Configured(("layers", "net", "layers", "b"), ("net", "b"), STATISTICS)
NET = Configured(("layers", "net"), ("net",))
NO_BN = Configured(("layers", "d"), ("d",))


@pytest.mark.parametrize(
    ("path", "names", "found"),
    [
        ("layers/b", "b", B),
        ("layers/b", "", B),  # a file without names
        ("", "b", B),  # an older one, without paths
        ("layers/a", "b", B),  # counted in another way: the name is the layer's own
        ("", "net/b", IN),
        ("", "a/a_1", A),  # a scope of TensorFlow's
        ("layers/net", "net", NET),
        ("", "net", IN),  # Keras 2 names what is in a wrapper by that
        ("", "d", NO_BN),
        ("", "e", None),
        ("layers/e", "e/b", None),
        ("", "", None),
    ],
)
def test_a_layer_is_found_by_path_and_names(path, names, found):
    configuration = Configuration((A, B, C, NET, IN, NO_BN))
    assert configuration.find(*(tuple(text.split("/")) if text else () for text in (path, names))) is found


def test_a_name_that_several_layers_have_finds_none_without_its_path():
    twice = [Configured(("x", str(number)), ("bn",), STATISTICS) for number in range(2)]
    configuration = Configuration(tuple(twice))
    assert configuration.find((), ("bn",)) is None
    assert configuration.find(("x", "1"), ("bn",)) is twice[1]


def test_what_is_in_an_unknown_layer_stands_where_that_does():
    configuration = Configuration((A, NET, B))
    assert configuration.position(("layers", "net", "x"), ()) == 1
    assert configuration.position((), ("net", "x")) == 1
    assert configuration.position(("elsewhere",), ("x",)) == 3


NESTED = norm()
for _ in range(70):
    NESTED = model(NESTED)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"{", "JSONDecodeError"),
        (b"\xff{", "Unicode"),
        (b"[" * 200_000, "RecursionError"),
        (b'{"a":' * 200_000, "RecursionError"),
        (b"[]", "AttributeError"),
        (b"3", "AttributeError"),
        (3, "TypeError"),
        (json.dumps(NESTED), "more than 64 levels"),
    ],
)
def test_what_is_no_configuration_is_refused(text, said):
    with pytest.raises(CheckpointError, match=f"the configuration of the Keras model is damaged: .*{said}") as caught:
        parse(text)
    assert caught.value.remedy


@pytest.mark.parametrize("name", ["epsilon", "momentum"])
@pytest.mark.parametrize("value", ["1e-3", float("nan"), float("inf"), -1e-3, [], {}, 10**400])
def test_a_setting_that_is_no_number_is_refused(name, value):
    layer = node("BatchNormalization", "bn", **{name: value})
    with pytest.raises(CheckpointError) as caught:
        configured(layer)
    assert caught.value.remedy


@pytest.mark.parametrize(
    "config", [None, 3, "x", [], [1], {}, {"layers": 3}, {"layers": [3, None, "x"]}, {"layers": {}}]
)
def test_what_describes_no_layer_is_passed_over(config):
    assert configured({"class_name": "Thing", "config": config}, norm())[-1].is_batch_norm
