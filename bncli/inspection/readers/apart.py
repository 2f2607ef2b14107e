"""Reading in a process of its own, for formats whose libraries cannot be trusted with a hostile file.

Of 6,000 HDF5 files with a few changed bytes, libhdf5 1.14 hung on seven and crashed on one; all of them allocate what a
file claims to hold. Here the process is given as much memory and time as a file of that size can need, it cannot write
files, and its end is an error like any other.

It hands back no objects: a line of JSON, and the values of all layers as float64 in the order of that line.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from bncli.errors import BncliError, CheckpointError
from bncli.inspection.layers import BatchNormArrays
from bncli.inspection.readers.contents import Contents
from bncli.inspection.readers.settings import Asked

# What the process may use beyond what it has when its library is loaded: for any file, and for each byte of it.
MEMORY = 512 << 20
MEMORY_PER_BYTE = 3
CPU_SECONDS = 3.0
BYTES_PER_CPU_SECOND = 50e6
# Against a process that waits for ever, which takes no CPU time: a slow disk may take its time.
WALL_SECONDS = 600.0
# Of an error: names and shapes in a file may be of any length.
MAX_MESSAGE = 1000

_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from bncli.inspection.readers import apart; apart.main()"
)
_ARRAYS = ("mean", "var", "scale", "bias", "replicas")
_REMEDY = "Restore it from a copy, or save it anew."


def read_apart(module: str, path: Path, asked: Asked) -> Contents:
    """What ``read`` of a module makes of a file, made in another process.

    Args:
        module: with ``read(path, asked)``, and ``require_library()``, which imports what that needs.
        path: of the file.
        asked: what the user says of it.

    Raises:
        CheckpointError: as the reader says; or the process crashed, or took more memory or time than it may.
    """
    request = {"module": module, "path": str(path), "asked": asdict(asked)}
    command = [sys.executable, "-P", "-c", _BOOT, json.dumps([str(Path(entry).absolute()) for entry in sys.path])]
    # No plugins of libhdf5, which are code from elsewhere; one thread, since little is read; warnings are no damage.
    environment = {**os.environ, "HDF5_PLUGIN_PRELOAD": "::", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    try:
        process = subprocess.run(
            command,
            input=json.dumps(request).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # a library may print any amount
            timeout=WALL_SECONDS,
            check=False,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        raise CheckpointError(f"{path} could not be read in {WALL_SECONDS:g} s", remedy=_REMEDY) from None
    if process.returncode != 0:
        raise CheckpointError(f"{path} is damaged: {_end(process.returncode)}", remedy=_REMEDY)
    return _decode(process.stdout)


def _end(code: int) -> str:
    """Why the process gave no answer."""
    if code == -getattr(signal, "SIGXCPU", 0):
        return "reading it takes longer than any sound file of its size"
    return f"the library that reads it crashed (exit code {code})"


def main() -> None:
    """The other process: a request on stdin, the answer on stdout."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no part of the answer
    out.write(_answer(json.loads(sys.stdin.buffer.read())))
    out.close()


def _answer(request: Mapping[str, Any]) -> bytes:
    path = Path(request["path"])
    try:
        reader = importlib.import_module(request["module"])
        reader.require_library()
        _limit_this_process(path.stat().st_size)
        return _encode(reader.read(path, Asked(**request["asked"])))
    except BncliError as error:
        return _encode_error(error.message, error.remedy)
    except MemoryError:
        return _encode_error(
            f"{path} is damaged: reading it takes more memory than any sound file of its size", _REMEDY
        )
    except Exception as error:  # the libraries' exceptions for damaged files have no common class
        message = f"{path} is damaged: {type(error).__name__}: {str(error)[:500]}"
        return _encode_error(message, _REMEDY, traceback.format_exc())


def _limit_this_process(size: int) -> None:
    """Allows as much as a file of ``size`` bytes can need, and no writing; not on Windows, which has no such limits."""
    try:
        import resource
    except ImportError:
        return
    usage = resource.getrusage(resource.RUSAGE_SELF)
    seconds = usage.ru_utime + usage.ru_stime + CPU_SECONDS + size / BYTES_PER_CPU_SECOND
    _lower(resource.RLIMIT_CPU, int(seconds) + 1)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, 0)
    statm = Path("/proc/self/statm")
    if statm.exists():  # elsewhere it is not known how much there is already
        used = int(statm.read_text().split()[0]) * resource.getpagesize()
        _lower(resource.RLIMIT_AS, used + MEMORY + MEMORY_PER_BYTE * size)


def _lower(limit: int, value: int) -> None:
    """Sets a limit unless there is a lower one."""
    import resource

    _, hard = resource.getrlimit(limit)
    resource.setrlimit(limit, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _encode_error(message: str, remedy: str | None, details: str | None = None) -> bytes:
    error = {"message": message[:MAX_MESSAGE], "remedy": remedy, "details": details}
    return json.dumps({"error": error}).encode() + b"\n"


def _encode(contents: Contents) -> bytes:
    """The line and the values."""
    rows, values = [], []
    for layer in contents.layers:
        arrays = {name: array for name in _ARRAYS if (array := getattr(layer, name)) is not None}
        scalars = {name: value for name, value in vars(layer).items() if name not in _ARRAYS}
        rows.append({**scalars, "shapes": {name: array.shape for name, array in arrays.items()}})
        values += [np.ascontiguousarray(array, "<f8").tobytes() for array in arrays.values()]
    folded_from = None if contents.folded_from is None else asdict(contents.folded_from)
    line = {**vars(replace(contents, layers=())), "layers": rows, "folded_from": folded_from}
    return b"\n".join((json.dumps(line).encode(), b"".join(values)))


def _decode(answer: bytes) -> Contents:
    """The contents.

    Raises:
        CheckpointError: the answer is one.
    """
    text, _, values = answer.partition(b"\n")
    line = json.loads(text)
    if "error" in line:
        error = line["error"]
        raise CheckpointError(error["message"], remedy=error["remedy"]) from _cause(error["details"])
    offset = 0
    layers = []
    for row in line.pop("layers"):
        arrays: dict[str, Any] = dict.fromkeys(_ARRAYS)
        for name, shape in row.pop("shapes").items():
            size = int(np.prod(shape))
            arrays[name] = np.frombuffer(values, "<f8", size, offset).reshape(shape)
            offset += 8 * size
        layers.append(BatchNormArrays(**row, **arrays))
    if line["folded_from"] is not None:
        from bncli.config.settings import FoldedFrom

        line["folded_from"] = FoldedFrom(**line["folded_from"])
    return Contents(**{**line, "layers": tuple(layers), "notes": tuple(line["notes"])})


def _cause(details: str | None) -> Exception | None:
    """What ``--debug`` shows above the message."""
    return None if details is None else RuntimeError(f"in the process that read the file:\n{details}")
