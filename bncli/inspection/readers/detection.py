"""What lies at a path, by its content: names and endings are anyone's."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bncli.errors import CheckpointError

READABLE = (
    "bncli reads its own directories, Orbax directories, and files of Flax (msgpack), Keras (.keras, .h5), ONNX, "
    "PyTorch (.pt, .pth) and safetensors."
)
_STATE_DICT = "Save the weights alone: torch.save(model.state_dict(), PATH)"
_TENSORFLOW = "Save the model for Keras: model.save('model.keras'), or model.save_weights('model.weights.h5')"
_ARRAYS = "Save the network's arrays by safetensors, under the names they have in it"
_UNPACK = "Unpack it first"


@dataclass(frozen=True)
class _Other:
    """Something that bncli does not read: what it is, and what to do."""

    what: str
    remedy: str


# The bytes at a place of a file -> its format, or what else it is; the first that is there counts.
# https://docs.hdfgroup.org/hdf5/v1_14/_f_m_t3.html; a PyTorch file before 1.6 begins with a pickled magic number, one
# older than that is a tar archive; an ONNX file with the number of its format, field 1 of a protobuf message.
_CONTENTS: tuple[tuple[int, bytes, str | _Other], ...] = (
    (257, b"ustar", _Other("a tar archive", _UNPACK)),
    (0, b"\x89HDF\r\n\x1a\n", "keras"),
    (0, b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "pytorch"),
    *(
        (0, bytes((0x80, protocol)), _Other("a pickle: opening it can run any program", _ARRAYS))
        for protocol in range(2, 6)
    ),
    (0, b"\x08\x01\x12", _Other("the graph of a TensorFlow SavedModel", _TENSORFLOW)),
    *((0, bytes((8, version)), "onnx") for version in range(2, 64)),
    (0, b"model_checkpoint_path:", _Other("the list of TensorFlow's checkpoints beside it", _TENSORFLOW)),
    (0, b"\x93NUMPY", _Other("one array of NumPy", _ARRAYS)),
    (0, b"\x1f\x8b", _Other("compressed by gzip", _UNPACK)),
    (0, b"BZh", _Other("compressed by bzip2", _UNPACK)),
    (0, b"\xfd7zXZ", _Other("compressed by xz", _UNPACK)),
    (0, b"\x28\xb5\x2f\xfd", _Other("compressed by zstd", _UNPACK)),
    (0, b"version https://git-lfs", _Other("a pointer of Git LFS to the file itself", "Fetch it: git lfs pull")),
    (0, b"<", _Other("a text, such as the page of a download that failed", "Get the file itself")),
    # A map of msgpack: fixmap, map 16, map 32.
    *((0, bytes((kind,)), "flax-msgpack") for kind in (*range(0x80, 0x90), 0xDE, 0xDF)),
)
# How the name of a member of an archive ends -> what it is, other than Keras' and PyTorch's.
_OTHER_ARCHIVES: tuple[tuple[str, _Other], ...] = (
    ("/constants.pkl", _Other("a TorchScript program: bncli runs no programs", _STATE_DICT)),
    ("archive_format", _Other("a program of torch.export: bncli runs no programs", _STATE_DICT)),
    ("serialized_exported_program.json", _Other("a program of torch.export: bncli runs no programs", _STATE_DICT)),
    (".npy", _Other("an npz of arrays, whose names are no framework's", _ARRAYS)),
)
# Files of TensorFlow's checkpoints, of which no content tells.
_TENSORFLOW_NAMES = ("*.data-?????-of-?????", "*.index")

# What a directory of an archive, and a config.json, may take: 100,000 members, and a thousand times what bncli writes.
MAX_DIRECTORY = 8 << 20
MAX_CONFIG = 8 << 20


def detect(path: Path) -> str:
    """The format of what lies at ``path``: a key of ``READERS``.

    Raises:
        CheckpointError: nothing lies there, or nothing that bncli reads; says what it is where that is known.
    """
    try:
        if path.is_dir():
            return _of_directory(path)
        if path.is_file():
            return _of_file(path)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}", remedy=READABLE) from error
    what = "is no file" if path.exists() else "no such file or directory"
    raise CheckpointError(f"{path}: {what}", remedy=READABLE)


def _of_directory(path: Path) -> str:
    if _is_bncli(path / "config.json"):
        return "bncli"
    if any(any(path.glob(pattern)) for pattern in ("_METADATA", "*/_METADATA", "*/*/_METADATA")):
        return "orbax"
    readable = next((file for file in sorted(path.iterdir()) if file.is_file() and _is_readable(file)), None)
    if readable is not None:
        raise CheckpointError(f"{path} is a directory of files", remedy=f"Name the file: {readable}")
    if any(any(path.glob(pattern)) for pattern in ("saved_model.pb", *_TENSORFLOW_NAMES)):
        raise CheckpointError(f"{path} is TensorFlow's, whose format bncli does not read", remedy=f"{_TENSORFLOW}.")
    raise CheckpointError(f"{path} holds no checkpoint: neither bncli's config.json nor an Orbax tree", remedy=READABLE)


def _is_bncli(config: Path) -> bool:
    """Whether it is bncli's; one that cannot be read counts as such, and its reader says what is wrong with it."""
    if not config.is_file() or config.stat().st_size > MAX_CONFIG:
        return False
    try:
        document = json.loads(config.read_bytes())
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
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        raise CheckpointError(f"{path} is empty", remedy="Restore it from a copy.")
    if start.startswith(b"PK\x03\x04"):
        return _of_archive(path)
    if _is_safetensors(start):  # before ONNX: any byte may begin it
        return "safetensors"
    for place, content, kind in _CONTENTS:
        if start.startswith(content, place):
            return _format(path, kind)
    if any(map(path.match, _TENSORFLOW_NAMES)):
        raise CheckpointError(f"{path} is a part of a checkpoint of TensorFlow", remedy=f"{_TENSORFLOW}. {READABLE}")
    raise CheckpointError(f"{path} is no checkpoint that bncli reads", remedy=READABLE)


def _is_safetensors(start: bytes) -> bool:
    """Whether it begins with the length of a JSON object, less than 4 GiB, and with that."""
    return start[4:9] == b"\0\0\0\0{"


def _format(path: Path, kind: str | _Other) -> str:
    """The format.

    Raises:
        CheckpointError: it is none.
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
        f"{path} is a zip archive of neither Keras nor PyTorch",
        remedy=f"{_UNPACK}, if there is a checkpoint in it. {READABLE}",
    )


def _member_names(path: Path) -> Sequence[str]:
    try:
        with _Bounded(path) as file, zipfile.ZipFile(file) as archive:
            return archive.namelist()
    # A damaged directory of the archive; its reader of names decodes them, too.
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, EOFError) as error:
        raise CheckpointError(f"{path} is a damaged zip archive: {error}", remedy="Restore it from a copy.") from None


class _Bounded(io.FileIO):
    """A file of which no more is read at once than an archive's directory may take: Python keeps 20 times as much."""

    def read(self, size: int | None = -1, /) -> bytes:
        """At most so many bytes."""
        if size is not None and size > MAX_DIRECTORY:
            raise zipfile.BadZipFile(f"its directory claims {size:,} bytes")
        return super().read(size)


def _is_keras(names: Sequence[str]) -> bool:
    return "model.weights.h5" in names


def _is_pytorch(names: Sequence[str]) -> bool:
    return any(name.count("/") == 1 and name.endswith("/data.pkl") for name in names)


_ARCHIVES: dict[str, Callable[[Sequence[str]], bool]] = {"keras": _is_keras, "pytorch": _is_pytorch}
