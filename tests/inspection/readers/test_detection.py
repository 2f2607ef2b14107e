"""What lies at a path is told by its content; what is something else is named, with what to do about it."""

import gzip
import io
import json
import os
import pickle
import tarfile

import numpy as np
import pytest
import safetensors.numpy
from support.hostile import target_of, write_sound_files, zip_of

from bncli.errors import CheckpointError
from bncli.inspection.readers import READERS, Asked, detect, read


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return write_sound_files(tmp_path_factory.mktemp("sound"))


FORMATS = {
    "flax.msgpack": "flax-msgpack",
    "keras.h5": "keras",
    "keras.keras": "keras",
    "keras.weights.h5": "keras",
    "onnx.onnx": "onnx",
    "onnx_external": "onnx",
    "orbax": "orbax",
    "orbax_zarr": "orbax",
    "torch.pt": "pytorch",
    "torch_legacy.pt": "pytorch",
    "x.safetensors": "safetensors",
}


@pytest.mark.parametrize("name", FORMATS)
def test_content_says_the_format_whatever_the_name(name, sound, tmp_path):
    for other in ("x", "x.onnx", "x.pt", "x.index"):
        link = tmp_path / other
        link.symlink_to(target_of(sound[name]))
        assert detect(link) == FORMATS[name]


def test_bncli_directories_are_told_by_their_config(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"schema": "bncli.config/3"}))
    assert detect(tmp_path) == "bncli"
    (tmp_path / "config.json").write_text("{")  # its reader says what is wrong with it
    assert detect(tmp_path) == "bncli"


def test_every_format_has_a_reader():
    assert set(FORMATS.values()) | {"bncli", "equinox"} == set(READERS)


def records(*arrays):
    buffer = io.BytesIO()
    for array in arrays:
        np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize("before", [b"", b'{"width": 4}\n'], ids=["plain", "hyperparameters"])
def test_records_of_equinox_ask_for_their_model(before, tmp_path):
    path = tmp_path / "x"
    path.write_bytes(before + records(np.ones((3, 2)), np.ones(2)))
    assert detect(path) == "equinox"
    with pytest.raises(CheckpointError, match="is a file of Equinox, whose arrays have no names") as error:
        read(path, Asked())
    assert error.value.remedy.startswith("Add --model file.py:Class")


def test_one_array_is_no_file_of_equinox(tmp_path):
    path = tmp_path / "x.eqx"
    path.write_bytes(records(np.ones(3)))
    with pytest.raises(CheckpointError, match="is a single NumPy array"):
        detect(path)


def test_any_length_of_a_safetensors_header_will_do(tmp_path):
    """The first byte, which is of that length, is that of another format in many files."""
    path = tmp_path / "x"
    starts = set()
    for length in range(1, 260):
        safetensors.numpy.save_file({"x" * length: np.zeros(1, np.float32)}, path)
        starts.add(path.read_bytes()[:1])
        assert detect(path) == "safetensors"
    assert b"\x08" in starts


def tar():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("x"))
    return buffer.getvalue()


def npz():
    buffer = io.BytesIO()
    np.savez(buffer, mean=np.zeros(3))
    return buffer.getvalue()


OTHERS = {
    "nothing": (b"", "is empty"),
    "text": (b"hello", "is not a checkpoint"),
    "a pickle": (pickle.dumps([1]), "is a pickle"),
    "gzip": (gzip.compress(b"x"), "compressed by gzip"),
    "a page": (b"<!doctype html><html>", "error page of a failed download"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
    "tar": (tar(), "is a tar archive"),
    "npz": (npz(), "is an npz archive of arrays"),
    "npy": (b"\x93NUMPY\x01\x00", "is a single NumPy array"),
    "a SavedModel": (b"\x08\x01\x12\x80\x01", "the graph of a TensorFlow SavedModel"),
    "a list of checkpoints": (b'model_checkpoint_path: "ckpt-1"\n', "a list of TensorFlow checkpoints"),
    "TorchScript": (zip_of([("a/data.pkl", b""), ("a/constants.pkl", b"")]), "is a TorchScript program"),
    "torch.export": (
        zip_of([("a/models/model.json", b"{}"), ("a/archive_format", b"pt2")]),
        "is a torch.export program",
    ),
    "older torch.export": (zip_of([("serialized_exported_program.json", b"{}")]), "is a torch.export program"),
    "a zip archive": (zip_of([("model.safetensors", b"")]), "is a zip archive, but not one of Keras or PyTorch"),
    "half a zip archive": (zip_of([("a/data.pkl", bytes(100))])[:-30], "is a damaged zip archive"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_something_else_is_named(name, tmp_path):
    content, words = OTHERS[name]
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(CheckpointError, match=words) as caught:
        detect(tmp_path / "file")
    assert str(tmp_path / "file") in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize("name", ["ckpt-1.index", "ckpt-1.data-00000-of-00001"])
def test_parts_of_a_tensorflow_checkpoint_are_told_by_their_names(name, tmp_path):
    (tmp_path / name).write_bytes(bytes(100))
    with pytest.raises(CheckpointError, match="TensorFlow checkpoint") as caught:
        detect(tmp_path / name)
    assert ".weights.h5" in caught.value.remedy


@pytest.mark.filterwarnings("ignore")  # of torch, that TorchScript is old
def test_real_programs_of_torch_are_named(tmp_path):
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(3)).eval()
    torch.jit.script(model).save(tmp_path / "script")
    program = torch.export.export(model, (torch.ones(1, 3, 4, 4),))
    with (tmp_path / "program").open("wb") as file:
        torch.export.save(program, file)
    for name, words in (("script", "is a TorchScript program"), ("program", "is a torch.export program")):
        with pytest.raises(CheckpointError, match=words) as caught:
            detect(tmp_path / name)
        assert "state_dict" in caught.value.remedy


def test_a_directory_without_a_checkpoint_says_what_would_be_one(tmp_path):
    with pytest.raises(CheckpointError, match="holds no checkpoint") as caught:
        detect(tmp_path)
    assert "Orbax" in caught.value.remedy


def test_a_directory_with_a_file_to_read_names_it(tmp_path):
    (tmp_path / "README.md").write_text("hello")
    (tmp_path / "config.json").write_text('{"architectures": ["ResNet"]}')
    safetensors.numpy.save_file({"x": np.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="is a directory, not a checkpoint file") as caught:
        detect(tmp_path)
    assert str(tmp_path / "model.safetensors") in caught.value.remedy


@pytest.mark.parametrize("name", ["saved_model.pb", "ckpt-1.index"])
def test_a_directory_of_tensorflow_is_named(name, tmp_path):
    (tmp_path / name).write_bytes(b"\x08\x01\x12\x00")
    (tmp_path / "fingerprint.pb").write_bytes(b"\x08\xd4\xe9\xa1\xf1\x0b")
    with pytest.raises(CheckpointError, match="holds a TensorFlow checkpoint"):
        detect(tmp_path)


def test_what_is_not_there_or_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, words in (("none", "no such file"), ("pipe", "is neither a file nor a directory")):
        with pytest.raises(CheckpointError, match=words):
            detect(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_what_may_not_be_read_is_refused(tmp_path):
    (tmp_path / "file").touch(mode=0)
    with pytest.raises(CheckpointError, match="Permission denied"):
        detect(tmp_path / "file")
