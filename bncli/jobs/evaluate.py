"""``bncli eval``: a checkpoint, trained or folded, on a split."""

from __future__ import annotations

from collections.abc import Sequence

from bncli.checkpoint import Checkpoint
from bncli.config.choices import StatsMode, TtaMode
from bncli.data import Split
from bncli.errors import DataError
from bncli.measure.eval_step import averaged_over_flip
from bncli.measure.logits import count_classes
from bncli.measure.score import EvalResult, score_network


def evaluate_checkpoint(
    checkpoint: Checkpoint,
    split: Split,
    *,
    class_names: Sequence[str],
    stats: StatsMode,
    batch_size: int,
    tta: TtaMode = "none",
) -> EvalResult:
    """Score a checkpoint, trained or folded, on a split.

    Args:
        checkpoint: an opened checkpoint.
        split: images of the checkpoint's size and channels.
        class_names: [K].
        stats: "running" is inference; "batch" normalizes by the statistics of each batch, with dropout off.
        batch_size: B; with "running" the result does not depend on it.
        tta: "flip" scores the mean of the logits of each image and of its mirror image; twice the computing.

    Raises:
        DataError: the number of the network's outputs differs from the number of classes.
        UsageError: batch statistics of a folded checkpoint, or a batch that does not divide over the devices.
    """
    check_num_classes(checkpoint, class_names)
    logits = checkpoint.logits_fn(stats)
    return score_network(
        averaged_over_flip(logits) if tta == "flip" else logits,
        checkpoint.variables,
        split,
        preprocessor=checkpoint.preprocessor,
        class_names=class_names,
        batch_size=batch_size,
    )


def check_num_classes(checkpoint: Checkpoint, class_names: Sequence[str]) -> None:
    """Raise DataError unless the network makes one logit per class."""
    num_outputs = count_classes(
        checkpoint.apply_fn,
        checkpoint.variables,
        checkpoint.preprocessor.input_spec(1),
        name=str(checkpoint.path),
    )
    if num_outputs != len(class_names):
        raise DataError(
            f"the data have {len(class_names)} classes, and {checkpoint.path} has {num_outputs} outputs",
            remedy="Use data with the classes that the network was trained on.",
        )
