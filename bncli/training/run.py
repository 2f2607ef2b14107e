"""A whole run: start or resume it, and score the test split once at the end. ``assembly.py`` makes its trainer."""

from __future__ import annotations

import warnings
from pathlib import Path

import jax
import numpy as np

from bncli import checkpoint
from bncli.config.document import WeightsRecord
from bncli.config.settings import RunConfig
from bncli.data import Dataset
from bncli.errors import BncliWarning, CheckpointError, ModelError
from bncli.frameworks.network import Variables
from bncli.measure.batches import ImageBatches
from bncli.measure.moments import batch_norm_stats
from bncli.measure.population import BATCHES, recalibrate_measured
from bncli.process import distributed
from bncli.training.assembly import checkpoint_config
from bncli.training.loop import Trainer
from bncli.training.progress import Best
from bncli.training.result import Hashes, PreciseStatistics, Programs, Seconds, TrainResult
from bncli.training.saving import latest_step, restore
from bncli.training.state import TrainState


def start(trainer: Trainer, *, overwrite: bool) -> None:
    """Prepare the output directory for a new run, and record the run's configuration there."""
    config = checkpoint_config(trainer.config, trainer.dataset, trainer.record)
    out = trainer.saver.out
    distributed.by_first(lambda: checkpoint.create_output(out, overwrite=overwrite, config=config), CheckpointError)
    _warn_of_frozen_beginnings(trainer)
    trainer.saver.rewind(trainer.position)


def _warn_of_frozen_beginnings(trainer: Trainer) -> None:
    """Warn if BN layers are frozen in which no data has ever been: mean 0 and variance 1 do not normalize."""
    stats: Variables = jax.device_get(trainer.state.batch_stats)
    frozen = trainer.execution.settings_at(0).network.frozen
    untouched = [norm for norm in sorted(frozen) if _is_initial(batch_norm_stats(stats, norm))]
    if untouched:
        names = f"{untouched[0]} and {len(untouched) - 1} more" if len(untouched) > 1 else untouched[0]
        message = f"{names}: frozen with the initial statistics, mean 0 and variance 1, which do not normalize"
        warnings.warn(message, BncliWarning, stacklevel=3)


def _is_initial(stats: Variables) -> bool:
    return not np.any(stats["mean"]) and bool(np.all(stats["var"] == 1))


def resume(trainer: Trainer) -> None:
    """Restore the latest save of the run in the trainer's output directory, or start afresh if there is none.

    Raises:
        CheckpointError: no undamaged save, or the run was on other data or of another network.
    """
    out = trainer.saver.out
    _check_resumable(out, trainer.dataset)
    trainer.record = _same_weights(out, trainer.record)
    distributed.barrier()
    distributed.by_first(lambda: checkpoint.sweep(out), CheckpointError)
    step = latest_step(out)
    if step is not None:
        trainer.position = restore(out, step, like=trainer.execution.put(trainer.state))
    config = checkpoint_config(trainer.config, trainer.dataset, trainer.record)
    distributed.by_first(lambda: checkpoint.write_config(out, config), CheckpointError)
    trainer.saver.rewind(trainer.position)


def needs_weights(config: RunConfig, out: Path, *, resume: bool) -> bool:
    """True if a run begins from pretrained weights, and not from a save of its own."""
    return config.model.weights is not None and not (resume and checkpoint.complete_steps(out))


def _same_weights(out: Path, now: WeightsRecord | None) -> WeightsRecord | None:
    """The record of the weights that a run began with.

    Raises:
        CheckpointError: the run has no save yet, and the weights to begin from anew are other ones.
    """
    before = checkpoint.read_config(out).weights
    if before is not None and now is not None and before.sha256 != now.sha256:
        raise CheckpointError(
            f"{now.source} has changed since the run in {out} began: SHA-256 {now.sha256[:12]}…, "
            f"was {before.sha256[:12]}…",
            remedy="Restore the file, or start another run with another --out.",
        )
    return before


def _check_resumable(out: Path, dataset: Dataset) -> None:
    """Raise CheckpointError unless ``out`` holds a training on these data."""
    stored = checkpoint.read_config(out)
    if stored.recalibrated is not None:
        raise CheckpointError(
            f"{out} was recalibrated and holds no training state",
            remedy=f"Resume what it was made of: --out {stored.recalibrated.checkpoint}.",
        )
    before = stored.dataset
    if before is None or before.sha256 != dataset.sha256:
        was = "not known" if before is None else f"{before.name} (SHA-256 {before.sha256[:12]}…)"
        raise CheckpointError(
            f"{out} was trained on other data: {was}, now {dataset.name} ({dataset.sha256[:12]}…)",
            remedy="Resume with the same data, or train into another --out.",
        )


def finish(trainer: Trainer, *, epochs_before: int) -> TrainResult:
    """Score the test split with the best epoch. Call it once, after the last epoch.

    Args:
        trainer: at the end of its run.
        epochs_before: epochs done by earlier runs.
    """
    best, out = trainer.progress.best, trainer.saver.out
    assert best is not None  # there is at least one epoch
    precise = _precise_statistics(trainer, best) if _wants_precise_statistics(trainer, best) else None
    with trainer.clock.phase("validation"):
        # On the devices first: arrays of the host would make another program of the evaluation step.
        variables: Variables = trainer.execution.put(checkpoint.load_variables(out, best.step))
        test = trainer.evaluation.score(variables, trainer.dataset.test)
    rates = [row.images_per_second for row in trainer.progress.history[epochs_before:]]
    hashes = _hashes(trainer.state)
    spent = trainer.clock.seconds()
    compiled, read = trainer.clock.programs
    return TrainResult(
        out=out,
        epochs_run=trainer.progress.epochs_done,
        best=best,
        precise=precise,
        test=test,
        images_per_second=sum(rates) / len(rates) if rates else None,
        seconds=Seconds(**spent, total=sum(spent.values())),
        programs=Programs(compiled, read),
        sha256=hashes,
        history=trainer.progress.history,
        stopped_early=trainer.stopped_early,
        config=checkpoint_config(trainer.config, trainer.dataset, trainer.record),
        weights=trainer.weights,
    )


def _hashes(state: TrainState) -> Hashes:
    return Hashes(
        params=checkpoint.sha256_tree(state.params),
        batch_stats=checkpoint.sha256_tree(state.batch_stats),
        opt_state=checkpoint.sha256_tree(state.opt_state),
        ema=checkpoint.sha256_tree(state.ema) if state.ema else None,
    )


def _wants_precise_statistics(trainer: Trainer, best: Best) -> bool:
    """True if the user asks for them, or if the best epoch was scored with statistics that its save does not hold."""
    training = trainer.config.training
    row = trainer.progress.history[best.epoch - 1]
    return training.precise_bn or (row.val_statistics == "measured" and training.ema_decay is None)


def _precise_statistics(trainer: Trainer, best: Best) -> PreciseStatistics | None:
    """Give the best save population statistics; None, with a warning, if they cannot be measured.

    None too without BN, and if all BN layers are frozen.
    """
    out, evaluation, step = trainer.saver.out, trainer.evaluation, best.step
    frozen = trainer.execution.settings_at(best.epoch - 1).network.frozen
    variables = checkpoint.load_variables(out, step)
    if not variables.get("batch_stats"):
        return None
    batches = ImageBatches.training(
        checkpoint_config(trainer.config, trainer.dataset),
        trainer.dataset,
        num_batches=BATCHES,
        batch_size=trainer.config.training.batch_size,
    )
    try:
        done = recalibrate_measured(evaluation.program.network.logits, variables, batches, kept=frozen)
    except ModelError as error:
        warnings.warn(f"--precise-bn was left out: {error.message}", BncliWarning, stacklevel=2)
        return None
    if all(layer.name in frozen for layer in done.layers):
        return None
    statistics = done.variables["batch_stats"]
    distributed.by_first(lambda: checkpoint.save_precise_statistics(out, step, statistics), CheckpointError)
    val = evaluation.score(done.variables, trainer.dataset.val)
    return PreciseStatistics(done.num_examples, val.accuracy, val.loss)
