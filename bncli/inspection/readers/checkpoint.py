"""BN layers in a bncli checkpoint, trained or folded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bncli.checkpoint import Checkpoint, load
from bncli.config import FoldedFrom
from bncli.errors import FoldError
from bncli.folding import fold
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
    kept, refused = _fold_verdict(checkpoint, layers)
    return CheckpointContents(_with_history(checkpoint, layers, kept), (*notes, *refused), None)


def _with_history(
    checkpoint: Checkpoint, layers: Iterable[BatchNormArrays], kept: Mapping[str, str]
) -> tuple[BatchNormArrays, ...]:
    """The layers with where their statistics come from, and what a fold would make of them.

    A step of training updates each BN layer once.
    """
    measured = checkpoint.has_population_statistics
    updates = None if measured else checkpoint.step
    return tuple(replace(layer, updates=updates, measured=measured, kept=kept.get(layer.name)) for layer in layers)


def _fold_verdict(checkpoint: Checkpoint, layers: Iterable[BatchNormArrays]) -> tuple[dict[str, str], tuple[str, ...]]:
    """({layer: why a fold keeps it}, notes); nothing where statistics are broken, which no fold takes."""
    if not all(_is_sound(layer) for layer in layers):
        return {}, ()
    config = checkpoint.config
    example = jax.ShapeDtypeStruct((2, *config.preprocessing.image_shape), jnp.dtype(config.run.training.precision))
    try:
        with np.errstate(all="ignore"):  # the kernels may hold anything
            report = fold(checkpoint.apply_fn, checkpoint.variables, example).report
    except FoldError as error:
        return {}, (f"bncli fold refuses this network: {error.message}",)
    return {norm.name: norm.reason for norm in report.norms if norm.reason is not None}, ()


def _is_sound(layer: BatchNormArrays) -> bool:
    return all(np.isfinite(array).all() for array in layer.stored().values()) and not (layer.var < 0).any()


def _settings(checkpoint: Checkpoint) -> dict[str, BatchNormSettings]:
    assert checkpoint.network is not None  # a trained checkpoint has its network
    return checkpoint.network.batch_norms(checkpoint.variables, checkpoint.config.preprocessing.image_shape)


def _folded_note(folded: FoldedFrom) -> str:
    kept = f"; kept as one multiply-add each: {', '.join(folded.kept)}" if folded.kept else "; none is left"
    names = ", ".join(folded.folded) or "none"
    return f"folded from {folded.checkpoint} (step {folded.step}): {names}{kept}"
