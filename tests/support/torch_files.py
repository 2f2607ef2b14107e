"""Files in PyTorch's formats, written without PyTorch, with objects of any class in them."""

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bncli.inspection.readers.inert_pickle import Global

_STORAGES = {"float16": "HalfStorage", "float32": "FloatStorage", "float64": "DoubleStorage", "int64": "LongStorage"}


@dataclass(eq=False)
class Object:
    """An object of a class that need not exist: pickled as a call, and the state that it is given."""

    made_by: Global
    args: tuple[object, ...] = ()
    state: object = None


@dataclass(eq=False)
class NumpyArray:
    """An array that is pickled as NumPy does; other arrays become tensors."""

    array: np.ndarray


@dataclass(eq=False)
class _Storage:
    array: np.ndarray
    key: str


def module(
    name: str, *, parameters: Mapping[str, object] = {}, children: Mapping[str, object] = {}, **attributes: Any
) -> Object:
    """An ``nn.Module`` of the class ``torch.nn.NAME``; arrays among the attributes are its buffers."""
    buffers = {key: value for key, value in attributes.items() if key.startswith(("running", "num_batches"))}
    settings = {key: value for key, value in attributes.items() if key not in buffers}
    parts = {"_parameters": parameters, "_buffers": buffers, "_modules": children}
    state = {"training": True, **{key: OrderedDict(part) for key, part in parts.items()}, **settings}
    return Object(Global("torch.nn", name), (), state)


def batch_norm(channels: int = 4, *, seed: int = 0, **settings: Any) -> Object:
    """A ``BatchNorm2d`` of random numbers."""
    rng = np.random.default_rng(seed)
    weight, bias, mean, var = rng.uniform(0.5, 1.5, (4, channels)).astype(np.float32)
    return module(
        "BatchNorm2d",
        parameters={"weight": weight, "bias": bias},
        **{"eps": 1e-3, "momentum": 0.03, **settings},
        running_mean=mean,
        running_var=var,
        num_batches_tracked=np.array(900),
    )


def state_dict(*names: str) -> OrderedDict[str, np.ndarray]:
    """The state dict of BN layers of these names."""
    state: OrderedDict[str, np.ndarray] = OrderedDict()
    for seed, name in enumerate(names):
        parts: Any = batch_norm(seed=seed).state
        state |= {f"{name}.{key}": array for part in ("_parameters", "_buffers") for key, array in parts[part].items()}
    return state


@dataclass
class _Writer:
    """The pickle of a file, and the storages that it refers to."""

    storages: list[np.ndarray] = field(default_factory=list)

    def pickled(self, content: object, protocol: int = 2) -> bytes:
        buffer = io.BytesIO()
        _Pickler(buffer, self, protocol).dump(content)
        return buffer.getvalue()


class _Pickler(pickle._Pickler):
    """Python's pickler in Python, whose parts can be replaced."""

    # Of Python's class, unknown to the type stubs.
    write: Callable[[bytes], object]
    save_reduce: Callable[..., None]
    dispatch: ClassVar[dict[type, Callable[..., None]]] = dict(pickle._Pickler.dispatch)

    def __init__(self, file: io.BytesIO, writer: _Writer, protocol: int) -> None:
        super().__init__(file, protocol)
        self.writer = writer

    def persistent_id(self, obj: object) -> object:
        if not isinstance(obj, _Storage):
            return None
        kind = _Name(Global("torch", _STORAGES[obj.array.dtype.name]))
        return ("storage", kind, obj.key, "cpu", obj.array.size)

    def save_name(self, name: "_Name") -> None:
        self.write(pickle.GLOBAL + f"{name.of.module}\n{name.of.name}\n".encode())

    def save_object(self, obj: Object) -> None:
        self.save_reduce(_Name(obj.made_by), obj.args, state=obj.state, obj=obj)

    def save_tensor(self, array: np.ndarray) -> None:
        storage = _Storage(array, str(len(self.writer.storages)))
        self.writer.storages.append(array)
        strides = tuple(stride // array.itemsize for stride in array.strides)
        rebuild = _Name(Global("torch._utils", "_rebuild_tensor_v2"))
        self.save_reduce(rebuild, (storage, 0, array.shape, strides, False, OrderedDict()), obj=array)

    def save_numpy(self, wrapped: NumpyArray) -> None:
        self.save_reduce(*wrapped.array.__reduce__(), obj=wrapped)

    dispatch |= {Object: save_object, np.ndarray: save_tensor, NumpyArray: save_numpy}


@dataclass(frozen=True)
class _Name:
    """The name of a class; a pickler insists that it can be called."""

    of: Global

    def __call__(self) -> None:
        raise AssertionError("a name is only written")


_Pickler.dispatch[_Name] = _Pickler.save_name


def write_torch(path: Path, content: object, *, protocol: int = 2) -> None:
    """Write a file as ``torch.save`` does: arrays become tensors, and each ``Object`` what it says."""
    writer = _Writer()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", writer.pickled(content, protocol))
        archive.writestr("archive/byteorder", "little")
        for key, array in enumerate(writer.storages):
            archive.writestr(f"archive/data/{key}", array.tobytes())


def write_old_torch(path: Path, content: object) -> None:
    """Write a file as PyTorch did before 1.6."""
    writer = _Writer()
    header = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True})
    body = writer.pickled(content)
    keys = [str(key) for key in range(len(writer.storages))]
    storages = [struct.pack("<q", array.size) + array.tobytes() for array in writer.storages]
    path.write_bytes(b"".join([*(pickle.dumps(part, 2) for part in header), body, pickle.dumps(keys, 2), *storages]))
