"""The arrays of a file by their paths. Values are read only when asked for."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
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


# Leaves of a tree that hold no arrays.
_PLAIN = (type(None), bool, int, float, complex, str, bytes)


def in_memory(tree: Mapping[str, object]) -> dict[Path, Stored]:
    """The arrays in nested dicts, lists and tuples; elements of a list are named by their numbers.

    Raises:
        CheckpointError: the tree is too deep.
    """
    return {canonical(path): _stored(leaf) for path, leaf in leaves(tree) if isinstance(leaf, _Array)}


def not_looked_into(tree: Mapping[str, object]) -> tuple[str, ...]:
    """A note on the values of a tree that are neither containers, nor arrays, nor plain values; else none."""
    unknown = Counter(type(leaf).__name__ for _, leaf in leaves(tree) if not isinstance(leaf, (_Array, *_PLAIN)))
    named = ", ".join(f"{count} {name}" for name, count in unknown.items())
    return (f"not examined, values of other types: {named[:200]}",) if unknown else ()


def leaves(node: object, path: Path = ()) -> Iterator[tuple[Path, object]]:
    """Everything in a tree that is not a container, by path.

    Raises:
        CheckpointError: the tree is too deep.
    """
    if len(path) > MAX_DEPTH:
        raise CheckpointError(
            f"a tree of more than {MAX_DEPTH} levels is too deep for a network", remedy="Is the file damaged?"
        )
    children = children_of(node)
    if children is None:
        box = getattr(type(node), "__jax_array__", None)  # of a variable of NNX, which holds an array
        yield path, node if box is None else box(node)
    for key, child in children or ():
        yield from leaves(child, (*path, key))


def children_of(node: object) -> Iterable[tuple[str, object]] | None:
    """The members of a dict, list or tuple by key or number; None for any other value."""
    if isinstance(node, Mapping):
        return ((str(key), child) for key, child in node.items())
    if isinstance(node, list | tuple):
        return ((str(number), child) for number, child in enumerate(node))
    return None


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
