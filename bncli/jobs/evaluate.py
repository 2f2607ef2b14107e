"""``bncli eval``: a checkpoint, trained or folded, on a split."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from bncli.checkpoint import Checkpoint
from bncli.config.choices import StatsMode
from bncli.data import Split
from bncli.errors import DataError
from bncli.measure.score import EvalResult, score_network


def evaluate_checkpoint(
    checkpoint: Checkpoint, split: Split, *, class_names: Sequence[str], stats: StatsMode, batch_size: int
) -> EvalResult:
    """The score of a checkpoint, trained or folded, on a split.

    Args:
        checkpoint: as ``checkpoint.load`` returns it.
        split: images of the checkpoint's size and channels.
        class_names: [K].
        stats: "running" is inference; "batch" normalises by each batch's own statistics, dropout off.
        batch_size: B; with "running" the result does not depend on it.

    Raises:
        DataError: the network has another number of outputs than there are classes.
        UsageError: batch statistics of a folded checkpoint, or a batch that does not divide over the devices.
    """
    _check_num_classes(checkpoint, class_names)
    return score_network(
        checkpoint.logits_fn(stats),
        checkpoint.variables,
        split,
        preprocessing=checkpoint.config.preprocessing,
        precision=checkpoint.config.run.training.precision,
        class_names=class_names,
        batch_size=batch_size,
    )


def _check_num_classes(checkpoint: Checkpoint, class_names: Sequence[str]) -> None:
    """Raises DataError unless the network makes one logit per class; nothing is computed."""
    shape = (1, *checkpoint.config.preprocessing.image_shape)
    images = jax.ShapeDtypeStruct(shape, jnp.dtype(checkpoint.config.run.training.precision))
    num_outputs = jax.eval_shape(checkpoint.apply_fn, checkpoint.variables, images).shape[-1]
    if num_outputs != len(class_names):
        raise DataError(
            f"the data have {len(class_names)} classes, and {checkpoint.path} has {num_outputs} outputs",
            remedy="Use data with the classes that the network was trained on.",
        )
