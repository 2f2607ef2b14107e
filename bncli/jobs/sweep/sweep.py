"""The trials of a study, one after the other, until it has enough."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TypeAlias

from bncli.config.choices import SweepMetric
from bncli.config.sweep_file import SweepFile
from bncli.errors import BncliError, CheckpointError, DataError, RuntimeCheckError, TrainingInterruptedError
from bncli.jobs.sweep.result import SweepResult
from bncli.jobs.sweep.study import Begun, Study
from bncli.jobs.sweep.trial import Datasets, PrunedError, Stopping, settings_of, train
from bncli.training.progress import Best, EpochResult

# Gets the number of a trial, and an epoch of it and how many it has; or, after its end, its words.
OnEpoch: TypeAlias = Callable[[int, int, int], None]
OnTrial: TypeAlias = Callable[[int, str], None]
# If so many trials fail and none ends well, the cause is not in the settings that they try.
_ALL_FAIL = 3
# Errors that another trial would meet too; the trial is left to the next sweep, which takes it up.
_NOT_OF_THE_TRIAL = (CheckpointError, DataError, RuntimeCheckError, TrainingInterruptedError)


def sweep(
    file: SweepFile,
    out: Path,
    *,
    on_epoch: OnEpoch | None = None,
    on_trial: OnTrial | None = None,
    stopping: Stopping | None = None,
) -> SweepResult:
    """Carry on the study of ``file`` in ``out`` until it has enough trials, beside any other process that does.

    Args:
        file: the settings of the study.
        out: its directory, with a checkpoint directory for each trial.
        on_epoch: called after each epoch.
        on_trial: called after each trial.
        stopping: makes signals ask a training to stop; None leaves them alone.

    Raises:
        TrainingInterruptedError: a signal has ended a trial, which was saved; the next sweep takes it up.
        BncliError: ``out`` holds something else, or no trial can begin.
    """
    study, datasets, done = Study(file, out), Datasets(), list[int]()
    failures: list[BncliError] = []
    while (begun := study.next_trial()) is not None:
        with begun.lock:
            try:
                words = _carried_out(study, begun, file, datasets, on_epoch=on_epoch, stopping=stopping or _unasked)
            except BncliError as error:
                if isinstance(error, _NOT_OF_THE_TRIAL):
                    raise
                study.fail(begun, error.message)
                failures.append(error)
                words = f"failed: {error.message}"
        done.append(begun.trial.number)
        if on_trial is not None:
            on_trial(begun.trial.number, words)
        if len(failures) == len(done) == _ALL_FAIL:
            raise failures[-1]
    return SweepResult(file, out, study.rows(), tuple(done))


def _unasked(request_stop: Callable[[int], None]) -> AbstractContextManager[None]:
    return nullcontext()


def _carried_out(
    study: Study,
    begun: Begun,
    file: SweepFile,
    datasets: Datasets,
    *,
    on_epoch: OnEpoch | None,
    stopping: Stopping,
) -> str:
    """Train one trial and record its end; return its score, or "pruned"."""
    metric, number = file.search.metric, begun.trial.number
    settings, dataset = settings_of(file, begun.values, datasets)

    def is_behind(event: EpochResult) -> bool:
        if on_epoch is not None:
            on_epoch(number, event.epoch, settings.training.epochs)
        return study.report(begun, event.epoch, _score(event, metric))

    try:
        result = train(settings, dataset, begun.out, is_resumed=begun.is_resumed, on_epoch=is_behind, stopping=stopping)
    except PrunedError:
        study.prune(begun)
        return "pruned"
    except TrainingInterruptedError as error:
        again = TrainingInterruptedError(
            f"trial {number}: {error.message}",
            remedy=f"Continue with: bncli sweep {file.path} --out {begun.out.parent}",
        )
        again.exit_code = error.exit_code
        raise again from error
    value = _score(result.best, metric)
    study.complete(begun, value)
    return f"{metric} {value:.4f}"


def _score(epoch: EpochResult | Best, metric: SweepMetric) -> float:
    return epoch.val_accuracy if metric == "val_accuracy" else epoch.val_loss
