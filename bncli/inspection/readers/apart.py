"""Reading in a process of its own, for formats whose libraries cannot be trusted with a hostile file.

Of 6,000 HDF5 files with a few changed bytes, libhdf5 1.14 hung on seven and crashed on one; with all of them it
allocates what the file claims to hold. Here the process gets as much memory and time as a file of that size can need,
it cannot write files, and its end is an error like any other.

Its answer is a JSON document, and the values of all layers as float64 in the order of that document.
"""

from __future__ import annotations

import importlib
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from bncli.config.json_types import JSON
from bncli.errors import BncliError, CheckpointError
from bncli.inspection.layers import BatchNormArrays
from bncli.inspection.readers.contents import Contents
from bncli.inspection.readers.settings import Asked
from bncli.process.child import Answer, ChildError, End, ask_child, limit_this_process

# The memory beyond what the process has once its library is loaded: for any file, and for each byte of it.
MEMORY = 512 << 20
MEMORY_PER_BYTE = 3
CPU_SECONDS = 3.0
BYTES_PER_CPU_SECOND = 50e6
# Ends a process that waits forever, which takes no CPU time; a slow disk needs its time.
WALL_SECONDS = 600.0
# Of an error: names and shapes in a file may be of any length.
MAX_MESSAGE = 1000

# Runs in the other process.
SERVE = "bncli.inspection.readers.apart:serve"
# No plugins of libhdf5, which are foreign code; one thread, since little is read; warnings are not damage.
_ENVIRONMENT = {"HDF5_PLUGIN_PRELOAD": "::", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
_ARRAYS = ("mean", "var", "scale", "bias", "replicas")
_REMEDY = "Restore it from a copy, or save it anew."


def read_apart(module: str, path: Path, asked: Asked) -> Contents:
    """The contents of a file, read by the ``read`` function of a module in another process.

    Args:
        module: has ``read(path, asked)``; and, if reading needs a library, ``require_library()``, which imports it.
        path: the file.
        asked: the user's statements about the file.

    Raises:
        CheckpointError: the reader raised it; or the process crashed, or exceeded its memory or time limit.
    """
    request = {"module": module, "path": str(path), "asked": asdict(asked)}
    return decode(ask_apart(SERVE, request, path))


def ask_apart(function: str, request: JSON, path: Path) -> Answer:
    """The answer of a function about a file; it runs in another process, which must limit itself (``limit_for``).

    Raises:
        CheckpointError: the function raised it; or the process crashed, or exceeded its memory or time limit.
    """
    try:
        return ask_child(function, request, seconds=WALL_SECONDS, environment=_ENVIRONMENT)
    except ChildError as error:
        raise CheckpointError(_complaint(path, error.end), remedy=_REMEDY) from None


def _complaint(path: Path, end: End) -> str:
    """The message about a process that gave no answer."""
    if end.code is None:
        return f"{path} could not be read in {WALL_SECONDS:g} s"
    if end.signal == getattr(signal, "SIGXCPU", 0):
        return f"{path} is damaged: reading it takes longer than any sound file of its size"
    return f"{path} is damaged: the library that reads it crashed (exit code {end.code})"


def serve(request: JSON) -> Iterator[Answer]:
    """Read the file, in the other process.

    Raises:
        CheckpointError: the reader raised it, or any other exception, which says that the file is damaged.
    """
    path = Path(request["path"])
    reader = importlib.import_module(request["module"])
    with as_damage(path):
        if hasattr(reader, "require_library"):
            reader.require_library()
        limit_for(path)
        yield encode(reader.read(path, Asked(**request["asked"])))


def limit_for(path: Path) -> None:
    """Limit this process to the memory and time that a file of this size can need."""
    size = path.stat().st_size
    limit_this_process(cpu_seconds=CPU_SECONDS + size / BYTES_PER_CPU_SECOND, memory=MEMORY + MEMORY_PER_BYTE * size)


@contextmanager
def as_damage(path: Path) -> Iterator[None]:
    """Turn whatever reading a file raises into a CheckpointError, with a message of bounded length."""
    try:
        yield
    except BncliError as error:
        raise CheckpointError(error.message[:MAX_MESSAGE], remedy=error.remedy) from error
    except MemoryError:
        complaint = f"{path} is damaged: reading it takes more memory than any sound file of its size"
        raise CheckpointError(complaint, remedy=_REMEDY) from None
    except Exception as error:  # the libraries' exceptions for damaged files have no common class
        complaint = f"{path} is damaged: {type(error).__name__}: {str(error)[:500]}"
        raise CheckpointError(complaint[:MAX_MESSAGE], remedy=_REMEDY) from error


def encode(contents: Contents) -> Answer:
    """The document and the values."""
    rows, values = [], []
    for layer in contents.layers:
        arrays = {name: array for name in _ARRAYS if (array := getattr(layer, name)) is not None}
        scalars = {name: value for name, value in vars(layer).items() if name not in _ARRAYS}
        rows.append({**scalars, "shapes": {name: array.shape for name, array in arrays.items()}})
        values += [np.ascontiguousarray(array, "<f8").tobytes() for array in arrays.values()]
    folded_from = None if contents.folded_from is None else asdict(contents.folded_from)
    document = {**vars(replace(contents, layers=())), "layers": rows, "folded_from": folded_from}
    return Answer(document, b"".join(values))


def decode(answer: Answer) -> Contents:
    """The contents that ``_encode`` was given."""
    document = answer.document
    offset = 0
    layers = []
    for row in document["layers"]:
        fields = {name: value for name, value in row.items() if name != "shapes"} | dict.fromkeys(_ARRAYS)
        for name, shape in row["shapes"].items():
            size = int(np.prod(shape))
            fields[name] = np.frombuffer(answer.payload, "<f8", size, offset).reshape(shape)
            offset += 8 * size
        layers.append(BatchNormArrays(**fields))
    folded_from = document["folded_from"]
    if folded_from is not None:
        from bncli.config.document import FoldedFrom

        folded_from = FoldedFrom(**folded_from)
    rest = {"layers": tuple(layers), "notes": tuple(document["notes"]), "folded_from": folded_from}
    return Contents(**{**document, **rest})
