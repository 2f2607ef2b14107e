"""What every reader answers with."""

from __future__ import annotations

from dataclasses import dataclass

from bncli.config import FoldedFrom
from bncli.inspection.layers import BatchNormArrays


@dataclass(frozen=True)
class Contents:
    """What a file or directory says about BN.

    Attributes:
        format: "bncli", "bncli-folded", "flax-msgpack", "keras", "onnx", "orbax", "pytorch", "safetensors" …
        layers: in the order of the forward pass where it is known, else in the file's.
        notes: what was assumed because no file of this format says it, and what explains an empty table.
        folded_from: what a folded bncli checkpoint was made of.
    """

    format: str
    layers: tuple[BatchNormArrays, ...]
    notes: tuple[str, ...] = ()
    folded_from: FoldedFrom | None = None
