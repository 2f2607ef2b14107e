"""Files damaged on purpose: an intact one of each format, seeded mutations, and a process that reads them.

Run as a program, it takes a JSON list of paths on stdin and answers each with one line of JSON, an ``Outcome``.
"""

import argparse
import importlib
import importlib.util
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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeAlias

import numpy as np

import bncli
from bncli.errors import BncliError
from bncli.inspection.readers import apart, detect
from bncli.inspection.readers.contents import Contents
from bncli.process import child
from support.torch_files import write_old_torch, write_torch

if TYPE_CHECKING:
    import onnx

Rng: TypeAlias = random.Random
# Takes the content and that of another file, from which it may borrow bytes; returns the changed content.
Change: TypeAlias = "Callable[[Rng, bytes, bytes], bytes]"
Files: TypeAlias = "Mapping[str, Path]"

# Formats whose readers run in a process of their own -> the reader's module, and the library it imports.
APART: dict[str, tuple[str, str]] = {
    "keras": ("keras_file", "h5py"),
    "onnx": ("onnx_model", "onnx"),
    "pytorch": ("pytorch", "zipfile"),
}
# Values for a length, a shape or an offset.
NUMBERS = ("-1", "0", "1e999", "7.5", "true", '"x"', "[]", "{}", str(2**31), str(2**63), str(10**400))


def write_sound_files(directory: Path) -> dict[str, Path]:
    """Write one checkpoint of each format with its own library; return {name: file or directory}."""
    _write_flax(directory)
    _write_safetensors(directory)
    _write_keras(directory)
    _write_onnx(directory)
    write_torch(directory / "torch.pt", {"state_dict": _state(), "args": argparse.Namespace(lr=0.1)})
    write_old_torch(directory / "torch_legacy.pt", _state())
    return {path.name: path for path in sorted(directory.iterdir())}


def _state() -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """Two BN layers, named as in PyTorch."""
    rng = np.random.default_rng(0)
    names = ("weight", "bias", "running_mean", "running_var")
    shapes: dict[str, tuple[int, ...]] = {f"bn{number}.{name}": (4,) for number in (1, 2) for name in names}
    shapes["conv.weight"] = (4, 3, 3, 3)
    return {name: rng.random(shape, np.float32) for name, shape in shapes.items()}


def _write_flax(directory: Path) -> None:
    from support.foreign_files import make_variables, save_item, save_msgpack

    save_msgpack(directory / "flax.msgpack", make_variables())
    save_item(directory / "orbax", make_variables())
    save_item(directory / "orbax_zarr", make_variables(), use_ocdbt=False)


def _write_safetensors(directory: Path) -> None:
    import safetensors.numpy

    safetensors.numpy.save_file(_state(), directory / "x.safetensors")


def _write_keras(directory: Path) -> None:
    os.environ.setdefault("KERAS_BACKEND", "jax")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras calls NumPy with deprecated arguments
        import keras

        layers = [keras.layers.Conv2D(4, 3, use_bias=False), keras.layers.BatchNormalization(), keras.layers.ReLU()]
        model = keras.Sequential([keras.Input((8, 8, 1)), *layers])
        model.save(directory / "keras.keras")
        model.save_weights(directory / "keras.weights.h5")
        model.save(directory / "keras.h5")


def onnx_model() -> "onnx.ModelProto":
    """A model of one BatchNormalization node with its arrays."""
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


def _write_onnx(directory: Path) -> None:
    import onnx

    onnx.save_model(onnx_model(), directory / "onnx.onnx")
    model = onnx_model()
    options: dict[str, Any] = {"save_as_external_data": True, "location": "data.bin", "size_threshold": 0}
    (directory / "onnx_external").mkdir()
    onnx.save_model(model, directory / "onnx_external" / "model.onnx", **options)


def target_of(path: Path) -> Path:
    """The path to name on the command line: the model, if ``path`` is a directory of a model and its data."""
    return path / "model.onnx" if (path / "model.onnx").exists() else path


def mutate(rng: Rng, sound: Files, name: str, target: Path) -> None:
    """Write a damaged copy of one of the intact files or directories."""
    if sound[name].is_file():
        target.write_bytes(_mutated(rng, sound[name].read_bytes(), _any_bytes(rng, sound)))
        return
    shutil.copytree(sound[name], target)
    victim = rng.choice(sorted(path for path in target.rglob("*") if path.is_file()))
    if rng.random() < 0.1 and victim.name != "model.onnx":
        victim.unlink()
    else:
        victim.write_bytes(_mutated(rng, victim.read_bytes(), _any_bytes(rng, sound)))


def change_bytes(rng: Rng, content: bytes) -> bytes:
    """The bytes with one to three changes, in most archives to a member."""
    return _mutated(rng, content or b"\0", content or b"\0")


def _any_bytes(rng: Rng, sound: Files) -> bytes:
    return rng.choice([path for path in sound.values() if path.is_file()]).read_bytes()


def _mutated(rng: Rng, content: bytes, other: bytes) -> bytes:
    """The bytes with one to three changes, in 70 % of archives to a member, with the checksum made to fit."""
    change: Change = _any_change
    if content.startswith(b"PK") and rng.random() < 0.7:
        change = _change_member
    elif content[8:9] == b"{" and rng.random() < 0.7:
        change = _change_header
    for _ in range(rng.choice((1, 1, 2, 3))):
        content = change(rng, content, other) or b"\0"
    return content


def _any_change(rng: Rng, content: bytes, other: bytes) -> bytes:
    return rng.choice(CHANGES)(rng, content, other)


def _flip_bits(rng: Rng, content: bytes, _other: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 4, 16))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _overwrite(rng: Rng, content: bytes, _: bytes) -> bytes:
    begin, end = _region(rng, content)
    return content[:begin] + rng.choice((b"\0", b"\xff", b"\x80")) * (end - begin) + content[end:]


def _truncate(rng: Rng, content: bytes, _: bytes) -> bytes:
    return content[: rng.randrange(len(content))]


def _duplicate(rng: Rng, content: bytes, _: bytes) -> bytes:
    begin, end = _region(rng, content)
    return content[:end] + content[begin:]


def _delete(rng: Rng, content: bytes, _: bytes) -> bytes:
    begin, end = _region(rng, content)
    return content[:begin] + content[end:]


def _swap(rng: Rng, content: bytes, _: bytes) -> bytes:
    begin, end = _region(rng, content)
    return content[end : 2 * end - begin] + content[begin:end] + content[:begin] + content[2 * end - begin :]


def _swap_header(rng: Rng, content: bytes, other: bytes) -> bytes:
    length = rng.choice((4, 8, 32, 200))
    return other[:length] + content[length:]


def _inflate(rng: Rng, content: bytes, _: bytes) -> bytes:
    """Overwrite one to eight bytes with a large number."""
    begin = rng.randrange(len(content))
    width, little = rng.choice((1, 2, 4, 8)), rng.choice((True, False))
    number = (1 << rng.randrange(8 * width)) + rng.randrange(2)
    order: Literal["little", "big"] = "little" if little else "big"
    return content[:begin] + number.to_bytes(width + 1, order)[-width:] + content[begin + width :]


def _rewrite_number(rng: Rng, content: bytes, _: bytes) -> bytes:
    """Replace a decimal number by a large or negative one, or by another type."""
    numbers = list(re.finditer(rb"\d+", content))
    if not numbers:
        return content
    found = rng.choice(numbers)
    return content[: found.start()] + rng.choice(NUMBERS).encode() + content[found.end() :]


CHANGES: tuple[Change, ...] = (
    *(_delete, _duplicate, _flip_bits, _flip_bits, _inflate, _overwrite),
    *(_rewrite_number, _swap, _swap_header, _truncate),
)


def _region(rng: Rng, content: bytes) -> tuple[int, int]:
    """Start and end of a random region."""
    begin = rng.randrange(len(content))
    return begin, min(len(content), begin + rng.choice((1, 4, 16, 64, 256)))


def _change_header(rng: Rng, content: bytes, other: bytes) -> bytes:
    """Change the header of a safetensors file and correct its length field."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = _any_change(rng, content[8:end], other)
    return len(header).to_bytes(8, "little") + header + content[end:]


def _change_member(rng: Rng, content: bytes, other: bytes) -> bytes:
    """Write the archive again with one member changed, and possibly renamed, removed or doubled."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [(name, archive.read(name)) for name in archive.namelist()]
    except (zipfile.BadZipFile, NotImplementedError, ValueError):  # damaged by an earlier change
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


def zip_of(members: Sequence[tuple[str, bytes]], *, compression: int = zipfile.ZIP_STORED) -> bytes:
    """The bytes of an archive of (name, content) pairs."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", compression) as archive:
        warnings.simplefilter("ignore")  # two members of one name
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


def mutated_files(sound: Files, directory: Path, *, count: int, seed: int = 0) -> list[Path]:
    """Write ``count`` damaged files, made from the intact ones in turn; return the paths to read."""
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
    """The result of reading one file.

    Attributes:
        path: the file.
        verdict: "report", or "refused: …" with the message; anything else is a fault.
        wall: elapsed seconds.
        cpu: CPU seconds of the process that read it.
        peak: peak memory of that process in bytes.
    """

    path: str
    verdict: str
    wall: float
    cpu: float
    peak: int


def main() -> None:
    """Read all files in the way that ``sys.argv[1]`` names, and print their outcomes.

    "public" calls ``bncli.inspect_stats``. "forked" forks this process for readers that run apart, under the same
    limits: starting a process and importing the library takes half a second, a fork does not.
    """
    paths = [Path(path) for path in json.load(sys.stdin)]
    read = _read_publicly
    if sys.argv[1] == "forked":
        _import_readers()
        # The readers that import JAX come last: a process that runs JAX cannot fork.
        paths.sort(key=lambda path: _module(path) is None)
        read = _read_forked
    for path in paths:
        started = time.perf_counter()
        verdict, cpu, peak = read(path)
        outcome = Outcome(str(path), verdict, time.perf_counter() - started, cpu, peak)
        sys.stdout.write(json.dumps(vars(outcome)) + "\n")
        sys.stdout.flush()


def _import_readers() -> None:
    """Import the readers that run apart, and their libraries, so that no fork does."""
    for module, library in APART.values():
        if importlib.util.find_spec(library):
            importlib.import_module(library)
            importlib.import_module(f"bncli.inspection.readers.{module}")


def _module(path: Path) -> str | None:
    """The module that reads this file in a process of its own, if one does."""
    try:
        return APART[detect(path)][0]
    except (BncliError, KeyError):
        return None


def _read_publicly(path: Path) -> tuple[str, float, int]:
    """Verdict, CPU seconds and peak bytes of ``bncli.inspect_stats``."""
    before = time.process_time()
    verdict = _verdict(lambda: bncli.inspect_stats(path))
    peak = max(_own_peak(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) << 10
    return verdict, time.process_time() - before, peak


def _own_peak() -> int:
    """Peak memory of this process in KiB; ``getrusage`` would include the process that started it."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    found = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


def _verdict(read: Callable[[], object]) -> str:
    try:
        read()
    except BncliError as error:
        return f"refused: {error.message}" if error.message and error.remedy else f"no remedy: {error.message}"
    except Exception as error:
        return f"traceback: {type(error).__name__}: {error}"
    return "report"


def _read_forked(path: Path) -> tuple[str, float, int]:
    """Verdict, CPU seconds and peak bytes of the reader, which runs in a fork of this process."""
    module = _module(path)
    if module is None:
        return _read_publicly(path)
    receiver, sender = os.pipe()
    process = os.fork()
    if process == 0:
        _answer(path, module, sender)
    os.close(sender)
    with os.fdopen(receiver, "rb") as pipe:
        answer = pipe.read()
    _, status, usage = os.wait4(process, 0)
    code = os.waitstatus_to_exitcode(status)
    crashed = f"refused: {path}: {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    verdict = crashed if code else _verdict(lambda: _received(answer))
    return verdict, usage.ru_utime + usage.ru_stime, usage.ru_maxrss << 10


def _answer(path: Path, module: str, sender: int) -> NoReturn:
    """Read the file, write the answer into the pipe, and end the process."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    asked = {"step": "best", "epsilon": None, "momentum": None}
    request = {"module": f"bncli.inspection.readers.{module}", "path": str(path), "asked": asked}
    answer = b"".join(child.frames(apart.SERVE, request))
    with os.fdopen(sender, "wb") as pipe:
        pipe.write(answer)
    os._exit(0)


def _received(sent: bytes) -> Contents:
    """The contents that ``read_apart`` decodes from the frames of the other process."""
    answers, error = child.parse(sent)
    if error is not None:
        raise error
    return apart.decode(answers[0])


if __name__ == "__main__":
    main()
