"""All arrays of a safetensors or PyTorch file, by name. Nothing in a file is ever run.

A PyTorch file is read in a process of its own, with limits, by the reader of ``inspection``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from bncli.config.json_types import JSON
from bncli.errors import CheckpointError
from bncli.inspection.readers import apart, pytorch, safetensors_file, torch_file
from bncli.inspection.readers.arrays import Stored
from bncli.inspection.readers.detection import detect
from bncli.process.child import Answer
from bncli.process.files import open_regular
from bncli.process.memory import require_memory

BNCLI = "bncli"
READABLE = "bncli takes .safetensors and .pth files of torchvision and timm, hf://ORG/NAME, and its own checkpoints."

# Runs in the other process.
_SERVE = "bncli.weights.files:serve"
# The content of a file, its arrays, and the variables made of them.
_COPIES = 3
_CHUNK = 1 << 20
# The file of a directory that holds weights, as timm and Hugging Face name it.
_IN_DIRECTORY = ("model.safetensors", "pytorch_model.bin")


def format_of(path: Path) -> str:
    """``bncli`` for one of its checkpoint directories, else ``pytorch`` or ``safetensors``.

    Raises:
        CheckpointError: it is nothing that holds weights, or does not exist.
    """
    found = detect(path)
    if found not in (BNCLI, *_READERS):
        raise CheckpointError(f"{path} is a file of {found}, from which no weights are taken", remedy=READABLE)
    return found


def file_of(path: Path) -> Path:
    """The file of weights in a directory as the Hugging Face Hub has it; any other path is its own."""
    if not path.is_dir() or (path / "steps").is_dir():
        return path
    return next((path / name for name in _IN_DIRECTORY if (path / name).is_file()), path)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a file by name; bfloat16 becomes float32.

    Raises:
        CheckpointError: the file is damaged, or is no file of weights.
        DataError: the memory does not suffice.
    """
    file_format = format_of(path)
    try:
        require_memory(
            _COPIES * path.stat().st_size,
            what=f"{path}: its weights",
            remedy="Use a machine with more memory, or a file without the state of the optimizer.",
        )
        return _READERS[file_format](path)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}", remedy=READABLE) from error


def sha256_of(path: Path) -> str:
    """SHA-256 of the content of a file."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    arrays, metadata = safetensors_file.stored_arrays(path)
    if isinstance(metadata, Mapping) and metadata.get("format") == BNCLI:
        raise CheckpointError(
            f"{path} was written by `bncli fold`: its BN is folded, so it cannot be trained further",
            remedy="Name the checkpoint that was folded.",
        )
    return {name: array.read() for name, array in arrays.items()}


def _pytorch(path: Path) -> dict[str, np.ndarray]:
    answer = apart.ask_apart(_SERVE, {"path": str(path)}, path)
    arrays, offset = {}, 0
    for name, dtype, shape in answer.document["arrays"]:
        count = int(np.prod(shape))
        arrays[name] = np.frombuffer(answer.payload, dtype, count, offset).reshape(shape)
        offset += arrays[name].nbytes
    return arrays


def serve(request: JSON) -> Iterator[Answer]:
    """Name, dtype and shape of each tensor of a PyTorch file, and the numbers of all; in the other process.

    Raises:
        CheckpointError: the file is damaged, or holds no tensors.
    """
    path = Path(request["path"])
    with apart.as_damage(path):
        apart.limit_for(path)
        with torch_file.opened(path) as file:
            stored = pytorch.stored_arrays(path, file)
            arrays = {".".join(place): _numbers(array) for place, array in stored.items()}
    rows = [[name, array.dtype.str, list(array.shape)] for name, array in arrays.items()]
    yield Answer({"arrays": rows}, b"".join(array.tobytes() for array in arrays.values()))


def _numbers(array: Stored) -> np.ndarray:
    return np.ascontiguousarray(array.read()).reshape(array.shape)  # a scalar keeps its shape


_READERS = {"pytorch": _pytorch, "safetensors": _safetensors}
