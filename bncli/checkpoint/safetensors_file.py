"""A safetensors file with the arrays of a JAX network, whose names are paths: ``params.Conv_0.kernel``.

Slashes or dots part a name, as ``flax.traverse_util.flatten_dict`` does with ``sep``.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import safetensors

from bncli.errors import CheckpointError
from bncli.folding.folded import nested
from bncli.frameworks.linen import Variables
from bncli.process.files import open_regular

# Bytes of the length in front of the header, which is a JSON object.
_LENGTH = 8
_DTYPES: dict[str, np.dtype] = {
    "BOOL": np.dtype(np.bool_),
    "BF16": jnp.dtype(jnp.bfloat16),
    "F8_E4M3": jnp.dtype(jnp.float8_e4m3fn),
    "F8_E5M2": jnp.dtype(jnp.float8_e5m2),
    **{f"F{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
    **{f"{kind}{bits}": np.dtype(f"<{kind.lower()}{bits // 8}") for kind in "IU" for bits in (8, 16, 32, 64)},
}


def is_safetensors(path: Path) -> bool:
    """True if the file begins with the length of a header in it, and the brace of that header."""
    size = path.stat().st_size
    with open_regular(path) as file:
        start = file.read(_LENGTH + 1)
    return start[_LENGTH:] == b"{" and int.from_bytes(start[:_LENGTH], "little") <= size - _LENGTH


def read_tree(path: Path) -> Variables:
    """The arrays in nested dicts.

    Raises:
        CheckpointError: the file is damaged, or one name is both an array and a group of arrays.
    """
    with open_regular(path) as file:
        content = file.read()
    try:
        entries = safetensors.deserialize(content)
        arrays = {name: _array(entry["dtype"], entry["shape"], entry["data"]) for name, entry in entries}
        separator = _separator(arrays)
        return nested(_apart({tuple(name.split(separator)): array for name, array in arrays.items()}))
    except (safetensors.SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"{path} is a damaged safetensors file: {str(error)[:300]}", remedy="Restore it from a copy."
        ) from error


def _separator(names: Iterable[str]) -> str:
    """The character that parts the names; Haiku's modules have slashes in theirs."""
    has_slashes, has_dots = any("/" in name for name in names), all("." in name for name in names)
    return "/" if has_slashes and not has_dots else "."


def _array(dtype: str, shape: Iterable[int], data: bytes) -> np.ndarray:
    if dtype not in _DTYPES:
        raise ValueError(f"it holds an array of dtype {dtype}, which bncli does not read")
    return np.frombuffer(data, _DTYPES[dtype]).reshape(tuple(shape))


def _apart(arrays: dict[tuple[str, ...], np.ndarray]) -> dict[tuple[str, ...], np.ndarray]:
    """The arrays, if no path of one begins with the path of another.

    Raises:
        ValueError: one does.
    """
    for path in arrays:
        for length in range(1, len(path)):
            if path[:length] in arrays:
                raise ValueError(f"{'.'.join(path[:length])} is both an array and a group of arrays")
    return arrays
