"""Checkpoints of other programs: whatever wrote them, the variables come out to the bit, or what is wrong is named."""

import pickle

import msgpack
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.flax
from flax import serialization
from flax.traverse_util import flatten_dict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.foreign_files import (
    make_state,
    make_variables,
    save_item,
    save_msgpack,
    save_safetensors,
    save_standard,
    save_steps,
)

from bncli.checkpoint import find_variables, foreign_arrays, is_foreign, read_foreign, sha256_tree
from bncli.checkpoint.foreign_arrays import ForeignCheckpoint
from bncli.errors import CheckpointError

VARIABLES = make_variables()
STATE = make_state(VARIABLES)
ITEMS = ocp.args.Composite(
    params=ocp.args.StandardSave(VARIABLES["params"]),
    batch_stats=ocp.args.StandardSave(VARIABLES["batch_stats"]),
    settings=ocp.args.JsonSave({"lr": 0.1}),
)
OTHER = make_variables(seed=1)
STEPS = {step: ocp.args.StandardSave(tree) for step, tree in ((2, OTHER), (9, OTHER), (10, VARIABLES))}
SETTINGS = {"rate": 0.1, "name": "run 7", "rates": [1.0, 2.0]}

# what it is -> who writes it; the format, the step and the place that are to be found
FORMATS = {
    "orbax": (lambda path: save_item(path, VARIABLES), "an Orbax directory", None, ""),
    "orbax, a directory an array": (lambda p: save_item(p, VARIABLES, use_ocdbt=False), "an Orbax directory", None, ""),
    "orbax, zarr 3": (lambda path: save_item(path, VARIABLES, use_zarr3=True), "an Orbax directory", None, ""),
    "orbax, of a state": (lambda path: save_standard(path, STATE), "an Orbax directory", None, ""),
    "orbax, nested": (
        lambda path: save_item(path, {"config": SETTINGS, "model": {"variables": VARIABLES}}),
        "an Orbax directory",
        None,
        "model/variables",
    ),
    "orbax, steps": (lambda path: save_steps(path, STEPS), "an Orbax directory, step 10", 10, ""),
    "orbax, steps of items": (
        lambda path: save_steps(path, {5: ITEMS}, step_prefix="run", step_format_fixed_length=6),
        "an Orbax directory, step 5",
        5,
        "",
    ),
    "flax": (lambda path: save_msgpack(path, VARIABLES), "a Flax msgpack file", None, ""),
    "safetensors": (lambda path: save_safetensors(path, VARIABLES), "a safetensors file", None, ""),
    "safetensors, with slashes": (
        lambda path: save_safetensors(path, {"model": VARIABLES}, separator="/"),
        "a safetensors file",
        None,
        "model",
    ),
    "flax, of a state": (lambda path: save_msgpack(path, STATE), "a Flax msgpack file", None, ""),
    "flax, nested": (
        lambda path: save_msgpack(path, {"state": {"params": VARIABLES}, "epoch": 3}),
        None,
        None,
        "state/params",
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_the_variables_come_out_to_the_bit(name, tmp_path, monkeypatch):
    write, description, step, place = FORMATS[name]
    write(tmp_path / "saved")
    for function in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, function, None)  # would fail
    assert is_foreign(tmp_path / "saved")
    found = read_foreign(tmp_path / "saved")
    assert (found.step, found.description) == (step, description or "a Flax msgpack file")
    assert find_variables(found)[0] == place
    assert sha256_tree(find_variables(found)[1]) == sha256_tree(VARIABLES)


def test_bfloat16_and_the_other_types_keep_their_bits(tmp_path):
    import jax.numpy as jnp

    types = (jnp.bfloat16, np.float16, np.float64, np.int32)
    tree = {"a": {str(k): np.arange(-3, 3).astype(dtype) for k, dtype in enumerate(types)}}
    save_msgpack(tmp_path / "file", tree)
    save_item(tmp_path / "directory", tree)
    for name in ("file", "directory"):
        assert sha256_tree(read_foreign(tmp_path / name).tree) == sha256_tree(tree)
    del tree["a"]["2"]  # JAX, which writes the file here, has no float64
    save_safetensors(tmp_path / "safetensors", tree)
    assert sha256_tree(read_foreign(tmp_path / "safetensors").tree) == sha256_tree(tree)


@pytest.mark.broad
def test_bnclis_own_checkpoints_are_not_foreign(copied, tmp_path):
    assert not is_foreign(copied)
    (copied / "config.json").write_text("{")  # damaged: its own reader says so
    assert not is_foreign(copied)
    (copied / "config.json").write_text('{"architectures": []}')
    assert is_foreign(copied)
    assert not is_foreign(tmp_path / "missing")


# Steps.


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """A manager's directory with the steps 2, 9 and 10; only to be read."""
    path = tmp_path_factory.mktemp("steps") / "run"
    save_steps(path, STEPS)
    return path


@pytest.mark.parametrize(("step", "expected"), [("best", 10), ("last", 10), ("9", 9), ("2", 2)])
def test_the_step_that_is_asked_for_is_read(steps, step, expected):
    found = read_foreign(steps, step=step)
    assert found.step == expected
    assert sha256_tree(find_variables(found)[1]) == sha256_tree(VARIABLES if expected == 10 else OTHER)


@pytest.mark.parametrize("step", ["3", "-1", "²", "ten"])
def test_a_step_that_is_not_there_is_refused_with_those_that_are(steps, step):
    with pytest.raises(CheckpointError, match=f"has no step '{step}'") as caught:
        read_foreign(steps, step=step)
    assert caught.value.remedy == "It has 2, 9, 10."


@pytest.mark.parametrize("write", [save_item, save_msgpack])
def test_what_is_one_save_has_no_steps(tmp_path, write):
    write(tmp_path / "saved", VARIABLES)
    with pytest.raises(CheckpointError, match="is one save and has no step '3'"):
        read_foreign(tmp_path / "saved", step="3")


# Damage.


def packed(value):
    return msgpack.packb(value)


def array(shape, content=b"\0" * 4):
    """An array as Flax writes it, with any shape."""
    return msgpack.ExtType(1, msgpack.packb((shape, "float32", content)))


DEEP = b"\x81\xa1a" * 2000 + b"\xc0"
CONTENTS = {
    "empty": (b"", "is no checkpoint that bncli reads"),
    "text": (b"weights", "is no checkpoint that bncli reads"),
    "zip": (b"PK\x03\x04", "is no checkpoint that bncli reads"),
    "pickle": (pickle.dumps({"params": {}}), "is a pickle, and opening one can run any program"),
    "truncated": (serialization.to_bytes(VARIABLES)[:-9], "is damaged, or not a Flax msgpack file"),
    "followed by more": (serialization.to_bytes(VARIABLES) + b"\0", "is damaged, or not a Flax msgpack file"),
    "map of four thousand million": (b"\xdf\xff\xff\xff\xff", "is damaged, or not a Flax msgpack file"),
    "list of four thousand million": (b"\x81\xa1a\xdd\xff\xff\xff\xff", "is damaged, or not a Flax msgpack file"),
    "array of a terabyte": (packed({"a": array((2**38,))}), "is damaged, or not a Flax msgpack file"),
    "array of objects": (packed({"a": msgpack.ExtType(1, msgpack.packb(((1,), "O", b"\0" * 8)))}), "is damaged"),
    "array of nothing": (packed({"a": msgpack.ExtType(1, b"")}), "is damaged"),
    "parts of an array": (packed({"__msgpack_chunked_array__": True}), "is damaged"),
    "one array": (
        packed({"__msgpack_chunked_array__": True, "shape": {"0": 1}, "chunks": {"0": array((1,))}}),
        "holds a single array",
    ),
    "nested two thousand deep": (DEEP, "is damaged, or not a Flax msgpack file"),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_a_file_that_is_no_tree_is_named(name, tmp_path):
    content, words = CONTENTS[name]
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=words) as caught:
        read_foreign(path)
    assert str(path) in caught.value.message
    assert "flax.serialization" in caught.value.remedy


SAFETENSORS = safetensors.flax.save(flatten_dict(VARIABLES, sep="."))


def test_one_name_is_not_an_array_and_a_group(tmp_path):
    save_safetensors(tmp_path / "file", {"params.Dense": np.ones(2), "params": {"Dense": {"bias": np.ones(2)}}})
    with pytest.raises(CheckpointError, match=r"params.Dense is both an array and a group of arrays"):
        read_foreign(tmp_path / "file")


def test_weights_of_pytorch_are_converted(tmp_path):
    save_safetensors(tmp_path / "resnet.safetensors", {"conv1.weight": np.ones(2)})
    with pytest.raises(CheckpointError, match=r"holds no params: its keys are conv1") as caught:
        find_variables(read_foreign(tmp_path / "resnet.safetensors"))
    assert f"bncli convert {tmp_path / 'resnet.safetensors'} OUT" in caught.value.remedy


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), whole=st.sampled_from([serialization.to_bytes(VARIABLES), SAFETENSORS]))
def test_damage_to_a_file_is_a_checkpoint_error_or_another_value(data, whole, tmp_path):
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "file"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    try:
        find_variables(read_foreign(path))
    except CheckpointError as error:
        told = error
    else:
        told = CheckpointError(str(path), remedy="none needed")
    assert str(path) in told.message
    assert told.remedy


def test_a_file_larger_than_the_memory_is_refused_before_it_is_read(tmp_path, monkeypatch):
    save_msgpack(tmp_path / "file", VARIABLES)
    monkeypatch.setattr(foreign_arrays, "available_memory", lambda: 100)
    with pytest.raises(CheckpointError, match=r"file: .* of memory needed to read it, 100 B available"):
        read_foreign(tmp_path / "file")


def test_a_path_with_nothing_there_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="missing: no such file or directory"):
        read_foreign(tmp_path / "missing")


# Where the variables are.

PARAMS, STATS = VARIABLES["params"], VARIABLES["batch_stats"]
BOTH = {"params": PARAMS, "batch_stats": STATS}
PLACES = {
    "top": ({**BOTH, "ema": BOTH}, ""),
    "one level down": ({"step": 1, "state": BOTH}, "state"),
    "two levels down": ({"state": {"model": BOTH, "opt": {"mu": {"params": PARAMS}}}}, "state/model"),
    "all in params": ({"params": BOTH, "opt_state": {}}, "params"),
    "apart": ({"params": PARAMS, "model_state": {"batch_stats": STATS}}, ""),
}


def holding(tree):
    return ForeignCheckpoint("some/file", "a Flax msgpack file", None, tree)


@pytest.mark.parametrize("name", PLACES)
def test_variables_are_found_nearest_to_the_top(name):
    tree, place = PLACES[name]
    assert find_variables(holding(tree)) == (place, BOTH)


TOO_DEEP = {"a": {"b": {"c": BOTH}}}
MISSING = {
    "no params": ({"weights": PARAMS, "step": 3}, "holds no params: its keys are weights, step"),
    "nothing": ({}, r"its keys are \(none\)"),
    "empty params": ({"params": {}, "batch_stats": STATS}, "holds no params"),
    "params that are no tree": ({"params": np.ones(3)}, "holds no params"),
    "too deep": (TOO_DEEP, "holds no params"),
    "no batch_stats": ({"params": PARAMS}, "no batch_stats: .* there is nothing to fold"),
    "empty batch_stats": ({"params": PARAMS, "batch_stats": {}}, "there is nothing to fold"),
    "two networks": ({"generator": BOTH, "critic": BOTH}, "in several places: generator, critic"),
}


@pytest.mark.parametrize("name", MISSING)
def test_a_tree_without_the_variables_of_one_network_is_refused_with_what_to_save(name):
    tree, words = MISSING[name]
    with pytest.raises(CheckpointError, match=rf"some/file .*{words}") as caught:
        find_variables(holding(tree))
    assert caught.value.remedy.startswith("Save ")


@pytest.mark.parametrize(
    ("name", "content", "remedy"),
    [
        ("model.pth", b"PK\x03\x04", "bncli convert {path} OUT"),
        ("old.PT", b"\x80\x02}q\x00.", "bncli convert {path} OUT"),
        ("model.keras", b"PK\x03\x04", "bncli.fold(model, example), bncli.recalibrate"),
        ("model.onnx", b"\x08\x08", "before its export"),
        ("state.pkl", b"\x80\x04N.", "may run code"),
    ],
)
def test_a_file_of_another_program_is_answered_with_its_own_way(name, content, remedy, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        read_foreign(path)
    assert remedy.format(path=path) in error.value.remedy
