"""``bncli recalibrate``: a checkpoint with population statistics in place of running averages."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bncli import checkpoint as checkpoints
from bncli.checkpoint import Checkpoint
from bncli.config.document import Recalibrated
from bncli.data import Dataset
from bncli.errors import CheckpointError
from bncli.jobs.evaluate import evaluate_checkpoint
from bncli.measure.batches import ImageBatches
from bncli.measure.population import BATCH_SIZE, BATCHES, LayerDrift, recalibrate_measured
from bncli.measure.score import EvalResult
from bncli.process import distributed
from bncli.process.mesh import check_batch_size, make_mesh

# Accuracy by which the last save must beat the best one.
CLEARLY_BETTER = 0.02


@dataclass(frozen=True)
class RecalibrationResult:
    """The result of recalibrating a checkpoint.

    Attributes:
        checkpoint: the checkpoint that was recalibrated.
        step: the step of its save.
        out: the new checkpoint; None if nothing was written.
        layers: each layer's drift before and after.
        num_examples: number of training images that the statistics were measured on.
        runs: number of runs over them.
        before: score on the validation split with the old statistics.
        after: score on the validation split with the new statistics.
        knows_data: True if the checkpoint says which data it was trained on, as another program's does not.
    """

    checkpoint: Path
    step: int
    out: Path | None
    layers: tuple[LayerDrift, ...]
    num_examples: int
    runs: int
    before: EvalResult
    after: EvalResult
    knows_data: bool = True


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The images to measure, and the number of runs over them.

    Attributes:
        num_batches: number of batches of images; None for all.
        batch_size: batch size of the forward passes; the result does not depend on it.
        max_runs: largest number of runs over the images; None for as many as an exact result needs.
    """

    num_batches: int | None = BATCHES
    batch_size: int = BATCH_SIZE
    max_runs: int | None = None


def better_save(best: Checkpoint, last: Checkpoint, dataset: Dataset, *, batch_size: int = BATCH_SIZE) -> Checkpoint:
    """The save with the better weights, whatever its statistics: the last one if batch statistics clearly say so.

    The best epoch was chosen with running averages. Where those are broken, it is any epoch, often the first.

    Args:
        best: the save of the best epoch.
        last: the last save.
        dataset: its validation split decides.
        batch_size: examples that each BN normalizes by.
    """
    if last.step == best.step or best.network is None or last.network is None:
        return best
    by_best, by_last = (
        evaluate_checkpoint(save, dataset.val, class_names=dataset.class_names, stats="batch", batch_size=batch_size)
        for save in (best, last)
    )
    return last if by_last.accuracy > by_best.accuracy + CLEARLY_BETTER else best


def recalibrate_checkpoint(
    original: Checkpoint,
    out: Path,
    dataset: Dataset,
    sampling: Sampling | None = None,
    *,
    dry_run: bool = False,
    overwrite: bool = False,
) -> RecalibrationResult:
    """Measure the population statistics of a checkpoint's BN layers, and write the checkpoint with them to ``out``.

    Args:
        original: a trained checkpoint.
        out: a new directory.
        dataset: its training images, not augmented, are measured; its validation split is scored.
        sampling: the images to measure and the number of runs; None takes the defaults.
        dry_run: measure only.
        overwrite: replace an existing checkpoint in ``out``.

    Raises:
        CheckpointError: ``original`` is folded, or ``out`` is taken.
        ModelError: the network has no BN layer, or one in a loop.
    """
    sampling = sampling or Sampling()
    batch_size = sampling.batch_size
    if original.network is None:
        raise CheckpointError(
            f"{original.path} is folded and has no BN statistics left",
            remedy="Recalibrate the checkpoint it was folded from.",
        )
    if not dry_run:
        checkpoints.check_output(out, overwrite=overwrite, source=original.path)
    check_batch_size(batch_size, make_mesh())
    batches = ImageBatches.training(original.config, dataset, num_batches=sampling.num_batches, batch_size=batch_size)
    done = recalibrate_measured(original.apply_fn, original.variables, batches, max_runs=sampling.max_runs)
    changed = replace(original, variables=done.variables)
    before, after = (
        evaluate_checkpoint(
            checkpoint, dataset.val, class_names=dataset.class_names, stats="running", batch_size=batch_size
        )
        for checkpoint in (original, changed)
    )
    result = RecalibrationResult(
        checkpoint=original.path,
        step=original.step,
        out=None if dry_run else out,
        layers=done.layers,
        num_examples=done.num_examples,
        runs=done.runs,
        before=before,
        after=after,
        knows_data=original.config.dataset is not None,
    )
    if not dry_run:
        distributed.by_first(lambda: _write(changed, out, result, overwrite=overwrite), CheckpointError)
    return result


def _write(changed: Checkpoint, out: Path, result: RecalibrationResult, *, overwrite: bool) -> None:
    origin = Recalibrated(
        checkpoint=str(result.checkpoint), step=result.step, num_examples=result.num_examples, runs=result.runs
    )
    with checkpoints.locked(out), checkpoints.new_output(out, overwrite=overwrite):
        checkpoints.save(
            out,
            changed.step,
            variables=changed.variables,
            optimizer={"step": np.int32(changed.step)},  # training continues from the original
            progress=changed.progress,
            remedy=checkpoints.FREE_SPACE_AND_REPEAT,
        )
        config = replace(changed.config, recalibrated=origin)
        checkpoints.write_config(out, config, remedy=checkpoints.FREE_SPACE_AND_REPEAT)
