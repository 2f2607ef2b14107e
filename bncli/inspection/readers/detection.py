"""What lies at a path, by its content: names and endings are anyone's."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

from bncli.errors import CheckpointError

READABLE = (
    "bncli reads its own directories, Orbax directories, and files of Flax (msgpack), Keras (.keras, .h5), ONNX, "
    "PyTorch (.pt, .pth) and safetensors."
)

# The start of a file -> its format. https://docs.hdfgroup.org/hdf5/v1_14/_f_m_t3.html; a PyTorch file before 1.6 begins
# with a pickled magic number; an ONNX file with the number of its format, field 1 of a protobuf message.
_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"\x89HDF\r\n\x1a\n", "keras"),
    (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "pytorch"),
    (b"\x08", "onnx"),
)
# A msgpack map begins with one of these bytes: fixmap, map 16, map 32.
_MSGPACK_MAPS = (*range(0x80, 0x90), 0xDE, 0xDF)
# The start of what is something else -> what it is, and what to do.
_OTHERS: tuple[tuple[bytes, str, str], ...] = (
    *(
        (bytes((0x80, protocol)), "a pickle: opening it can run any program, so it is not opened", "Save its arrays.")
        for protocol in range(2, 6)
    ),
    (b"\x1f\x8b", "compressed by gzip", "Unpack it first."),
    (b"version https://git-lfs", "a pointer of Git LFS to the file itself", "Fetch it: git lfs pull"),
    (b"<", "a text, such as the page of a download that failed", "Get the file itself."),
)


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
    if any(path.glob("_METADATA")) or any(path.glob("*/_METADATA")) or any(path.glob("*/*/_METADATA")):
        return "orbax"
    files = [file for file in sorted(path.iterdir()) if file.is_file() and _is_readable(file)]
    remedy = f"Name the file: {files[0]}" if files else READABLE
    raise CheckpointError(f"{path} holds no checkpoint: neither bncli's config.json nor an Orbax tree", remedy=remedy)


def _is_bncli(config: Path) -> bool:
    """Whether it is bncli's; one that cannot be read counts as such, and its reader says what is wrong with it."""
    if not config.is_file():
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
        start = file.read(64)
    if start.startswith(b"PK\x03\x04"):
        return _of_archive(path)
    for beginning, file_format in _STARTS:
        if start.startswith(beginning):
            return file_format
    if _is_safetensors(start, path.stat().st_size):
        return "safetensors"
    for beginning, what, remedy in _OTHERS:
        if start.startswith(beginning):
            raise CheckpointError(f"{path} is {what}", remedy=f"{remedy} {READABLE}")
    if start and start[0] in _MSGPACK_MAPS:
        return "flax-msgpack"
    raise CheckpointError(f"{path} is no checkpoint that bncli reads", remedy=READABLE)


def _is_safetensors(start: bytes, size: int) -> bool:
    """Whether it begins with the length of a JSON object that lies within the file, and with that."""
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= size - 8


def _of_archive(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    # A damaged directory of the archive; its reader of names decodes them, too.
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, EOFError) as error:
        raise CheckpointError(f"{path} is a damaged zip archive: {error}", remedy="Restore it from a copy.") from None
    for file_format, fits in _ARCHIVES.items():
        if fits(names):
            return file_format
    raise CheckpointError(f"{path} is a zip archive of neither Keras nor PyTorch", remedy=READABLE)


def _is_keras(names: Iterable[str]) -> bool:
    return "model.weights.h5" in names


def _is_pytorch(names: Iterable[str]) -> bool:
    return any(name.count("/") == 1 and name.endswith("/data.pkl") for name in names)


_ARCHIVES: dict[str, Callable[[Iterable[str]], bool]] = {"keras": _is_keras, "pytorch": _is_pytorch}
