"""PyTorch's file formats, zip and older: a pickle of the objects, and the numbers of their tensors beside it.

Neither PyTorch nor Python's unpickler is used. ``inert_pickle`` reads the pickle, and the calls in ``CALLS`` are the
only ones that make anything: tensors, each a view of a storage. The formats are described in PyTorch's
https://docs.pytorch.org/docs/stable/notes/serialization.html and ``torch/serialization.py``.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path as FilePath

import numpy as np

from bncli.errors import CheckpointError
from bncli.inspection.readers.arrays import bfloat16_bits
from bncli.inspection.readers.inert_pickle import Call, Global, load
from bncli.process.files import open_regular

SAVE_ANEW = "Save only the weights: torch.save(model.state_dict(), PATH), or safetensors.torch.save_file."
# A tensor takes 150 bytes in the pickle of a state dict; Python's objects for it take ten times as much.
MAX_PICKLE = 64 << 20

# Class of a storage -> dtype of its elements.
_STORAGES = {
    "BFloat16Storage": "bfloat16",
    "BoolStorage": "bool",
    "ByteStorage": "uint8",
    "CharStorage": "int8",
    "ComplexDoubleStorage": "complex128",
    "ComplexFloatStorage": "complex64",
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "QInt32Storage": "int32",
    "QInt8Storage": "int8",
    "QUInt8Storage": "uint8",
    "ShortStorage": "int16",
    "UntypedStorage": "uint8",
}
# Bytes of an element whose dtype NumPy lacks.
_SIZES = {"bfloat16": 2}
# Pickles at the start of a file of before PyTorch 1.6: magic number, version, properties of the machine.
_HEADER = 3
# Ahead of each storage there: its number of elements.
_COUNT_BYTES = 8


@dataclass(frozen=True)
class Storage:
    """A vector of numbers in the file.

    Attributes:
        key: its name in the file.
        dtype: of its elements.
        elements: their number.
        start: the element at which a view of another storage begins.
    """

    key: str
    dtype: str
    elements: int
    start: int = 0


@dataclass(frozen=True)
class Tensor:
    """A view of a storage, in elements.

    Attributes:
        storage: holds the numbers.
        dtype: name, such as "float32".
        offset: of the first element.
        shape: checked to lie within the storage.
        strides: distance of two elements along each axis.
    """

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def span(self) -> int:
        """The number of elements from the first to the last."""
        steps = ((length - 1) * stride for length, stride in zip(self.shape, self.strides, strict=True))
        return 0 if 0 in self.shape else 1 + sum(steps)


@dataclass(frozen=True)
class TorchFile:
    """A file's object, and the numbers of its tensors.

    Attributes:
        content: dicts, lists, tensors, and records of everything else.
        read_bytes: bytes of a storage, from a start to an end.
        is_big_endian: the byte order of the numbers.
    """

    content: object
    read_bytes: Callable[[str, int, int], bytes]
    is_big_endian: bool

    def numbers(self, tensor: Tensor) -> np.ndarray:
        """The elements of a tensor, bfloat16 as float32.

        Raises:
            CheckpointError: the file lacks them.
        """
        size = size_of(tensor.dtype)
        start = (tensor.storage.start + tensor.offset) * size
        content = self.read_bytes(tensor.storage.key, start, start + tensor.span * size)
        if len(content) != tensor.span * size:
            raise _damaged(f"storage {tensor.storage.key} is too short for a tensor of shape {list(tensor.shape)}")
        kind = np.dtype("uint16" if tensor.dtype == "bfloat16" else tensor.dtype).newbyteorder(
            ">" if self.is_big_endian else "<"
        )
        flat = np.frombuffer(content, kind).astype(kind.newbyteorder("="))
        flat = bfloat16_bits(flat) if tensor.dtype == "bfloat16" else flat
        strides = tuple(stride * flat.itemsize for stride in tensor.strides)
        return np.lib.stride_tricks.as_strided(flat, tensor.shape, strides, writeable=False)


@contextmanager
def opened(path: FilePath) -> Iterator[TorchFile]:
    """Read the objects of a file; the numbers of its tensors are read when asked for, while it is open.

    Raises:
        CheckpointError: the file is damaged.
    """
    with ExitStack() as stack:
        try:
            file = _open_zip(path, stack) if zipfile.is_zipfile(path) else _open_old(path, stack)
        except (LookupError, TypeError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
            raise _damaged(f"{path}: {type(error).__name__}: {str(error)[:200]}") from error
        yield file


def _damaged(what: str) -> CheckpointError:
    return CheckpointError(f"the file is damaged, or no state dict: {what}", remedy=SAVE_ANEW)


def _open_zip(path: FilePath, stack: ExitStack) -> TorchFile:
    archive = stack.enter_context(zipfile.ZipFile(stack.enter_context(open_regular(path))))
    names = dict.fromkeys(archive.namelist())
    _check_archive(path, archive)
    pickle_name = next(name for name in names if name.count("/") == 1 and name.endswith("/data.pkl"))
    root = pickle_name.removesuffix("data.pkl")
    order = archive.read(f"{root}byteorder") if f"{root}byteorder" in names else b"little"
    content = load(io.BytesIO(archive.read(pickle_name)), calls=CALLS, persistent=_storage)

    def read_bytes(key: str, start: int, end: int) -> bytes:
        with archive.open(f"{root}data/{key}") as member:
            member.seek(start)
            return member.read(end - start)

    return TorchFile(content, _checked(read_bytes), order == b"big")


def _check_archive(path: FilePath, archive: zipfile.ZipFile) -> None:
    """Raise CheckpointError unless the members are stored as PyTorch does: uncompressed, within the file."""
    size = path.stat().st_size
    for member in archive.infolist():
        limit = MAX_PICKLE if member.filename.endswith("data.pkl") else size
        if member.compress_type != zipfile.ZIP_STORED or member.file_size > min(limit, size):
            raise CheckpointError(
                f"{path}: {member.filename} is compressed, or claims {member.file_size:,} of {size:,} bytes",
                remedy=SAVE_ANEW,
            )


def _open_old(path: FilePath, stack: ExitStack) -> TorchFile:
    """A file of before PyTorch 1.6: pickles one after the other, then the storages."""
    file = stack.enter_context(open_regular(path))
    buffer = io.BytesIO(file.read(MAX_PICKLE))
    header = [load(buffer, calls=CALLS, persistent=_storage) for _ in range(_HEADER)]
    storages: dict[str, Storage] = {}

    def remembered(identity: object) -> object:
        storage = _storage(identity)
        if isinstance(storage, Storage):
            storages.setdefault(storage.key, storage)
        return storage

    content = load(buffer, calls=CALLS, persistent=remembered)
    keys = load(buffer, calls=CALLS, persistent=_storage)
    places = _places(keys, storages, buffer.tell())

    def read_bytes(key: str, start: int, end: int) -> bytes:
        file.seek(places[key] + start)
        return file.read(end - start)

    machine = header[-1]
    is_little = machine.get("little_endian", True) if isinstance(machine, dict) else True
    return TorchFile(content, _checked(read_bytes), not is_little)


def _places(keys: object, storages: Mapping[str, Storage], place: int) -> dict[str, int]:
    """The byte at which each storage begins, if they follow each other from ``place`` on."""
    places = {}
    for key in keys if isinstance(keys, list) else []:
        places[str(key)] = place + _COUNT_BYTES
        storage = storages[str(key)]
        place += _COUNT_BYTES + storage.elements * size_of(storage.dtype)
    return places


def _checked(read_bytes: Callable[[str, int, int], bytes]) -> Callable[[str, int, int], bytes]:
    """The same reader, with errors that say what is damaged."""

    def read(key: str, start: int, end: int) -> bytes:
        try:
            return read_bytes(key, start, end)
        except (LookupError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
            raise _damaged(f"storage {key[:40]}: {str(error)[:200]}") from error

    return read


def size_of(dtype: str) -> int:
    """The bytes of an element."""
    return _SIZES.get(dtype) or np.dtype(dtype).itemsize


# What a persistent id and the calls in a pickle stand for.


def _storage(identity: object) -> object:
    """The storage of a persistent id: ("storage", its class, its key, a device, the number of elements, a view).

    Before PyTorch 1.6 the class of a module had one too: ("module", the class, its source).
    """
    if isinstance(identity, tuple) and identity[0] == "module":
        return identity[1]
    if not isinstance(identity, tuple) or identity[0] != "storage":
        raise TypeError("a reference to something else than a storage")
    kind, key, _device, elements, *view = identity[1:]
    if not isinstance(kind, Global) or not isinstance(key, str):
        raise TypeError("a storage without a class and a name")
    dtype = _STORAGES.get(kind.name, kind.name)
    if view and view[0] is not None:  # of another storage, in files of before PyTorch 1.0
        _, start, length = _ints_after_name(view[0])
        return Storage(key, dtype, length, start)
    return Storage(key, dtype, _count(elements))


def _ints_after_name(view: object) -> tuple[object, int, int]:
    if not isinstance(view, tuple):
        raise TypeError("a view of a storage without its place")
    name, start, length = view
    return name, _count(start), _count(length)


def _count(value: object) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError("a negative size")
    return int(value)


def _counts(values: object) -> tuple[int, ...]:
    if not isinstance(values, tuple | list):
        raise TypeError("a shape that is no tuple")
    return tuple(map(_count, values))


def _tensor(storage: object, offset: object, shape: object, strides: object, *_: object) -> object:
    """A tensor of the storage's dtype; its gradient settings and hooks are dropped."""
    if not isinstance(storage, Storage):
        raise TypeError("a tensor without a storage")
    return _view(storage, storage.dtype, (offset, shape, strides))


def _tensor_of_dtype(
    storage: object,
    offset: object,
    shape: object,
    strides: object,
    _grad: object,
    _hooks: object,
    dtype: object,
    *_: object,
) -> object:
    """A tensor whose dtype no class of storages has, such as float8."""
    if not isinstance(storage, Storage) or not isinstance(dtype, Global):
        raise TypeError("a tensor without a storage and a dtype")
    return _view(storage, dtype.name, (offset, shape, strides))


def _view(storage: Storage, dtype: str, place: tuple[object, object, object]) -> Tensor:
    """A tensor that is checked to lie within its storage."""
    tensor = Tensor(storage, dtype, _count(place[0]), _counts(place[1]), _counts(place[2]))
    if dtype == storage.dtype and tensor.offset + tensor.span > storage.elements:
        raise ValueError(f"a tensor of shape {list(tensor.shape)} in a storage of {storage.elements:,} numbers")
    return tensor


def _first(value: object, *_: object) -> object:
    """A parameter's tensor, or that of a device without storages; the rest is settings."""
    return value


def _of_subclass(function: object, _cls: object, args: object, *_: object) -> object:
    """The plain tensor of a subclass of tensors."""
    if not isinstance(function, Global) or not isinstance(args, tuple):
        raise TypeError("a tensor that is not made by a function")
    return CALLS[function](*args)


CALLS: dict[Global, Call] = {
    Global("torch._tensor", "_rebuild_from_type_v2"): _of_subclass,
    Global("torch._utils", "_rebuild_device_tensor_from_numpy"): _first,
    Global("torch._utils", "_rebuild_parameter"): _first,
    Global("torch._utils", "_rebuild_parameter_with_state"): _first,
    Global("torch._utils", "_rebuild_tensor"): _tensor,
    Global("torch._utils", "_rebuild_tensor_v2"): _tensor,
    Global("torch._utils", "_rebuild_tensor_v3"): _tensor_of_dtype,
    Global("torch._utils", "_rebuild_xla_tensor"): _first,
}
