"""Files that are damaged on purpose: a sound one of each format, seeded mutations, and a process that reads them.

As a program it takes a JSON list of paths on stdin and answers with one line of JSON for each, an ``Outcome``.
"""

import importlib
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import time
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import bncli
from bncli.errors import BncliError
from bncli.inspection.readers import apart, detect

# Formats whose readers run apart -> the module, and what it imports.
APART = {"keras": ("keras_file", "h5py"), "onnx": ("onnx_model", "onnx"), "pytorch": ("pytorch", "torch")}
# What a length, a shape or an offset may say.
NUMBERS = ("-1", "0", "1e999", "7.5", "true", '"x"', "[]", "{}", str(2**31), str(2**63), str(10**400))
HAS_TORCH = importlib.util.find_spec("torch") is not None


def write_sound_files(directory):
    """One checkpoint of each format, by the library it belongs to: files and directories, by name."""
    _write_flax(directory)
    _write_safetensors(directory)
    _write_keras(directory)
    _write_onnx(directory)
    if HAS_TORCH:
        _write_pytorch(directory)
    return {path.name: path for path in sorted(directory.iterdir())}


def _state():
    """Two BN layers by PyTorch's names."""
    rng = np.random.default_rng(0)
    names = ("weight", "bias", "running_mean", "running_var")
    state = {f"bn{number}.{name}": rng.random(4, np.float32) for number in (1, 2) for name in names}
    return state | {"conv.weight": rng.random((4, 3, 3, 3), np.float32)}


def _write_flax(directory):
    from support.foreign_files import make_variables, save_item, save_msgpack

    save_msgpack(directory / "flax.msgpack", make_variables())
    save_item(directory / "orbax", make_variables())
    save_item(directory / "orbax_zarr", make_variables(), use_ocdbt=False)


def _write_safetensors(directory):
    import safetensors.numpy

    safetensors.numpy.save_file(_state(), directory / "x.safetensors")


def _write_keras(directory):
    os.environ.setdefault("KERAS_BACKEND", "jax")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras does not say NumPy's new keywords
        import keras

        layers = [keras.layers.Conv2D(4, 3, use_bias=False), keras.layers.BatchNormalization(), keras.layers.ReLU()]
        model = keras.Sequential([keras.Input((8, 8, 1)), *layers])
        model.save(directory / "keras.keras")
        model.save_weights(directory / "keras.weights.h5")
        model.save(directory / "keras.h5")


def onnx_model():
    """One BatchNormalization node with its arrays."""
    from onnx import helper, numpy_helper

    arrays = {name: np.ones(64, np.float32) for name in ("scale", "bias", "mean", "var")}
    graph = helper.make_graph(
        [helper.make_node("BatchNormalization", ["x", *arrays], ["y"]), helper.make_node("Relu", ["y"], ["z"])],
        "graph",
        [helper.make_tensor_value_info("x", 1, [1, 64])],
        [helper.make_tensor_value_info("z", 1, [1, 64])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph)


def _write_onnx(directory):
    import onnx

    onnx.save_model(onnx_model(), directory / "onnx.onnx")
    model = onnx_model()
    options = {"save_as_external_data": True, "location": "data.bin", "size_threshold": 0}
    (directory / "onnx_external").mkdir()
    onnx.save_model(model, directory / "onnx_external" / "model.onnx", **options)


def _write_pytorch(directory):
    import torch

    state = {name: torch.from_numpy(array) for name, array in _state().items()}
    torch.save(state, directory / "torch.pt")
    torch.save(state, directory / "torch_legacy.pt", _use_new_zipfile_serialization=False)


def target_of(path):
    """What is named on the command line: of a model with a file of data beside it, the model."""
    return path / "model.onnx" if (path / "model.onnx").exists() else path


def mutate(rng, sound, name, target):
    """A damaged copy of one of the sound files or directories."""
    if sound[name].is_file():
        target.write_bytes(_mutated(rng, sound[name].read_bytes(), _any_bytes(rng, sound)))
        return
    shutil.copytree(sound[name], target)
    victim = rng.choice(sorted(path for path in target.rglob("*") if path.is_file()))
    if rng.random() < 0.1 and victim.name != "model.onnx":
        victim.unlink()
    else:
        victim.write_bytes(_mutated(rng, victim.read_bytes(), _any_bytes(rng, sound)))


def _any_bytes(rng, sound):
    return rng.choice([path for path in sound.values() if path.is_file()]).read_bytes()


def _mutated(rng, content, other):
    """The bytes with one to three changes: of an archive, as often in a member of it, with its sum made to fit."""
    change = _any_change
    if content.startswith(b"PK") and rng.random() < 0.7:
        change = _change_member
    elif content[8:9] == b"{" and rng.random() < 0.7:
        change = _change_header
    for _ in range(rng.choice((1, 1, 2, 3))):
        content = change(rng, content, other) or b"\0"
    return content


def _any_change(rng, content, other):
    return rng.choice(CHANGES)(rng, content, other)


def _flip_bits(rng, content, _):
    changed = bytearray(content)
    for _ in range(rng.choice((1, 4, 16))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _overwrite(rng, content, _):
    begin, end = _region(rng, content)
    return content[:begin] + rng.choice((b"\0", b"\xff", b"\x80")) * (end - begin) + content[end:]


def _truncate(rng, content, _):
    return content[: rng.randrange(len(content))]


def _duplicate(rng, content, _):
    begin, end = _region(rng, content)
    return content[:end] + content[begin:]


def _delete(rng, content, _):
    begin, end = _region(rng, content)
    return content[:begin] + content[end:]


def _swap(rng, content, _):
    begin, end = _region(rng, content)
    return content[end : 2 * end - begin] + content[begin:end] + content[:begin] + content[2 * end - begin :]


def _swap_header(rng, content, other):
    length = rng.choice((4, 8, 32, 200))
    return other[:length] + content[length:]


def _inflate(rng, content, _):
    """A number of one to eight bytes in the binary parts made large."""
    begin = rng.randrange(len(content))
    width, order = rng.choice((1, 2, 4, 8)), rng.choice(("little", "big"))
    number = (1 << rng.randrange(8 * width)) + rng.randrange(2)
    return content[:begin] + number.to_bytes(width + 1, order)[-width:] + content[begin + width :]


def _rewrite_number(rng, content, _):
    """A number of the JSON parts made large, negative, or none."""
    numbers = list(re.finditer(rb"\d+", content))
    if not numbers:
        return content
    found = rng.choice(numbers)
    return content[: found.start()] + rng.choice(NUMBERS).encode() + content[found.end() :]


CHANGES = (
    *(_delete, _duplicate, _flip_bits, _flip_bits, _inflate, _overwrite),
    *(_rewrite_number, _swap, _swap_header, _truncate),
)


def _region(rng, content):
    begin = rng.randrange(len(content))
    return begin, min(len(content), begin + rng.choice((1, 4, 16, 64, 256)))


def _change_header(rng, content, other):
    """A safetensors file with another header, whose length is right."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = _any_change(rng, content[8:end], other)
    return len(header).to_bytes(8, "little") + header + content[end:]


def _change_member(rng, content, other):
    """An archive, stored anew with one member changed, renamed, left out, or twice in it."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [(name, archive.read(name)) for name in archive.namelist()]
    except (zipfile.BadZipFile, NotImplementedError, ValueError):  # by an earlier change
        return _any_change(rng, content, other)
    if not members:
        return content
    number = rng.randrange(len(members))
    name, data = members[number]
    act = rng.random()
    members[number] = (f"../{name}" if act < 0.05 else name, _any_change(rng, data, other) if data else other)
    members = members[:number] + members[number + 1 :] if act > 0.95 else members
    members += members[:1] if 0.9 < act < 0.95 else []
    return zip_of(members, compression=rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))


def zip_of(members, *, compression=zipfile.ZIP_STORED):
    """An archive of (name, bytes) pairs."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", compression) as archive:
        warnings.simplefilter("ignore")  # a name twice
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


def mutated_files(sound, directory, *, count, seed=0):
    """That many damaged files in turn from all the sound ones: what to read."""
    names = sorted(sound)
    targets = []
    for number in range(count):
        name = names[number % len(names)]
        target = directory / f"{number:04}-{name}"
        mutate(random.Random(f"{seed} {number}"), sound, name, target)
        targets.append(target_of(target))
    return targets


@dataclass(frozen=True)
class Outcome:
    """What came of reading a file.

    Attributes:
        path: of the file.
        verdict: "report"; "refused: …" with the message; anything else is a fault.
        wall: seconds.
        cpu: seconds of the process that read it.
        peak: bytes of memory that it had at most.
    """

    path: str
    verdict: str
    wall: float
    cpu: float
    peak: int


def main():
    """Reads all files, each as ``sys.argv[1]`` says.

    "public": by ``bncli.inspect_stats``. "forked": in this process, but for readers that run apart in a fork of it,
    under the limits they have there; what costs half a second is to start a process and import the library.
    """
    paths = [Path(path) for path in json.load(sys.stdin)]
    read = _read_publicly
    if sys.argv[1] == "forked":
        for module, library in APART.values():
            if importlib.util.find_spec(library):
                importlib.import_module(library)
                importlib.import_module(f"bncli.inspection.readers.{module}")
        paths.sort(key=lambda path: _module(path) is None)  # what imports JAX, whose process cannot fork, comes last
        read = _read_forked
    for path in paths:
        started = time.perf_counter()
        verdict, cpu, peak = read(path)
        outcome = Outcome(str(path), verdict, time.perf_counter() - started, cpu, peak)
        sys.stdout.write(json.dumps(vars(outcome)) + "\n")
        sys.stdout.flush()


def _module(path):
    try:
        return APART.get(detect(path), (None,))[0]
    except BncliError:
        return None


def _read_publicly(path):
    before = time.process_time()
    verdict = _verdict(lambda: bncli.inspect_stats(path))
    peak = max(_own_peak(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) << 10
    return verdict, time.process_time() - before, peak


def _own_peak():
    """KiB. What ``getrusage`` says of a process counts that which started it, where that is larger."""
    if not Path("/proc/self/status").exists():
        return 0
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)[1])


def _verdict(read):
    try:
        read()
    except BncliError as error:
        return f"refused: {error.message}" if error.message and error.remedy else f"no remedy: {error.message}"
    except Exception as error:
        return f"traceback: {type(error).__name__}: {error}"
    return "report"


def _read_forked(path):
    module = _module(path)
    if module is None:
        return _read_publicly(path)
    receiver, sender = os.pipe()
    process = os.fork()
    if process == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        asked = {"step": "best", "epsilon": None, "momentum": None}
        answer = apart._answer({"module": f"bncli.inspection.readers.{module}", "path": str(path), "asked": asked})
        with os.fdopen(sender, "wb") as pipe:
            pipe.write(answer)
        os._exit(0)
    os.close(sender)
    with os.fdopen(receiver, "rb") as pipe:
        answer = pipe.read()
    _, status, usage = os.wait4(process, 0)
    code = os.waitstatus_to_exitcode(status)
    crashed = f"refused: {path}: {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return (
        crashed if code else _verdict(lambda: apart._decode(answer)),
        usage.ru_utime + usage.ru_stime,
        usage.ru_maxrss << 10,
    )


if __name__ == "__main__":
    main()
