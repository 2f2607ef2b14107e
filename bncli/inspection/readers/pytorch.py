"""BN layers of a PyTorch file, zip or older; the only importer of torch, in a separate process.

A file is opened only by ``torch.load(weights_only=True)``, which builds tensors and plain containers and calls nothing
else (https://docs.pytorch.org/docs/stable/notes/serialization.html).
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path as FilePath
from typing import TYPE_CHECKING

import numpy as np

from bncli.errors import CheckpointError
from bncli.inspection.readers.arrays import FLOATS, MAX_DEPTH, Path, Stored, children_of, split_name
from bncli.inspection.readers.assembly import contents_of
from bncli.inspection.readers.contents import Contents
from bncli.inspection.readers.copies import WRAPPER
from bncli.inspection.readers.settings import Asked

if TYPE_CHECKING:
    import torch

# In older versions a crafted file can run code in spite of weights_only: CVE-2025-32434, CVE-2026-24747.
OLDEST = (2, 10)
NEEDS_EXTRA = "pip install 'bncli[torch]', or save the weights with safetensors, which needs no torch"
_SAVE_ANEW = "Save only the weights: torch.save(model.state_dict(), PATH), or safetensors.torch.save_file."
# A tensor takes 150 bytes in the pickle of a state dict; Python's objects for it take ten times as much.
MAX_PICKLE = 64 << 20


def require_library() -> None:
    """Raise CheckpointError if torch is missing, or so old that a file can make it run code."""
    try:
        import torch
    except ImportError:
        raise CheckpointError(
            "reading a PyTorch file needs torch, which is not installed", remedy=NEEDS_EXTRA
        ) from None
    if tuple(map(int, torch.__version__.split(".")[:2])) < OLDEST:
        raise CheckpointError(
            f"PyTorch {torch.__version__} can run code from a file (CVE-2026-24747), so bncli does not use it",
            remedy="pip install 'torch>=2.10'",
        )


def read(path: FilePath, asked: Asked) -> Contents:
    """Read the BN layers of a PyTorch file; no other tensors of a zip file are read.

    Raises:
        CheckpointError: the file is damaged, or holds more than tensors and plain containers.
    """
    is_zip = zipfile.is_zipfile(path)
    if is_zip:
        _check_archive(path)
    return contents_of(dict(_arrays(_load(path, mmap=is_zip), ())), file_format="pytorch", asked=asked)


def _check_archive(path: FilePath) -> None:
    """Raise CheckpointError unless the members are stored as PyTorch does: uncompressed, within the file."""
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            limit = MAX_PICKLE if member.filename.endswith("data.pkl") else size
            if member.compress_type != zipfile.ZIP_STORED or member.file_size > min(limit, size):
                raise CheckpointError(
                    f"{path}: {member.filename} is compressed, or claims {member.file_size:,} of {size:,} bytes",
                    remedy=_SAVE_ANEW,
                )


def _load(path: FilePath, *, mmap: bool) -> object:
    """The content of the file.

    Raises:
        CheckpointError: the file holds an object that is neither a tensor nor a plain container, which is named, or is
            damaged.
    """
    import torch

    try:
        content: object = torch.load(str(path), map_location="cpu", weights_only=True, mmap=mmap)
        return content
    except MemoryError:
        raise
    except Exception as error:  # of any class: the unpickler's, the archive's, a tensor's
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = (
            f"holds {refused[1]} beside tensors, so bncli does not open it"
            if refused
            else "is damaged, or no state dict"
        )
        # Without PyTorch's advice to open it with weights_only=False.
        told = re.split(r"trusted source\.\s*|WeightsUnpickler error: ", str(error))[-1].partition("\n")[0]
        reason = "" if refused else f": {type(error).__name__}: {told[:200]}"
        raise CheckpointError(f"{path} {what}{reason}", remedy=_SAVE_ANEW) from None


def _arrays(node: object, place: Path) -> Iterator[tuple[Path, Stored]]:
    """The tensors by path: the keys of the dicts, the numbers in lists, and the parts of their names."""
    import torch

    if len(place) > MAX_DEPTH:
        raise CheckpointError(
            f"containers of more than {MAX_DEPTH} levels are too deep for a network", remedy=_SAVE_ANEW
        )
    for key, child in children_of(node) or ():
        if isinstance(child, torch.Tensor):
            yield (*place, *split_name(key)), _stored(child, _wrapper(place))
        else:
            yield from _arrays(child, (*place, key))


def _wrapper(place: Path) -> Path:
    """The keys above a state dict, up to the first that is not a wrapper."""

    def is_wrapper(key: str) -> bool:
        return key.isdecimal() or WRAPPER.fullmatch(key) is not None

    length = next((number for number, key in enumerate(place) if not is_wrapper(key)), len(place))
    return place[:length]


def _stored(tensor: torch.Tensor, place: Path) -> Stored:
    dtype = str(tensor.dtype).removeprefix("torch.")
    return Stored(tuple(tensor.shape), dtype, lambda: _numbers(tensor, dtype), place)


def _numbers(tensor: torch.Tensor, dtype: str) -> np.ndarray:
    import torch

    return np.asarray(tensor.detach().to(torch.float64 if dtype in FLOATS else torch.int64).numpy())
