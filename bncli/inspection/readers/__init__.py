"""What lies at a path, as BN layers: one reader a format, chosen by content.

::

    read ─ detection.py       what it is
       ├── checkpoint.py       bncli's own directories              (imports JAX)
       ├── flax_files.py       Orbax directories, Flax msgpack      (import JAX)
       ├── safetensors_file.py
       └── apart.py            in a process of its own, with limits:
           ├── keras_file.py     hdf5.py, keras_config.py
           ├── onnx_model.py
           └── pytorch.py

Each makes ``arrays`` by path, in which ``grouping`` finds BN layers by the names of ``conventions``; ``assembly`` makes
``Contents`` of them: ``copies`` of a network, ``replicas``, stacked layers, ``settings`` that no file says.

Nothing in a file is ever run or unpickled. To add a format: a module with ``read(path, asked) -> Contents``, a row in
``READERS``, and what tells it from others in ``detection``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

from bncli.errors import CheckpointError
from bncli.inspection.readers.apart import read_apart
from bncli.inspection.readers.contents import Contents
from bncli.inspection.readers.detection import detect
from bncli.inspection.readers.settings import Asked

__all__ = ["Asked", "Contents", "detect", "read"]

Reader = Callable[[Path, Asked], Contents]


def read(path: Path, asked: Asked) -> Contents:
    """The BN layers of what lies at ``path``.

    Raises:
        BncliError: nothing that bncli reads, no such save, or a damaged file; names it.
    """
    file_format = detect(path)
    if path.is_file() and asked.step not in ("best", "last"):
        raise CheckpointError(f"{path} is one save and has no step {asked.step!r}", remedy="Leave --step out.")
    try:
        return READERS[file_format](path, asked)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}", remedy="Is it still there?") from error
    except CheckpointError as error:  # of what was found in it, wherever that came from
        if str(path) in error.message:
            raise
        raise CheckpointError(f"{path}: {error.message}", remedy=error.remedy) from error


def _here(module: str, function: str = "read") -> Reader:
    """A reader that is imported when it is needed."""
    return lambda path, asked: getattr(importlib.import_module(f"{__name__}.{module}"), function)(path, asked)


def _apart(module: str) -> Reader:
    """A reader that runs in a process of its own."""
    return lambda path, asked: read_apart(f"{__name__}.{module}", path, asked)


READERS: dict[str, Reader] = {
    "bncli": _here("checkpoint"),
    "flax-msgpack": _here("flax_files", "read_msgpack"),
    "keras": _apart("keras_file"),
    "onnx": _apart("onnx_model"),
    "orbax": _here("flax_files", "read_orbax"),
    "pytorch": _apart("pytorch"),
    "safetensors": _here("safetensors_file"),
}
