"""The format of a file or directory, detected from its content, not from its name."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bncli.errors import CheckpointError
from bncli.inspection.readers.equinox_file import MAGIC, is_equinox
from bncli.process.files import open_regular, read_regular

READABLE = (
    "bncli reads its own directories, Orbax directories, and files of Flax (msgpack), Keras (.keras, .h5), ONNX, "
    "PyTorch (.pt, .pth) and safetensors; with --model, also files of Equinox (.eqx)."
)
_STATE_DICT = "Save the weights alone: torch.save(model.state_dict(), PATH)"
_TENSORFLOW = "Save the model with Keras: model.save('model.keras'), or model.save_weights('model.weights.h5')"
_ARRAYS = "Save the network's arrays with safetensors, under their names in the network"
_UNPACK = "Unpack it first"


@dataclass(frozen=True)
class _Other:
    """A format that bncli does not read: its name, and what to do instead."""

    what: str
    remedy: str


# Bytes at a place of a file -> its format, or a format that is not read; the first match counts.
# HDF5: https://docs.hdfgroup.org/hdf5/v1_14/_f_m_t3.html. A PyTorch file before 1.6 begins with a pickled magic number;
# even older ones are tar archives. An ONNX file begins with its IR version, field 1 of a protobuf message.
_CONTENTS: tuple[tuple[int, bytes, str | _Other], ...] = (
    (257, b"ustar", _Other("a tar archive", _UNPACK)),
    (0, b"\x89HDF\r\n\x1a\n", "keras"),
    (0, b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "pytorch"),
    *(
        (0, bytes((0x80, protocol)), _Other("a pickle, and opening one can run any program", _ARRAYS))
        for protocol in range(2, 6)
    ),
    (0, b"\x08\x01\x12", _Other("the graph of a TensorFlow SavedModel", _TENSORFLOW)),
    *((0, bytes((8, version)), "onnx") for version in range(2, 64)),
    (0, b"model_checkpoint_path:", _Other("a list of TensorFlow checkpoints", _TENSORFLOW)),
    (0, MAGIC, _Other("a single NumPy array", _ARRAYS)),
    (0, b"\x1f\x8b", _Other("compressed by gzip", _UNPACK)),
    (0, b"BZh", _Other("compressed by bzip2", _UNPACK)),
    (0, b"\xfd7zXZ", _Other("compressed by xz", _UNPACK)),
    (0, b"\x28\xb5\x2f\xfd", _Other("compressed by zstd", _UNPACK)),
    (0, b"version https://git-lfs", _Other("a Git LFS pointer, not the file itself", "Fetch the file: git lfs pull")),
    (0, b"<", _Other("a text, perhaps the error page of a failed download", "Download the file itself")),
    # A map of msgpack: fixmap, map 16, map 32.
    *((0, bytes((kind,)), "flax-msgpack") for kind in (*range(0x80, 0x90), 0xDE, 0xDF)),
)
# End of the name of an archive member -> a format that is not read.
_OTHER_ARCHIVES: tuple[tuple[str, _Other], ...] = (
    ("/constants.pkl", _Other("a TorchScript program, and bncli runs no programs", _STATE_DICT)),
    ("archive_format", _Other("a torch.export program, and bncli runs no programs", _STATE_DICT)),
    ("serialized_exported_program.json", _Other("a torch.export program, and bncli runs no programs", _STATE_DICT)),
    (".npy", _Other("an npz archive of arrays, whose names follow no framework", _ARRAYS)),
)
# Files of TensorFlow checkpoints, whose content does not identify them.
_TENSORFLOW_NAMES = ("*.data-?????-of-?????", "*.index")

# In place of an array in the index of an old Orbax directory.
PLACEHOLDER = "PLACEHOLDER://"

# Bytes that the directory of an archive and a config.json may take: 100,000 members, and a thousand times bncli's own.
MAX_DIRECTORY = 8 << 20
MAX_CONFIG = 8 << 20


def detect(path: Path) -> str:
    """The format of the file or directory at ``path``: a key of ``READERS``.

    Raises:
        CheckpointError: the path does not exist, or bncli cannot read it; the message names the format if known.
    """
    try:
        if path.is_dir():
            return _of_directory(path)
        if path.is_file():
            return _of_file(path)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}", remedy=READABLE) from error
    what = "is neither a file nor a directory" if path.exists() else "no such file or directory"
    raise CheckpointError(f"{path}: {what}", remedy=READABLE)


def _of_directory(path: Path) -> str:
    if _is_bncli(path / "config.json"):
        return "bncli"
    if any(map(is_orbax_item, (path, *path.glob("*/"), *path.glob("*/*/")))):
        return "orbax"
    readable = next((file for file in sorted(path.iterdir()) if file.is_file() and _is_readable(file)), None)
    if readable is not None:
        raise CheckpointError(f"{path} is a directory, not a checkpoint file", remedy=f"Name the file: {readable}")
    if any(any(path.glob(pattern)) for pattern in ("saved_model.pb", *_TENSORFLOW_NAMES)):
        raise CheckpointError(
            f"{path} holds a TensorFlow checkpoint, which bncli does not read", remedy=f"{_TENSORFLOW}."
        )
    raise CheckpointError(f"{path} holds no checkpoint: no config.json of bncli and no Orbax tree", remedy=READABLE)


def is_orbax_item(directory: Path) -> bool:
    """True for a tree saved by Orbax: with a ``_METADATA``, or before version 0.5 with an index of placeholders."""
    if (directory / "_METADATA").is_file():
        return True
    index = directory / "checkpoint"
    if not index.is_file() or index.stat().st_size > MAX_CONFIG:
        return False
    return PLACEHOLDER.encode() in read_regular(index)


def _is_bncli(config: Path) -> bool:
    """True for a config.json of bncli, or one that cannot be parsed: bncli's reader then names the damage."""
    if not config.is_file() or config.stat().st_size > MAX_CONFIG:
        return False
    try:
        document = json.loads(read_regular(config))
    except (ValueError, RecursionError):
        return True
    return isinstance(document, dict) and str(document.get("schema")).startswith("bncli.config/")


def _is_readable(path: Path) -> bool:
    try:
        _of_file(path)
    except (CheckpointError, OSError):
        return False
    return True


def _of_file(path: Path) -> str:
    with open_regular(path) as file:
        start = file.read(512)
    if not start:
        raise CheckpointError(f"{path} is empty", remedy="Restore it from a copy.")
    if start.startswith(b"PK\x03\x04"):
        return _of_archive(path)
    if start.startswith((MAGIC, b"{")) and is_equinox(path):
        return "equinox"
    if _is_safetensors(start):  # before ONNX: its first byte can be anything
        return "safetensors"
    for place, content, kind in _CONTENTS:
        if start.startswith(content, place):
            return _format(path, kind)
    if any(map(path.match, _TENSORFLOW_NAMES)):
        raise CheckpointError(f"{path} is part of a TensorFlow checkpoint", remedy=f"{_TENSORFLOW}. {READABLE}")
    raise CheckpointError(f"{path} is not a checkpoint that bncli can read", remedy=READABLE)


def _is_safetensors(start: bytes) -> bool:
    """True if the file begins with a length below 4 GiB, followed by a JSON object."""
    return start[4:9] == b"\0\0\0\0{"


def _format(path: Path, kind: str | _Other) -> str:
    """The name of a format that is read.

    Raises:
        CheckpointError: the format is not read.
    """
    if isinstance(kind, _Other):
        raise CheckpointError(f"{path} is {kind.what}", remedy=f"{kind.remedy}. {READABLE}")
    return kind


def _of_archive(path: Path) -> str:
    names = _member_names(path)
    for ending, kind in _OTHER_ARCHIVES:
        if any(name.endswith(ending) for name in names):
            return _format(path, kind)
    for file_format, fits in _ARCHIVES.items():
        if fits(names):
            return file_format
    raise CheckpointError(
        f"{path} is a zip archive, but not one of Keras or PyTorch",
        remedy=f"{_UNPACK}, if it contains a checkpoint. {READABLE}",
    )


def _member_names(path: Path) -> Sequence[str]:
    try:
        with _Bounded(path) as file, zipfile.ZipFile(file) as archive:
            return archive.namelist()
    # The archive's directory is damaged, or a name in it cannot be decoded.
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, EOFError) as error:
        raise CheckpointError(f"{path} is a damaged zip archive: {error}", remedy="Restore it from a copy.") from None


class _Bounded(io.FileIO):
    """A file that refuses reads longer than an archive's directory may be: in Python it takes 20 times as much."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to ``size`` bytes."""
        if size is not None and size > MAX_DIRECTORY:
            raise zipfile.BadZipFile(f"its directory claims to be {size:,} bytes long")
        return super().read(size)


def _is_keras(names: Sequence[str]) -> bool:
    return "model.weights.h5" in names


def _is_pytorch(names: Sequence[str]) -> bool:
    return any(name.count("/") == 1 and name.endswith("/data.pkl") for name in names)


_ARCHIVES: dict[str, Callable[[Sequence[str]], bool]] = {"keras": _is_keras, "pytorch": _is_pytorch}
