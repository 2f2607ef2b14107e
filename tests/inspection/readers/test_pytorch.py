"""BN layers in what PyTorch saves, written here without it: the numbers are right, and nothing is called."""

import argparse
import os
import time
import zipfile
from collections import OrderedDict
from pathlib import PurePosixPath

import numpy as np
import pytest
from support.torch_files import NumpyArray, Object, batch_norm, module, state_dict, write_old_torch, write_torch

from bncli.errors import CheckpointError
from bncli.inspection.readers import Asked
from bncli.inspection.readers.inert_pickle import Global
from bncli.inspection.readers.pytorch import read

STATE = state_dict("bn", "layer1.0.bn1")


class Runs:
    """A call that would end the process."""

    def __reduce__(self):
        return os._exit, (1,)


def contents_of(content, path, write=write_torch, **options):
    write(path, content, **options)
    return read(path, Asked())


def names(contents):
    return [layer.name for layer in contents.layers]


def check_numbers(contents, state=STATE, names=("bn", "layer1.0.bn1")):
    """The layers hold the numbers of a state dict."""
    roles = {"mean": "running_mean", "var": "running_var", "scale": "weight", "bias": "bias"}
    for layer, name in zip(contents.layers, names, strict=True):
        for role, key in roles.items():
            np.testing.assert_array_equal(layer.stored()[role], state[f"{name}.{key}"].astype(float))
        assert layer.updates == 900


@pytest.mark.parametrize("write", [write_torch, write_old_torch])
def test_a_state_dict_is_read(write, tmp_path):
    contents = contents_of(STATE, tmp_path / "x", write)
    check_numbers(contents)
    assert not [note for note in contents.notes if "searched" in note]


def callbacks():
    early = {"best_score": np.float64(0.5), "wait_count": 3}
    return {"EarlyStopping": early, "ModelCheckpoint": {"dirpath": PurePosixPath("/runs")}}


history = Object(
    Global("mmengine.logging.history_buffer", "HistoryBuffer"), (), {"_log_history": NumpyArray(np.ones(3))}
)
CHECKPOINTS = {
    "timm": {"epoch": 1, "arch": "resnet50", "state_dict": STATE, "args": argparse.Namespace(lr=0.1, opt="sgd")},
    "Lightning": {
        "pytorch-lightning_version": "2.5",
        "state_dict": STATE,
        "hyper_parameters": argparse.Namespace(root=PurePosixPath("/data"), rate=np.float32(0.1)),
        "callbacks": callbacks(),
        "loops": OrderedDict(fit_loop={"state_dict": {}}),
    },
    "MMEngine": {"meta": {"seed": np.int64(3)}, "state_dict": STATE, "message_hub": {"log_scalars": {"loss": history}}},
    "with a call": {"state_dict": STATE, "other": Runs()},
}


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_training_checkpoints_are_read(name, protocol, tmp_path):
    contents = contents_of(CHECKPOINTS[name], tmp_path / "x", protocol=protocol)
    check_numbers(contents)


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("timm", "argparse.Namespace"),
        ("MMEngine", "mmengine.logging.history_buffer.HistoryBuffer"),
        ("with a call", f"{os.name}._exit"),
    ],
)
def test_objects_that_were_not_rebuilt_are_named(name, classes, tmp_path):
    contents = contents_of(CHECKPOINTS[name], tmp_path / "x")
    assert f"searched for tensors, but not rebuilt, objects of other classes: {classes}" in contents.notes


def network():
    """A network of whole modules: Conv, BN, and BN in a block, as YOLO pickles one."""
    conv = module("Conv2d", parameters={"weight": np.ones((4, 3, 3, 3), np.float32), "bias": None})
    block = module("Sequential", children={"bn1": batch_norm(seed=1, eps=1e-5, momentum=0.1)})
    model = module(
        "Sequential", children={"0": conv, "bn": batch_norm(seed=0), "layer1": module("M", children={"0": block})}
    )
    model.state["criterion"] = model  # a circle
    return model


def test_whole_modules_are_walked_and_say_their_settings(tmp_path):
    contents = contents_of({"epoch": 7, "model": network(), "ema": None, "train_args": {"lr0": 0.01}}, tmp_path / "x")
    assert names(contents) == ["bn", "layer1.0.bn1"]
    check_numbers(contents)
    first, second = contents.layers
    assert (first.epsilon, first.momentum) == (1e-3, pytest.approx(0.97))
    assert (second.epsilon, second.momentum) == (1e-5, pytest.approx(0.9))
    assert not [note for note in contents.notes if "assumed" in note]


def test_a_module_and_its_average_are_copies(tmp_path):
    contents = contents_of({"model": network(), "ema": network(), "updates": 3}, tmp_path / "x")
    assert names(contents) == ["bn", "layer1.0.bn1"]
    assert "read from model; ema holds the same layers again" in contents.notes


def test_modules_in_objects_of_any_class_are_found(tmp_path):
    average = Object(Global("somewhere", "ModelEMA"), (), {"ema": network(), "updates": 3})
    contents = contents_of({"trainer": [average]}, tmp_path / "x")
    assert names(contents) == ["bn", "layer1.0.bn1"]
    assert "searched for tensors, but not rebuilt, objects of other classes: somewhere.ModelEMA" in contents.notes


def test_modules_without_running_statistics_are_named(tmp_path):
    bare = module("BatchNorm2d", running_mean=None, running_var=None, track_running_stats=False)
    contents = contents_of(module("Net", children={"a": batch_norm(), "b": bare}), tmp_path / "x")
    assert names(contents) == ["a"]
    assert "without running statistics, so each batch is normalised by itself: b" in contents.notes


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["<f4", ">f4", "<f8", "<f2"])
def test_numpy_arrays_are_read(kind, order, tmp_path):
    state = {name: NumpyArray(np.asarray(array).astype(kind, order=order)) for name, array in STATE.items()}
    contents = contents_of({"state_dict": state}, tmp_path / "x")
    assert names(contents) == ["bn", "layer1.0.bn1"]
    np.testing.assert_allclose(contents.layers[0].mean, STATE["bn.running_mean"], rtol=1e-3)
    assert contents.layers[0].dtype == np.dtype(kind).name


def test_parts_that_are_not_read_are_named(tmp_path):
    inner = Object(Global("torch.storage", "_load_from_bytes"), (b"PK",))
    contents = contents_of({"other": [inner], "w": np.ones(3)}, tmp_path / "x")
    assert contents.notes[0].startswith("searched for tensors")
    assert contents.notes[1:] == (
        "no BN layer found in the parts that were read",
        "not examined: tensors that were pickled without torch.save",
    )


def test_a_file_of_objects_without_tensors_is_refused(tmp_path):
    with pytest.raises(
        CheckpointError, match=rf"is no state dict: it holds no tensors, but {os.name}\._exit"
    ) as caught:
        contents_of({"state_dict": Runs()}, tmp_path / "x")
    assert "state_dict()" in caught.value.remedy


def test_layers_in_lists_are_named_by_their_numbers(tmp_path):
    half = {"models": [STATE], "best": (1, {"state": STATE})}
    for content, prefixes in (([STATE, STATE], ("0", "1")), ((STATE,), ("",)), (half, ("models.0", "best.1.state"))):
        found = set(names(contents_of(content, tmp_path / "x")))
        assert found == {f"{prefix}.{name}".lstrip(".") for prefix in prefixes for name in ("bn", "layer1.0.bn1")}


def rebuilt(function, *args, module="torch._utils"):
    """A tensor that is made by a call."""
    return lambda array: Object(Global(module, function), tuple(array if arg is Ellipsis else arg for arg in args))


REBUILT = {
    "a parameter": rebuilt("_rebuild_parameter", ..., True, OrderedDict()),
    "a parameter with attributes": rebuilt("_rebuild_parameter_with_state", ..., True, OrderedDict(), {"tag": 1}),
    "of a TPU": rebuilt("_rebuild_xla_tensor", ..., "torch.float32", "xla:0", False),
    "of a device without storages": lambda array: rebuilt("_rebuild_device_tensor_from_numpy", ..., None, "x", False)(
        NumpyArray(array)
    ),
    "in lists of an unknown class": lambda array: Object(Global("x", "Box"), (array,)),
}


@pytest.mark.parametrize("kind", REBUILT)
def test_tensors_are_rebuilt_by_the_calls_that_make_them(kind, tmp_path):
    state = {name: REBUILT[kind](array) for name, array in STATE.items()}
    contents = contents_of({"state_dict": state}, tmp_path / "x")
    if kind.startswith("in lists"):  # found, but not under a name of PyTorch
        assert contents.layers == ()
    else:
        check_numbers(contents)


def nested(content, depth):
    for _ in range(depth):
        content = [content]
    return content


def test_containers_deeper_than_any_network_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="more than 64 levels"):
        contents_of(nested(STATE, 70), tmp_path / "x")


def test_objects_deeper_than_any_network_are_a_note(tmp_path):
    deep = Object(Global("x", "Graph"), (), {"next": nested(1, 70)})
    contents = contents_of({"state_dict": STATE, "graph": deep}, tmp_path / "x")
    check_numbers(contents)
    assert "not examined: objects nested deeper than 64 levels" in contents.notes


def test_a_member_that_claims_more_than_the_file_is_refused(tmp_path):
    write_torch(tmp_path / "sound", STATE)
    with zipfile.ZipFile(tmp_path / "sound") as sound, zipfile.ZipFile(tmp_path / "bomb", "w") as bomb:
        for member in sound.infolist():
            bomb.writestr(member.filename, sound.read(member), zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="is compressed, or claims"):
        read(tmp_path / "bomb", Asked())


@pytest.mark.parametrize("key", ["archive/data/2", "archive/data.pkl"])
def test_a_file_that_lacks_numbers_is_refused(key, tmp_path):
    write_torch(tmp_path / "sound", STATE)
    with zipfile.ZipFile(tmp_path / "sound") as sound, zipfile.ZipFile(tmp_path / "cut", "w") as cut:
        for member in sound.infolist():
            content = sound.read(member)
            cut.writestr(member.filename, content[:-4] if member.filename == key else content)
    with pytest.raises(CheckpointError, match="the file is damaged"):
        read(tmp_path / "cut", Asked())


def test_a_tensor_beyond_its_storage_is_refused(tmp_path):
    beyond = np.lib.stride_tricks.as_strided(np.ones(4, np.float32), (4,), (8,), writeable=False)
    with pytest.raises(CheckpointError, match=r"a tensor of shape \[4\] in a storage of 4 numbers"):
        contents_of({"bn.running_mean": beyond}, tmp_path / "x")


def test_the_time_grows_with_the_number_of_tensors_only(tmp_path):
    """Opening the archive once a tensor took 160 s for 400 layers among 13,000 members."""
    state = state_dict(*(f"layer{number}.bn" for number in range(100)))
    moments = {number: {"exp_avg": np.ones(3, np.float32)} for number in range(3000)}
    write_torch(tmp_path / "x", {"state_dict": state, "optimizer": {"state": moments}, "history": [0.5] * 100_000})
    started = time.process_time()
    assert len(read(tmp_path / "x", Asked()).layers) == 100
    assert time.process_time() - started < 5
