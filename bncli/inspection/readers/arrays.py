"""The arrays of a file by their paths. Values are read only when asked for."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from bncli.errors import CheckpointError

Path = tuple[str, ...]  # the keys and names that lead to an array or a layer

FLOATS = ("float64", "float32", "float16", "bfloat16")
# Values in all BN arrays together. The largest networks have a few hundred thousand; a file may claim any number.
MAX_VALUES = 1 << 23
# Depth of a tree: no network is deeper, and Python's stack is finite.
MAX_DEPTH = 64
# Characters in an array's path: sorting paths of a few megabytes would take gigabytes.
MAX_NAME = 4096

# Suffixes that TensorFlow and Flax NNX add to the name of a variable.
_SUFFIX = re.compile(r":0$")
_WRAPPED = ("value", "raw_value")
_NUMBER = re.compile(r"0*(\d+)")


@dataclass(frozen=True)
class Stored:
    """An array in a file.

    Attributes:
        shape: as the file declares it, checked against the bytes that are there.
        dtype: name, such as "float32" or "bfloat16".
        read: returns the array; bfloat16 as any type that NumPy can convert to float64.
        place: the start of its path: the keys above its state dict, if a file nests several.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]
    place: Path = ()

    @property
    def size(self) -> int:
        """The number of values."""
        return math.prod(self.shape)

    def values(self) -> np.ndarray:
        """The values in float64.

        Raises:
            CheckpointError: there are more values than a BN array ever has.
        """
        if self.size > MAX_VALUES:
            raise CheckpointError(
                f"an array of {self.size:,} values is too large for a BN layer", remedy="Is the file damaged?"
            )
        return np.asarray(self.read()).astype(np.float64)


Arrays = Mapping[Path, Stored]


@runtime_checkable
class _Array(Protocol):
    """A JAX or NumPy array."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> object: ...


def in_memory(tree: Mapping[str, object]) -> dict[Path, Stored]:
    """The arrays in nested dicts; other values are left out.

    Raises:
        CheckpointError: the tree is too deep.
    """
    return {canonical(path): _stored(array) for path, array in _leaves(tree, ())}


def _leaves(tree: Mapping[str, object], path: Path) -> Iterator[tuple[Path, _Array]]:
    if len(path) > MAX_DEPTH:
        raise CheckpointError(
            f"a tree of more than {MAX_DEPTH} levels is too deep for a network", remedy="Is the file damaged?"
        )
    for key, child in tree.items():
        if isinstance(child, Mapping):
            yield from _leaves(child, (*path, str(key)))
        elif isinstance(child, _Array):
            yield (*path, str(key)), child


def _stored(array: _Array) -> Stored:
    return Stored(tuple(array.shape), str(array.dtype), lambda: np.asarray(array))


def canonical(path: Path) -> Path:
    """The path without suffixes that frameworks add to a variable's name, one part a level.

    Raises:
        CheckpointError: the path is longer than any network's.
    """
    if sum(map(len, path)) > MAX_NAME or sum(key.count("/") for key in path) > MAX_DEPTH:
        raise CheckpointError("the file contains a name that is too long for a network", remedy="Is the file damaged?")
    if len(path) > 1 and path[-1] in _WRAPPED:
        path = path[:-1]
    parts = [part for key in path for part in key.split("/")]  # Haiku's module names contain slashes
    return (*parts[:-1], _SUFFIX.sub("", parts[-1]))


def split_name(name: str) -> Path:
    """The path of a flat name, split at dots and slashes: ``layer1.0.bn1.weight``, ``params/Conv_0/kernel``."""
    return canonical(tuple(re.split(r"[./]", name)))


def naturally(path: Path) -> Path:
    """A sort key that orders the numbers in paths: ``BatchNorm_2`` before ``BatchNorm_10``.

    Each number is preceded by its number of digits, as a character.
    """
    return tuple(_NUMBER.sub(lambda match: chr(len(match[1])) + match[1], part) for part in path)


def bfloat16_bits(bits: np.ndarray) -> np.ndarray:
    """float32 numbers from the uint16 bits of bfloat16, which are the upper half of a float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
