"""BN layers in a PyTorch file, zip or older; the only importer of torch, in a process of its own.

Only by ``torch.load(weights_only=True)``, which makes tensors and plain containers and calls nothing else; there is no
other way in, whatever the file holds (https://docs.pytorch.org/docs/stable/notes/serialization.html).
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath
from typing import Any

import numpy as np

from bncli.errors import CheckpointError
from bncli.inspection.readers.arrays import FLOATS, MAX_DEPTH, Path, Stored, split_name
from bncli.inspection.readers.assembly import contents_of
from bncli.inspection.readers.contents import Contents
from bncli.inspection.readers.copies import WRAPPER
from bncli.inspection.readers.settings import Asked

# Before, files could be made that run code in spite of weights_only: CVE-2025-32434, CVE-2026-24747.
OLDEST = (2, 10)
NEEDS_EXTRA = "pip install 'bncli[torch]', or save the weights by safetensors, for which torch is not needed"
_SAVE_ANEW = "Save the weights alone, torch.save(model.state_dict(), PATH), or by safetensors.torch.save_file."
# A tensor takes 150 bytes in the pickle of a state dict; what is in it is built by Python, ten times as large.
MAX_PICKLE = 64 << 20


def require_library() -> None:
    """Raises CheckpointError where torch is not installed, or so old that it can be made to run what a file holds."""
    try:
        import torch
    except ImportError:
        raise CheckpointError("a PyTorch file needs torch, which is not here", remedy=NEEDS_EXTRA) from None
    if tuple(map(int, torch.__version__.split(".")[:2])) < OLDEST:
        raise CheckpointError(
            f"PyTorch {torch.__version__} can run code that a file holds (CVE-2026-24747), so it opens none here",
            remedy="pip install 'torch>=2.10'",
        )


def read(path: FilePath, asked: Asked) -> Contents:
    """The BN layers of a PyTorch file; of the tensors of a zip file, only theirs are read.

    Raises:
        CheckpointError: it is damaged, or holds more than tensors and plain containers.
    """
    is_zip = zipfile.is_zipfile(path)
    if is_zip:
        _check_archive(path)
    return contents_of(dict(_arrays(_load(path, mmap=is_zip), ())), file_format="pytorch", asked=asked)


def _check_archive(path: FilePath) -> None:
    """Raises CheckpointError unless the members are stored as PyTorch does it: as they are, within the file."""
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            limit = MAX_PICKLE if member.filename.endswith("data.pkl") else size
            if member.compress_type != zipfile.ZIP_STORED or member.file_size > min(limit, size):
                raise CheckpointError(
                    f"{path}: {member.filename} is compressed, or claims {member.file_size:,} of {size:,} bytes",
                    remedy=_SAVE_ANEW,
                )


def _load(path: FilePath, *, mmap: bool) -> Any:  # noqa: ANN401 - any container that a pickle can hold
    """What the file holds.

    Raises:
        CheckpointError: something that is no tensor and no plain container, which is named, or damage.
    """
    import torch

    try:
        return torch.load(str(path), map_location="cpu", weights_only=True, mmap=mmap)
    except MemoryError:
        raise
    except Exception as error:  # of any class: the unpickler's, the archive's, or that of a tensor it cannot make
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"holds {refused[1]} beside tensors, and is not opened" if refused else "is damaged, or no state dict"
        # Without PyTorch's advice to open it with weights_only=False.
        told = re.split(r"trusted source\.\s*|WeightsUnpickler error: ", str(error))[-1].partition("\n")[0]
        reason = "" if refused else f": {type(error).__name__}: {told[:200]}"
        raise CheckpointError(f"{path} {what}{reason}", remedy=_SAVE_ANEW) from None


def _arrays(node: Any, place: Path) -> Iterator[tuple[Path, Stored]]:  # noqa: ANN401 - any container
    """The tensors by where they are: the keys of the dicts, and the name in the state dict."""
    import torch

    if len(place) > MAX_DEPTH or not isinstance(node, Mapping):
        return
    for key, child in node.items():
        if isinstance(child, torch.Tensor):
            yield (*place, *split_name(str(key))), _stored(child, _wrapper(place))
        else:
            yield from _arrays(child, (*place, str(key)))


def _wrapper(place: Path) -> Path:
    """As much of the keys above a state dict as names no layer."""
    length = next((number for number, key in enumerate(place) if not WRAPPER.fullmatch(key)), len(place))
    return place[:length]


def _stored(tensor: Any, place: Path) -> Stored:  # noqa: ANN401 - torch is not always there
    dtype = str(tensor.dtype).removeprefix("torch.")
    return Stored(tuple(tensor.shape), dtype, lambda: _numbers(tensor, dtype), place)


def _numbers(tensor: Any, dtype: str) -> np.ndarray:  # noqa: ANN401 - torch is not always there
    import torch

    return tensor.detach().to(torch.float64 if dtype in FLOATS else torch.int64).numpy()
