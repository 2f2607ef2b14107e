"""What every reader answers with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bncli.inspection.layers import BatchNormArrays

if TYPE_CHECKING:  # a validation library, which foreign files do not need
    from bncli.config.document import FoldedFrom


@dataclass(frozen=True)
class Contents:
    """What a file or directory says about BN.

    Attributes:
        format: "bncli", "bncli-folded", "flax-msgpack", "flax-variables", "keras", "onnx", "orbax", "pytorch",
            "safetensors".
        layers: in the order of the forward pass where it is known, else in the file's.
        notes: what was assumed because no file of this format says it, and what explains an empty table.
        folded_from: what a folded bncli checkpoint was made of.
        framework: whose remedies fit, by its name among the phrases of ``remedies``; None for that of the format.
    """

    format: str
    layers: tuple[BatchNormArrays, ...]
    notes: tuple[str, ...] = ()
    folded_from: FoldedFrom | None = None
    framework: str | None = None


def folded_note(folded: FoldedFrom) -> str:
    """Why there is no BN layer in what a fold has made."""
    kept = f"; kept as one multiply-add each: {', '.join(folded.kept)}" if folded.kept else "; none is left"
    names = ", ".join(folded.folded) or "none"
    return f"folded from {folded.checkpoint} (step {folded.step}): {names}{kept}"
