"""The result of every reader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bncli.inspection.layers import BatchNormArrays

if TYPE_CHECKING:  # a validation library, which foreign files do not need
    from bncli.config.document import FoldedFrom


# Layers that a note names; it counts the others.
SHOWN = 3


@dataclass(frozen=True)
class Contents:
    """The BN layers of a file or directory.

    Attributes:
        format: "bncli", "bncli-folded", "equinox", "flax-msgpack", "flax-variables", "keras", "onnx", "orbax",
            "pytorch", "safetensors".
        layers: in the order of the forward pass if it is known, else in the order of the file.
        notes: what was assumed because the file does not say it, and the reason for an empty table.
        folded_from: the original of a folded checkpoint of bncli.
        framework: the framework whose remedies apply, as ``remedies`` names it; None to go by the format.
        options: the further words that open the checkpoint in a command.
    """

    format: str
    layers: tuple[BatchNormArrays, ...]
    notes: tuple[str, ...] = ()
    folded_from: FoldedFrom | None = None
    framework: str | None = None
    options: tuple[str, ...] = ()


def named(names: Sequence[str]) -> str:
    """The first names, and the number of the others: ``a, b, c and 4 more``."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"


def folded_note(folded: FoldedFrom) -> str:
    """The reason that a folded network has no BN layer."""
    kept = f"; kept as one multiply-add each: {', '.join(folded.kept)}" if folded.kept else "; no BN layer is left"
    names = ", ".join(folded.folded) or "none"
    return f"folded from {folded.checkpoint} (step {folded.step}): {names}{kept}"
