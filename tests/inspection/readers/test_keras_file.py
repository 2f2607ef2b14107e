"""The layers read from a Keras file are the model's own: their names, order, numbers and settings."""

import io
import json
import os
import zipfile

import h5py
import numpy as np
import pytest
from support.breadth import broad

from bncli.errors import CheckpointError
from bncli.inspection import readers
from bncli.inspection.readers import Asked
from bncli.inspection.readers.assembly import NOT_IN_THE_REST
from bncli.inspection.readers.keras_file import CONFIG, WEIGHTS, read

# Keras' variables are read by NumPy 2 with a method that has not its newest arguments.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

RNG = np.random.default_rng(0)
IMAGE = (8, 8, 3)
NUMBERED = "batch_normalization"


@pytest.fixture
def keras(monkeypatch):
    """Keras on JAX, its counts of names at zero, with kernels of zeros: random ones take ten times as long to make."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    keras.utils.clear_session()
    monkeypatch.setattr(keras.initializers.VarianceScaling, "__call__", keras.initializers.Zeros().__call__)
    return keras


def batch_norms(model):
    """In the order in which the model has them."""
    return [layer for layer in model._flatten_layers() if "BatchNorm" in type(layer).__name__]


def save(model, path):
    """The model with random numbers in its BN layers, which is returned."""
    for weight in (weight for norm in batch_norms(model) for weight in norm.weights):
        weight.assign(np.abs(RNG.normal(size=weight.shape)) + 0.1)
    (model.save_weights if path.name.endswith(".weights.h5") else model.save)(path)
    return model


def numbers(array):
    return None if array is None else np.asarray(array).astype(np.float64)


def check(layers, norms, *, settings=True):
    """The layers read are the model's own."""
    assert [layer.name.split("/")[-1] for layer in layers] == [norm.name for norm in norms]
    for layer, norm in zip(layers, norms, strict=True):
        read_and_own = [
            (layer.mean, norm.moving_mean),
            (layer.var, norm.moving_variance),
            (layer.scale, norm.gamma if norm.scale else None),
            (layer.bias, norm.beta if norm.center else None),
        ]
        for array, own in read_and_own:
            np.testing.assert_array_equal(array, numbers(own), err_msg=layer.name)
        assert layer.dtype == norm.moving_mean.dtype
        if settings:
            assert (layer.epsilon, layer.momentum) == (norm.epsilon, norm.momentum)


def sequential(keras, *layers, **kwargs):
    return keras.Sequential([keras.Input(IMAGE), *layers], **kwargs)


def plain(keras):
    kl = keras.layers
    others = [kl.GroupNormalization(1), kl.LayerNormalization(), kl.Normalization(), kl.PReLU(), kl.Conv2D(4, 3)]
    return sequential(keras, *others, kl.BatchNormalization(axis=1, epsilon=0.5), kl.BatchNormalization(momentum=0.5))


def misnamed(keras):
    kl = keras.layers
    return sequential(
        keras,
        kl.GroupNormalization(1, name="bn"),
        kl.LayerNormalization(name="batch_norm"),
        kl.BatchNormalization(name="layer_norm"),
        kl.BatchNormalization(name="x", scale=False),
        kl.BatchNormalization(name="auc", scale=False, center=False),
    )


def many(keras):
    settings = [{"epsilon": 1e-3 * (n + 1), "momentum": 0.05 * n} for n in range(13)]
    return sequential(keras, *[keras.layers.BatchNormalization(**each) for each in settings])


def shared(keras):
    kl = keras.layers
    x = keras.Input(IMAGE)
    first, both = kl.BatchNormalization(name="z", epsilon=0.1)(x), kl.BatchNormalization(name="both", epsilon=0.3)
    second = kl.BatchNormalization(name="a", epsilon=0.2)(first)
    return keras.Model(x, kl.Add()([both(first), both(second)]))


def nested(keras):
    """Layers of one name in two models and outside them."""
    kl = keras.layers
    inner = [sequential(keras, kl.BatchNormalization(name="bn", epsilon=n), name=f"inner{n}") for n in (1, 2)]
    x = keras.Input(IMAGE)
    return keras.Model(x, inner[1](kl.BatchNormalization(name="bn", momentum=0.5)(inner[0](x))))


def nested_twice(keras):
    """A model in a model in a model; an .h5 file names only the outermost and the layer."""
    kl = keras.layers
    inner = sequential(keras, kl.BatchNormalization(name="bn", epsilon=0.25, momentum=0.5), name="inner")
    middle = sequential(keras, inner, name="middle")
    return sequential(keras, middle, kl.BatchNormalization(name="last"))


def wrapped(keras):
    kl = keras.layers
    inner = keras.Sequential([keras.Input((8, 3)), kl.BatchNormalization(epsilon=0.25)])
    norm = kl.BatchNormalization(epsilon=0.5)
    recurrent = kl.Bidirectional(kl.LSTM(2, return_sequences=True))
    return sequential(
        keras,
        kl.TimeDistributed(norm),
        kl.TimeDistributed(inner),
        kl.TimeDistributed(recurrent),
        kl.BatchNormalization(),
    )


def own_layers(keras):
    """A layer of the user's own between two of Keras: what it holds is not in the configuration."""

    class Block(keras.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.norm = keras.layers.BatchNormalization()

        def call(self, x):
            return self.norm(x)

    kl = keras.layers
    x = keras.Input(IMAGE)
    names = [kl.BatchNormalization(name="before"), Block(name="block"), kl.BatchNormalization(name="after")]
    y = x
    for layer in names:
        y = layer(y)
    return keras.Model(x, y)


def subclassed(keras):
    """Layers in attributes, lists and dicts, beside others that look like them."""
    kl = keras.layers

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.z = kl.BatchNormalization()
            self.blocks = [kl.BatchNormalization(scale=False), [kl.BatchNormalization()]]
            self.named = {"b": kl.BatchNormalization(), "a": kl.BatchNormalization(scale=False, center=False)}
            self.bn = kl.GroupNormalization(1)
            self.bn2 = kl.LayerNormalization()
            self.area = keras.metrics.AUC()
            self.precision = keras.metrics.PrecisionAtRecall(0.5)

        def call(self, x):
            for layer in (self.z, self.blocks[0], self.blocks[1][0], *self.named.values(), self.bn, self.bn2):
                x = layer(x)
            return x

    model = Net()
    model(np.ones((1, *IMAGE)))
    return model


def trained(keras):
    """With the state of an optimizer and of a metric."""
    model = sequential(keras, keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization())
    model.compile(keras.optimizers.Adam(), "mse", metrics=[keras.metrics.AUC()])
    model.optimizer.build(model.trainable_variables)
    return model


def precisions(keras):
    dtypes = ("float16", "bfloat16", "mixed_float16", "mixed_bfloat16")
    return sequential(keras, *[keras.layers.BatchNormalization(dtype=dtype) for dtype in dtypes])


# model -> the names of its layers
MODELS = {
    many: [NUMBERED, *(f"{NUMBERED}_{n}" for n in range(1, 13))],
    misnamed: ["layer_norm", "x", "auc"],
    nested: ["inner1/bn", "bn", "inner2/bn"],
    own_layers: ["before", f"block/{NUMBERED}", "after"],
    plain: [NUMBERED, f"{NUMBERED}_1"],
    precisions: [NUMBERED, *(f"{NUMBERED}_{n}" for n in range(1, 4))],
    shared: ["z", "a", "both"],
    subclassed: [NUMBERED, *(f"{NUMBERED}_{n}" for n in range(1, 5))],
    trained: [NUMBERED],
    wrapped: [f"time_distributed/{NUMBERED}_1", f"time_distributed_1/sequential/{NUMBERED}", f"{NUMBERED}_2"],
}


@pytest.mark.sample(3)
@pytest.mark.parametrize("build", MODELS, ids=lambda build: build.__name__)
def test_the_layers_are_the_model_s_own(build, keras, tmp_path):
    """Whole models, new and old; ε and momentum only where Keras itself would find them again."""
    model = build(keras)
    of_name = {norm.name: norm for norm in batch_norms(model)}
    for suffix in (".keras", ".h5"):
        save(model, tmp_path / f"model{suffix}")
        layers = read(tmp_path / f"model{suffix}", Asked()).layers
        assert [layer.name for layer in layers] == MODELS[build]
        norms = batch_norms(model) if build is nested else [of_name[name.split("/")[-1]] for name in MODELS[build]]
        check(layers, norms, settings=build is not subclassed)


FLAT = [build for build in MODELS if build is not nested]


@pytest.mark.parametrize("build", broad(FLAT, lambda build: build in FLAT[::3]), ids=lambda build: build.__name__)
def test_weights_alone_have_the_same_layers(build, keras, tmp_path):
    model = save(build(keras), tmp_path / "model.weights.h5")
    contents = read(tmp_path / "model.weights.h5", Asked())
    of_name = {norm.name: norm for norm in batch_norms(model)}
    assert sorted(layer.name for layer in contents.layers) == sorted(MODELS[build])
    check(contents.layers, [of_name[layer.name.split("/")[-1]] for layer in contents.layers], settings=False)
    assert "assumed, Keras's defaults" in contents.notes[-1]


@pytest.mark.parametrize("file", ["model.keras", "model.h5"])
def test_settings_are_found_whatever_lies_between_the_outermost_model_and_a_layer(file, keras, tmp_path):
    model = nested_twice(keras)
    save(model, tmp_path / file)
    first, second = read(tmp_path / file, Asked()).layers
    assert (first.name.split("/")[-1], first.epsilon, first.momentum) == ("bn", 0.25, 0.5)
    assert (second.name, second.epsilon) == ("last", 1e-3)


def test_a_layer_that_could_be_bn_is_named_before_it_is_said_that_there_is_none(tmp_path):
    with h5py.File(tmp_path / "x.weights.h5", "w") as file:
        for layer in ("scaling", "layer_normalization"):
            for number in range(2):
                file[f"layers/{layer}/vars/{number}"] = np.ones(3)
    contents = read(tmp_path / "x.weights.h5", Asked())
    assert contents.layers == ()
    assert contents.notes == (
        NOT_IN_THE_REST,
        "not recognised as BN, because the file names neither its arrays nor its class: scaling",
    )


def test_of_three_arrays_without_a_configuration_one_is_guessed_with_a_note(keras, tmp_path):
    save(sequential(keras, keras.layers.BatchNormalization(center=False)), tmp_path / "model.weights.h5")
    contents = read(tmp_path / "model.weights.h5", Asked())
    assert contents.layers[0].scale is None
    assert contents.notes[0] == f"three arrays, the first of which can be γ or β, and is assumed to be β: {NUMBERED}"


@pytest.mark.broad
@pytest.mark.parametrize("file", ["model.keras", "model.h5", "model.weights.h5"])
def test_a_large_network_is_read_in_the_order_of_its_layers(file, keras, tmp_path):
    model = keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3), classes=2)
    save(model, tmp_path / file)
    check(readers.read(tmp_path / file, Asked()).layers, batch_norms(model), settings="weights" not in file)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["DenseNet121", "EfficientNetB0", "InceptionV3", "NASNetMobile", "ResNet50V2"])
def test_every_network_of_keras_is_read(name, keras, tmp_path):
    size = 75 if name == "InceptionV3" else 32
    model = getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3), classes=2)
    for file in ("model.keras", "model.h5"):
        save(model, tmp_path / file)
        check(read(tmp_path / file, Asked()).layers, batch_norms(model))


# Files that no library here writes: of Keras 2, and damaged ones.

GAMMA, BETA, MEAN, VAR = (np.full(3, value, np.float32) for value in (3, 4, 1, 2))
WHOLE = {"gamma:0": GAMMA, "beta:0": BETA, "moving_mean:0": MEAN, "moving_variance:0": VAR}
IN_ORDER = (GAMMA, BETA, MEAN, VAR)


def norm_config(name, **config):
    return {"class_name": "BatchNormalization", "config": {"name": name, **config}}


def model_config(*layers, name="model", kind="Functional"):
    return {"class_name": kind, "config": {"name": name, "layers": list(layers)}}


def write_keras_2(path, layers, config=None):
    """A whole model by {layer: {name of an array in it: array}}, with the lists of names that Keras 2 makes."""
    with h5py.File(path, "w") as file:
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [name.encode() for name in layers]
        for name, arrays in layers.items():
            layer = group.create_group(name)
            layer.attrs["weight_names"] = [weight.encode() for weight in arrays]
            for weight, array in arrays.items():
                layer[weight] = array
        file["optimizer_weights/Adam/bn/moving_mean:0"] = file["optimizer_weights/Adam/bn/moving_variance:0"] = MEAN
        if config is not None:
            file.attrs["model_config"] = json.dumps(config)


def under(prefix, names=tuple(WHOLE)):
    return {f"{prefix}/{name}": WHOLE[name] for name in names}


def check_whole(layers):
    """They are the layers that are written by hand here."""
    for layer in layers:
        for array, own in zip((layer.scale, layer.bias, layer.mean, layer.var), IN_ORDER, strict=True):
            np.testing.assert_array_equal(array, own)


def test_keras_2_weights_are_in_the_order_of_the_layers(tmp_path):
    trained = ["gamma:0", "beta:0"]
    inner = {
        name: array
        for names in (trained, [name for name in WHOLE if name not in trained])
        for layer in ("y", "b")
        for name, array in under(layer, names).items()
    }
    write_keras_2(
        tmp_path / "x.h5",
        {"z": under("z"), "conv": {"conv/kernel:0": np.ones((1, 1, 3, 3))}, "net": inner, "a": under("a")},
    )
    layers = read(tmp_path / "x.h5", Asked()).layers
    assert [layer.name for layer in layers] == ["z", "net/y", "net/b", "a"]
    check_whole(layers)


@pytest.mark.parametrize(
    ("prefix", "config", "label"),
    [
        ("bn", norm_config("bn", epsilon=0.5), "bn"),
        ("bn_1", norm_config("bn", epsilon=0.5), "bn/bn_1"),  # made twice in one TensorFlow graph
        ("net/scope/bn", norm_config("bn", epsilon=0.5), "bn"),
        ("x", model_config(norm_config("x", epsilon=0.5), norm_config("y"), name="bn"), "bn/x"),
        (
            "bn",
            {"class_name": "TimeDistributed", "config": {"name": "bn", "layer": norm_config("x", epsilon=0.5)}},
            "bn",
        ),
    ],
)
def test_keras_2_layers_have_the_settings_of_their_configuration(prefix, config, label, tmp_path):
    write_keras_2(tmp_path / "x.h5", {"bn": under(prefix)}, model_config(norm_config("other"), config))
    contents = read(tmp_path / "x.h5", Asked())
    (layer,) = contents.layers
    assert (layer.name, layer.epsilon) == (label, 0.5)
    check_whole([layer])


def write_archive(path, weights, config=None, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(WEIGHTS, weights)
        if config is not None:
            archive.writestr(CONFIG, config if isinstance(config, bytes) else json.dumps(config))


def numbered(groups):
    """A weights file with a BN layer in each group, whose means are 0, 1, 2 and so on."""
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for count, group in enumerate(groups):
            for number, array in enumerate((GAMMA, BETA, np.full(3, count, np.float32), VAR)):
                file[f"{group}/vars/{number}"] = array
    return content.getvalue()


@pytest.mark.parametrize(
    ("pattern", "step"),
    [("layers/{}", 1), ("_layer_checkpoint_dependencies/{}", 2), (r"_layer_checkpoint_dependencies\{}", 2)],
    ids=["2.15", "2.12", "2.12 on Windows"],
)
def test_files_of_keras_2_without_names_have_those_of_their_configuration(pattern, step, tmp_path):
    """Keras 2.12 counted layers with weights twice."""
    groups = [pattern.format(NUMBERED + (f"_{step * number}" if number else "")) for number in range(12)]
    config = model_config(*[norm_config(f"norm{number}", epsilon=number / 16) for number in range(12)])
    write_archive(tmp_path / "x.keras", numbered(groups), config)
    layers = read(tmp_path / "x.keras", Asked()).layers
    assert [(layer.name, layer.epsilon, layer.mean[0]) for layer in layers] == [
        (f"norm{number}", number / 16, number) for number in range(12)
    ]


def test_batch_renormalisation_has_three_arrays_more(tmp_path):
    with h5py.File(tmp_path / "x.weights.h5", "w") as file:
        for number, array in enumerate((*IN_ORDER, VAR, MEAN, VAR)):
            file[f"layers/{NUMBERED}/vars/{number}"] = array
    (layer,) = read(tmp_path / "x.weights.h5", Asked()).layers
    check_whole([layer])


def test_a_layer_with_other_arrays_than_keras_has_is_left_out_with_a_note(tmp_path):
    config = model_config(norm_config("whole"), norm_config("other", scale=False))
    write_archive(tmp_path / "x.keras", numbered([f"layers/{NUMBERED}", f"layers/{NUMBERED}_1"]), config)
    contents = read(tmp_path / "x.keras", Asked())
    assert [layer.name for layer in contents.layers] == ["whole"]
    assert "left out, because its arrays do not match Keras' BN layer: other" in contents.notes


NORM = model_config(norm_config("bn"))
SOUND = numbered([f"layers/{NUMBERED}"])

# what -> (what is written, with a configuration; what is said)
DAMAGED = {
    "a bomb": ((b"\x89HDF" + bytes(50 << 20), NORM, zipfile.ZIP_DEFLATED), "model.weights.h5 claims 52,428,804 bytes"),
    "no HDF5": ((b"x" * 5000, NORM), "damaged: "),
    "half the weights": ((SOUND[: len(SOUND) // 2], NORM), "damaged: "),
    "no JSON": ((SOUND, b"{"), "the configuration of the Keras model is damaged"),
    "a deep configuration": ((SOUND, b'{"a":' * 100_000), "the configuration of the Keras model is damaged"),
    "a large configuration": ((SOUND, b" " * (65 << 20), zipfile.ZIP_DEFLATED), "config.json claims 68,157,440 bytes"),
    "ε is a text": ((SOUND, model_config(norm_config("bn", epsilon="1e-3"))), "epsilon of bn is '1e-3'"),
    "momentum is NaN": ((SOUND, model_config(norm_config("bn", momentum=float("nan")))), "momentum of bn is 'nan'"),
}


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_refused_by_name(name, tmp_path):
    content, said = DAMAGED[name]
    write_archive(tmp_path / "x.keras", *content)
    with pytest.raises(CheckpointError, match=r"x\.keras") as caught:
        readers.read(tmp_path / "x.keras", Asked())
    assert said in str(caught.value)
    assert caught.value.remedy


def test_a_sound_file_is_read_in_a_process_of_its_own_as_it_is_here(tmp_path):
    write_archive(tmp_path / "x.keras", SOUND, NORM)
    apart, here = readers.read(tmp_path / "x.keras", Asked()), read(tmp_path / "x.keras", Asked())
    assert (
        (apart.format, apart.framework, apart.notes)
        == (here.format, here.framework, here.notes)
        == ("keras",) * 2 + (here.notes,)
    )
    np.testing.assert_array_equal(apart.layers[0].mean, here.layers[0].mean)
