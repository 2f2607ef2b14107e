"""Readers: the BN layers of any file or directory. One reader a format, chosen by content.

::

    read ─ detection.py       the format
       ├── checkpoint.py       bncli's own directories              (imports JAX)
       ├── flax_files.py       Orbax directories, Flax msgpack      (import JAX)
       ├── safetensors_file.py
       └── apart.py            in a separate process, with limits:
           ├── keras_file.py     hdf5.py, keras_config.py
           ├── onnx_model.py     onnx_constants.py
           └── pytorch.py        torch_file.py, inert_pickle.py, pickled_numpy.py

Each reader makes ``arrays`` by path. ``grouping`` finds BN layers among them by the names in ``conventions``.
``assembly`` turns these into ``Contents``: it chooses among ``copies`` of a network, recognises ``replicas``, separates
stacked layers, and takes from ``settings`` what the file does not say.

Nothing in a file is ever run, and Python's unpickler is never used: ``inert_pickle`` reads pickles as data. To add a
format: write a module with ``read(path, asked) -> Contents``, add a row to ``READERS``, and teach ``detection`` to
recognise it.
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
    """Read the BN layers of the file or directory at ``path``.

    Raises:
        BncliError: bncli cannot read it, it has no such save, or it is damaged; the message names it.
    """
    file_format = detect(path)
    if path.is_file() and asked.step not in ("best", "last"):
        raise CheckpointError(
            f"{path} is a single save without steps, so it has no step {asked.step!r}", remedy="Leave --step out."
        )
    try:
        return READERS[file_format](path, asked)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}", remedy="Is it still there?") from error
    except CheckpointError as error:  # add the path to complaints about the content
        if str(path) in error.message:
            raise
        raise CheckpointError(f"{path}: {error.message}", remedy=error.remedy) from error


def _here(module: str, function: str = "read") -> Reader:
    """A reader that is imported on first use."""
    return lambda path, asked: getattr(importlib.import_module(f"{__name__}.{module}"), function)(path, asked)


def _apart(module: str) -> Reader:
    """A reader that runs in a separate process."""
    return lambda path, asked: read_apart(f"{__name__}.{module}", path, asked)


READERS: dict[str, Reader] = {
    "bncli": _here("checkpoint"),
    "equinox": _here("equinox_file"),
    "flax-msgpack": _here("flax_files", "read_msgpack"),
    "keras": _apart("keras_file"),
    "onnx": _apart("onnx_model"),
    "orbax": _here("flax_files", "read_orbax"),
    "pytorch": _apart("pytorch"),
    "safetensors": _here("safetensors_file"),
}
