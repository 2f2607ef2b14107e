"""Arrays in a file by where they stand in it. Nothing is read until its values are asked for."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bncli.errors import CheckpointError

Path = tuple[str, ...]  # where something stands: the keys and names that lead to it

FLOATS = ("float64", "float32", "float16", "bfloat16")
# Of BN arrays in all. The largest networks have a few hundred thousand; a file may claim any number.
MAX_VALUES = 1 << 23
# How deep a tree may be: deeper is no network, and Python's stack ends somewhere.
MAX_DEPTH = 64
# Of an array's path in characters: sorting a few megabytes of one would take gigabytes.
MAX_NAME = 4096

# What Flax NNX and TensorFlow put behind the name of a variable.
_SUFFIX = re.compile(r":0$")
_WRAPPED = ("value", "raw_value")
_NUMBER = re.compile(r"0*(\d+)")


@dataclass(frozen=True)
class Stored:
    """An array in a file.

    Attributes:
        shape: as the file says; it has been checked against what is there.
        dtype: such as "float32" or "bfloat16".
        read: the array itself; bfloat16 as anything that NumPy can turn into float64.
        place: the keys of the state dict it is in, where a file nests several; the beginning of its path.
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
            CheckpointError: they are more than BN arrays ever are.
        """
        if self.size > MAX_VALUES:
            raise CheckpointError(f"an array of {self.size:,} values is no BN layer's", remedy="Is the file damaged?")
        return np.asarray(self.read()).astype(np.float64)


Arrays = Mapping[Path, Stored]


def in_memory(tree: Mapping[Any, Any]) -> dict[Path, Stored]:
    """The arrays in nested dicts; what is no array, and what lies in lists, is left out.

    Raises:
        CheckpointError: the tree is nested too deeply.
    """
    return {canonical(path): _stored(array) for path, array in _leaves(tree, ())}


def _leaves(tree: Mapping[Any, Any], path: Path) -> Iterator[tuple[Path, Any]]:
    if len(path) > MAX_DEPTH:
        raise CheckpointError(f"a tree of more than {MAX_DEPTH} levels is no network's", remedy="Is the file damaged?")
    for key, child in tree.items():
        if isinstance(child, Mapping):
            yield from _leaves(child, (*path, str(key)))
        elif hasattr(child, "shape") and hasattr(child, "dtype"):
            yield (*path, str(key)), child


def _stored(array: Any) -> Stored:  # noqa: ANN401 - a JAX or NumPy array
    return Stored(tuple(array.shape), str(array.dtype), lambda: np.asarray(array))


def canonical(path: Path) -> Path:
    """The path without what frameworks add to a variable's name, and with one part for each level.

    Raises:
        CheckpointError: it is longer than any network's.
    """
    if sum(map(len, path)) > MAX_NAME or sum(key.count("/") for key in path) > MAX_DEPTH:
        raise CheckpointError("it holds a name longer than any network's", remedy="Is the file damaged?")
    if len(path) > 1 and path[-1] in _WRAPPED:
        path = path[:-1]
    parts = [part for key in path for part in key.split("/")]  # Haiku's modules are keys with slashes
    return (*parts[:-1], _SUFFIX.sub("", parts[-1]))


def split_name(name: str) -> Path:
    """The path in a flat name, joined by dots or slashes: ``layer1.0.bn1.weight``, ``params/Conv_0/kernel``."""
    return canonical(tuple(re.split(r"[./]", name)))


def naturally(path: Path) -> Path:
    """A key to sort paths by in the order of numbers in them: ``BatchNorm_2`` before ``BatchNorm_10``.

    A number is preceded by how many digits it has, as a character.
    """
    return tuple(_NUMBER.sub(lambda match: chr(len(match[1])) + match[1], part) for part in path)


def bfloat16_bits(bits: np.ndarray) -> np.ndarray:
    """The float32 numbers whose upper halves are these bits, uint16: bfloat16 is that half."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
