"""Whatever a file holds, what comes of it is a report, or an error with a remedy: nothing is run, nothing blows up.

Damaged files are seeded mutations of sound ones; hostile ones are made by hand below.
"""

import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import tarfile
import warnings
import zipfile
import zlib
from pathlib import Path

import h5py
import msgpack
import numpy as np
import pytest
import tensorstore
from support import compile_time
from support.foreign_files import make_variables, save_item
from support.hostile import Outcome, mutated_files, onnx_model, target_of, write_sound_files, zip_of

GIB = 1 << 30
TESTS = Path(__file__).parents[2]


def examine(paths, how, *, timeout):
    """What came of each file, read in another process."""
    paths = [str(path) for path in paths]
    result = subprocess.run(
        [sys.executable, "-m", "support.hostile", how],
        input=json.dumps(paths),
        stdout=subprocess.PIPE,
        text=True,
        cwd=TESTS,
        env={**compile_time.children(), "PYTHONPATH": str(TESTS.parent)},
        timeout=timeout,
        check=True,
    )
    outcomes = {line["path"]: Outcome(**line) for line in map(json.loads, result.stdout.splitlines())}
    return [outcomes[path] for path in paths]


def check(outcomes):
    """No file does more than it may, and the message of each that is refused can be read."""
    for outcome in outcomes:
        assert outcome.verdict == "report" or outcome.verdict.startswith("refused: "), outcome
        assert len(outcome.verdict) < 2000, outcome
        assert outcome.peak < GIB, outcome
        assert outcome.cpu < 5, outcome


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return write_sound_files(tmp_path_factory.mktemp("sound"))


def test_the_sound_files_are_read(sound):
    outcomes = examine([target_of(path) for path in sound.values()], "forked", timeout=120)
    check(outcomes)
    assert {outcome.verdict for outcome in outcomes} == {"report"}


@pytest.mark.broad
def test_damaged_files_are_refused(sound, tmp_path):
    files = mutated_files(sound, tmp_path, count=300)
    outcomes = examine(files, "forked", timeout=240)
    check(outcomes)
    refused = sum(outcome.verdict != "report" for outcome in outcomes)
    assert 200 <= refused < 300  # some bytes are a weight's, or mean nothing


@pytest.mark.slow
def test_a_thousand_damaged_files_are_refused_as_users_read_them(sound, tmp_path):
    outcomes = examine(mutated_files(sound, tmp_path, count=1000, seed=1), "public", timeout=3600)
    check(outcomes)
    assert max(outcome.wall for outcome in outcomes) < 5


class Program:
    """What runs a program where it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def program(path, protocol=2):
    """A pickle that makes a file beside ``path`` where it is opened."""
    return pickle.dumps({"state_dict": Program(marker_of(path))}, protocol=protocol)


def marker_of(path):
    return path.with_name(f"{path.name}.ran")


def pickled(protocol):
    return lambda path: path.write_bytes(program(path, protocol))


def torch_zip(path):
    path.write_bytes(zip_of([("a/data.pkl", program(path)), ("a/byteorder", b"little"), ("a/version", b"3\n")]))


def torch_zip_with_eval(path):
    text = f"open({str(marker_of(path))!r}, 'w')".encode()
    content = b"\x80\x02cbuiltins\neval\nX" + struct.pack("<I", len(text)) + text + b"\x85R."
    path.write_bytes(zip_of([("a/data.pkl", content), ("a/version", b"3\n")]))


def torch_script(path):
    members = [("a/data.pkl", program(path)), ("a/code/__torch__.py", b"import os"), ("a/constants.pkl", program(path))]
    path.write_bytes(zip_of(members))


def torch_legacy(path):
    start = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True})
    parts = [*(pickle.dumps(part, protocol=2) for part in start), program(path), pickle.dumps([], protocol=2)]
    path.write_bytes(b"".join(parts))


def torch_tar(path):
    """The oldest format, which PyTorch before 2.6 unpickles freely, with the beginning of the next one."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, encoding="latin1") as archive:
        for name in ("\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "storages", "tensors", "pickle"):
            info = tarfile.TarInfo(name)
            info.size = len(program(path))
            archive.addfile(info, io.BytesIO(program(path)))


def torch_pickle(content):
    """A file of PyTorch with this pickle."""
    return lambda path: path.write_bytes(zip_of([("a/data.pkl", content), ("a/version", b"3\n")]))


# Twenty-five lists, each of the one before twice: 2 ** 25 paths.
LAUGHS = b"\x80\x02]q\x00" + b"".join(b"](h%ch%ceq%c" % (n, n, n + 1) for n in range(25)) + b"."
PICKLES = {
    "a pickle of lists of lists": (torch_pickle(LAUGHS), "SIGXCPU|longer than any sound file|no BN|report"),
    "a pickle of deep tuples": (torch_pickle(b"\x80\x02N" + b"\x85" * 1_000_000 + b"."), "more than 64 levels"),
    "a pickle of a deep key": (torch_pickle(b"\x80\x02}N" + b"\x85" * 1_000_000 + b"Ns."), "report"),
    "a pickle of a huge number": (torch_pickle(b"\x8b\xff\xff\xff\x7f1."), "damaged"),
    "a pickle of many marks": (torch_pickle(b"(" * 1_000_000 + b"."), "damaged"),
    "a pickle that takes its own stack": (torch_pickle(b"\x80\x020."), "damaged"),
    "a pickle of huge tensors": (
        torch_pickle(
            b"\x80\x02}X\x0c\0\0\0running_meanctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\n"
            b"X\x01\0\0\x000X\x03\0\0\0cpu\x8a\x08\0\0\0\0\0\0\0\x40tQK\0\x8a\x08\0\0\0\0\0\0\0\x40\x85K\x01\x85\x89NtRs."
        ),
        "report",
    ),
}


def npz(path):
    with path.open("wb") as file:
        np.savez(file, x=np.array([Program(marker_of(path))], object))


def msgpack_extension(path):
    path.write_bytes(msgpack.packb({"params": msgpack.ExtType(1, program(path)), "x": msgpack.ExtType(5, b"")}))


def keras_lambda(path):
    """A real model, whose layer makes the file when it is called."""
    import keras

    text = str(marker_of(path))
    layer = keras.layers.Lambda(eval(f"lambda x: (open({text!r}, 'w').close(), x)[1]"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = keras.Sequential([keras.Input((4,)), layer, keras.layers.BatchNormalization()])
        model.save(path.with_suffix(".keras"))
    path.with_suffix(".keras").rename(path)
    marker_of(path).unlink()


TORCH = r"is no state dict: it holds no tensors, but (posix\.system|builtins\.eval)"
PROGRAMS = {
    "a pickle of protocol 0": (pickled(0), "not a checkpoint that bncli can read"),
    "a pickle of protocol 4": (pickled(4), "is a pickle"),
    "a zip file of PyTorch": (torch_zip, TORCH),
    "a zip file of PyTorch with eval": (torch_zip_with_eval, TORCH),
    "a program of TorchScript": (torch_script, "is a TorchScript program"),
    "an old file of PyTorch": (torch_legacy, TORCH),
    "an older file of PyTorch": (torch_tar, "is a tar archive"),
    "an npz": (npz, "is an npz archive of arrays"),
    "an extension of msgpack": (msgpack_extension, "an array that Flax did not write"),
    "a Lambda of Keras": (keras_lambda, "report"),
}


def keras_zip_bomb(path):
    path.write_bytes(zip_of([("model.weights.h5", bytes(200 << 20))], compression=zipfile.ZIP_DEFLATED))


def keras_zip_bomb_that_lies(path):
    """Both places that tell the size of the member say 1,000 bytes."""
    keras_zip_bomb(path)
    content = path.read_bytes().replace(struct.pack("<I", 200 << 20), struct.pack("<I", 1000))
    path.write_bytes(content)


def overlapping_members(path):
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("model.weights.h5", "config.json"):
            archive.writestr(name, b"\x89HDF\r\n\x1a\n" + bytes(1000))
        archive.filelist[1].header_offset = archive.filelist[0].header_offset


def zip_of_many(path):
    """An archive of 200,000 members, whose directory is all there is."""
    entry = struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"x"
    directory = entry * 200_000
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, len(directory), 4, 0)
    path.write_bytes(b"PK\x03\x04" + directory + end)


def traversal(path):
    path.write_bytes(zip_of([("../../model.weights.h5", b""), ("../a/data.pkl", b"")]))


def safetensors_header(text, data=16):
    content = json.dumps(text).encode() if isinstance(text, dict) else text
    return lambda path: path.write_bytes(len(content).to_bytes(8, "little") + content + bytes(data))


def norm(name="bn", **entry):
    entry = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16], **entry}
    return {f"{name}.{array}": entry for array in ("running_mean", "running_var")}


def truncated_safetensors(path):
    path.write_bytes((2 << 30).to_bytes(8, "little") + b'{"bn.weight": {')


def many_axes(path):
    safetensors_header(norm(shape=[1] * 100, data_offsets=[0, 4]))(path)


def long_numbers(path):
    numbers = b",".join([b"9" * 4000] * 400)
    entries = (b'"bn.%s":{"dtype":"F8","shape":[%s],"data_offsets":[0,4]}' % (n, numbers) for n in (b"mean", b"var"))
    safetensors_header(b"{%s}" % b",".join(entries))(path)


def one_array_for_many_layers(path):
    layers = (norm(f"{number}.bn", shape=[4000], data_offsets=[0, 16000]) for number in range(1000))
    safetensors_header({name: entry for layer in layers for name, entry in layer.items()}, data=16000)(path)


def long_name(path):
    safetensors_header(norm("a1." * 100_000 + "a1" * 500_000 + "bn"))(path)


def made_of(content):
    return lambda path: path.write_bytes(content)


def flax_array(*parts):
    return made_of(msgpack.packb({"params": {"x": msgpack.ExtType(1, msgpack.packb(parts))}}))


def with_external(**entries):
    """A model whose running mean lies in another file."""

    def write(path):
        (path.parent / "outside.bin").write_bytes(bytes(256))
        path.mkdir()
        (path / "data.bin").write_bytes(bytes(256))
        (path / "link.bin").symlink_to(path.parent / "outside.bin")
        os.mkfifo(path / "pipe.bin")
        model = onnx_model()
        tensor = model.graph.initializer[2]
        tensor.ClearField("raw_data")
        tensor.data_location = 1
        for key, value in {"location": "data.bin", **entries}.items():
            tensor.external_data.add(key=key, value=value.format(outside=path.parent / "outside.bin"))
        (path / "model.onnx").write_bytes(model.SerializeToString())

    return write


def onnx_with_many_axes(path):
    model = onnx_model()
    model.graph.initializer[2].dims[:] = [3] * 500_000
    path.write_bytes(model.SerializeToString())


def onnx_of_many_levels(path):
    """A graph in an attribute of a node of a graph, and so on."""
    content = b""
    for _ in range(5000):
        for number in (6, 5, 1):
            content = field(number, content)
    path.write_bytes(b"\x08\x08" + field(7, content))


def field(number, content):
    """One of a protobuf message."""
    length, digits = len(content), []
    while length > 127:
        digits.append(length & 127 | 128)
        length >>= 7
    return bytes((number << 3 | 2, *digits, length)) + content


def hdf5(fill):
    def write(path):
        with h5py.File(path, "w") as file:
            fill(file.create_group("layers/batch_normalization/vars"))

    return write


def huge_datasets(group):
    for number in range(4):
        group.create_dataset(str(number), (1 << 40,), "f4")


def compressed_datasets(group):
    for number in range(4):
        group.create_dataset(str(number), data=np.zeros(1 << 22, np.float32), compression="gzip", chunks=(1 << 22,))


def huge_chunks(group):
    for number in range(4):
        array = group.create_dataset(str(number), (4,), "f4", chunks=(1 << 29,), maxshape=(None,), compression="gzip")
        array.id.write_direct_chunk((0,), zlib.compress(bytes(1 << 20)))


def external_dataset(group):
    for number in range(4):
        group.create_dataset(str(number), (4,), "f4", external=[("/etc/passwd", 0, 16)])


def external_links(group):
    for number in range(4):
        group[str(number)] = h5py.ExternalLink("/etc/passwd", "/x")


def group_in_itself(group):
    for number in range(50):
        group[f"again{number}"] = group
        group[f"root{number}"] = group.parent.parent


def orbax(change):
    """A directory of one directory an array, in which something is changed."""

    def write(path):
        save_item(path, make_variables(), use_ocdbt=False)
        change(path)

    return write


def orbax_bomb(path):
    store = {"driver": "file", "path": str(path / "params.Conv_0.kernel")}
    metadata = {"shape": [1 << 29], "chunks": [1 << 26], "dtype": "<f4", "compressor": {"id": "zstd"}}
    spec = {"driver": "zarr", "kvstore": store, "metadata": metadata}
    kernel = tensorstore.open(spec, create=True, delete_existing=True).result()
    kernel[:1].write(np.ones(1, np.float32)).result()


def rewrite_metadata(change):
    def write(path):
        document = json.loads((path / "_METADATA").read_text())
        change(document["tree_metadata"]["('params', 'Conv_0', 'kernel')"]["key_metadata"])
        (path / "_METADATA").write_text(json.dumps(document))

    return write


def climb(keys):
    keys[-1]["key"] = "/../../x/kernel"


def deepen(keys):
    keys[:] = keys * 20_000


BOMBS = {
    "a Keras file of zeros": (keras_zip_bomb, "claims 209,715,200 bytes"),
    "a Keras file with a wrong size": (keras_zip_bomb_that_lies, "damaged"),
    "a Keras file with a part twice": (overlapping_members, "damaged"),
    "an archive of many members": (zip_of_many, "its directory claims"),
    "an archive with members above": (traversal, "not one of Keras or PyTorch"),
    "an HDF5 file of huge arrays": (hdf5(huge_datasets), "claims"),
    "an HDF5 file of zeros": (hdf5(compressed_datasets), "too many for a network"),
    "an HDF5 file of huge parts": (hdf5(huge_chunks), "."),
    "an HDF5 file with arrays elsewhere": (hdf5(external_dataset), "lies in another file"),
    "an HDF5 file with links elsewhere": (hdf5(external_links), "report|does not follow links"),
    "an HDF5 group in itself": (hdf5(group_in_itself), "report"),
    "a safetensors file cut short": (truncated_safetensors, "header claims to be 2,147,483,648 bytes long"),
    "a safetensors file of many axes": (many_axes, "does not match its content"),
    "a safetensors file of long numbers": (long_numbers, "does not match its content"),
    "a safetensors file with a long name": (long_name, "."),
    "a safetensors file of an array used often": (one_array_for_many_layers, "report"),
    "a safetensors file of a dtype of its own": (safetensors_header(norm(dtype="int7")), "is of dtype int7"),
    "a safetensors file of nothing but brackets": (safetensors_header(b'{"a":' * 100_000), "is no JSON"),
    "a msgpack file of maps": (made_of(b"\x81\xa1x\xdd\x01\x40\0\0" + b"\x80" * (20 << 20)), "objects"),
    "a msgpack file that claims members": (made_of(b"\xdf\xff\xff\xff\xff"), "damaged"),
    "a msgpack file of many levels": (made_of(b"\x81\xa1x" * 100_000 + b"\xc0"), "levels"),
    "a msgpack array of a huge shape": (flax_array([1 << 40, 1 << 20], "float32", b""), "damaged"),
    "a msgpack array of a long dtype": (flax_array([1], "i4," * 1_000_000, b""), "an array that Flax did not write"),
    "a msgpack array of objects": (flax_array([1], "O", bytes(8)), "damaged"),
    "an ONNX file of many axes": (onnx_with_many_axes, "."),
    "an ONNX file of many levels": (onnx_of_many_levels, "damaged"),
    "ONNX data above": (with_external(location="../outside.bin"), "outside of the model's directory"),
    "ONNX data at an absolute path": (with_external(location="{outside}"), "outside of the model's directory"),
    "ONNX data behind a link": (with_external(location="link.bin"), "outside of the model's directory"),
    "ONNX data in a pipe": (with_external(location="pipe.bin"), "missing or too short"),
    "ONNX data without an end": (with_external(location="/dev/zero"), "outside of the model's directory"),
    "ONNX data beyond the end": (with_external(offset=str(1 << 62)), "missing or too short"),
    "ONNX data before the beginning": (with_external(offset="-256"), "missing or too short"),
    "an Orbax directory of zeros": (orbax(orbax_bomb), "cannot be arrays of"),
    "an Orbax directory of many levels": (orbax(rewrite_metadata(deepen)), "is damaged"),
    "an Orbax array above": (orbax(rewrite_metadata(climb)), "cannot read the array"),
    "a config.json of nothing but brackets": (
        lambda path: (path.mkdir(), (path / "config.json").write_text('{"a":' * 100_000)),
        ".",
    ),
}
HOSTILE = PROGRAMS | PICKLES | BOMBS


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What came of each hostile file."""
    directory = tmp_path_factory.mktemp("hostile")
    paths = {name: directory / str(number) for number, name in enumerate(HOSTILE)}
    for name, path in paths.items():
        HOSTILE[name][0](path)
    return dict(zip(paths, examine(map(target_of, paths.values()), "forked", timeout=240), strict=True))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused(name, outcomes):
    check([outcomes[name]])
    words = HOSTILE[name][1]
    assert re.search(words, outcomes[name].verdict)


@pytest.mark.parametrize("name", PROGRAMS)
def test_no_program_runs(name, outcomes):
    assert not marker_of(Path(outcomes[name].path)).exists()


def test_the_programs_would_run(tmp_path):
    """What the test above looks for is there when a pickle is opened."""
    path = tmp_path / "x"
    path.write_bytes(program(path))
    code = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb'))"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=60)
    assert marker_of(path).exists()
