"""BN layers in a bncli checkpoint, trained or folded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bncli.checkpoint import Checkpoint, load
from bncli.config import FoldedFrom
from bncli.inspection.layers import BatchNormArrays
from bncli.inspection.readers.variables import read_variables
from bncli.models import BatchNormSettings, relu_follows_every_bn


@dataclass(frozen=True)
class CheckpointContents:
    """What a checkpoint says about BN."""

    layers: tuple[BatchNormArrays, ...]
    notes: tuple[str, ...]
    folded_from: FoldedFrom | None


def read_checkpoint(path: Path, *, step: str) -> CheckpointContents:
    """The BN layers of one save of a checkpoint; ε and momentum are the model's own."""
    checkpoint = load(path, step=step)
    if checkpoint.config.folded_from is not None:
        return CheckpointContents((), (_folded_note(checkpoint.config.folded_from),), checkpoint.config.folded_from)
    if not checkpoint.variables.get("batch_stats"):
        return CheckpointContents((), ("trained without BN: there is nothing to inspect",), None)
    layers, notes = read_variables(
        checkpoint.variables,
        settings=_settings(checkpoint),
        relu_follows=relu_follows_every_bn(checkpoint.config.run.model),
    )
    return CheckpointContents(layers, notes, None)


def _settings(checkpoint: Checkpoint) -> dict[str, BatchNormSettings]:
    assert checkpoint.network is not None  # a trained checkpoint has its network
    return checkpoint.network.batch_norms(checkpoint.variables, checkpoint.config.preprocessing.image_shape)


def _folded_note(folded: FoldedFrom) -> str:
    kept = f"; kept as one multiply-add each: {', '.join(folded.kept)}" if folded.kept else "; none is left"
    names = ", ".join(folded.folded) or "none"
    return f"folded from {folded.checkpoint} (step {folded.step}): {names}{kept}"
