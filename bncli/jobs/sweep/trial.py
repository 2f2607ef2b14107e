"""One trial of a study: an ordinary training, whose epochs are reported as they end."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from bncli.checkpoint import CONFIG
from bncli.config.options import sections_of
from bncli.config.recipes import NONE, Values, named_recipe, own_data, recommended, settled
from bncli.config.settings import DataConfig, RunConfig
from bncli.config.sweep_file import SweepFile
from bncli.config.validation import validated
from bncli.data import Dataset
from bncli.data.configured import load_configured
from bncli.data.known import KNOWN
from bncli.jobs.train import pretrained_of, with_weights
from bncli.process.flags import bfloat16_pays
from bncli.training import assembly, run
from bncli.training.progress import EpochResult
from bncli.training.result import TrainResult

# Gets the function that asks a training to stop, with the exit code; inside the context, signals call it.
Stopping: TypeAlias = Callable[[Callable[[int], None]], AbstractContextManager[None]]


class PrunedError(Exception):
    """The trial is behind the others, and ends."""


@dataclass
class Datasets:
    """The data of a study, read once for each way to read them."""

    _read: dict[str, Dataset] = field(default_factory=dict)

    def __call__(self, data: DataConfig, seed: int) -> Dataset:
        """The data set for these settings; the seed chooses the validation split."""
        key = repr((data, seed))
        if key not in self._read:
            self._read[key] = load_configured(data, seed=seed)
        return self._read[key]


def settings_of(file: SweepFile, tried: Values, datasets: Datasets) -> tuple[RunConfig, Dataset]:
    """All settings of a trial.

    Those that it tries lie above those of the file, above what pretrained weights decide, above the recipe's, above the
    defaults.

    Raises:
        ConfigError: they do not fit each other.
        DataError: the data cannot be read.
    """
    asked, _ = with_weights({**file.fixed.values, **tried})
    plain = _validated(settled(asked))
    dataset = datasets(plain.data, plain.training.seed)
    name = file.fixed.recipe
    own = name == "auto" or (name is None and plain.data.source not in (*KNOWN, NONE))
    recipe = (
        own_data(len(dataset.train), fine_tunes=plain.model.weights is not None)
        if own
        else named_recipe(name, asked, bfloat16_pays=bfloat16_pays())
    )
    chosen = {} if recipe is None else recommended(recipe, asked)
    return _validated(settled(asked, chosen)), dataset


def _validated(values: Values) -> RunConfig:
    return validated(RunConfig, **sections_of(values.items()))


def train(
    settings: RunConfig,
    dataset: Dataset,
    out: Path,
    *,
    is_resumed: bool,
    on_epoch: Callable[[EpochResult], bool],
    stopping: Stopping,
) -> TrainResult:
    """Train into ``out``, which this process has locked.

    Args:
        settings: of the run.
        dataset: of the run.
        out: the checkpoint directory.
        is_resumed: continue a run that was killed, if it has begun.
        on_epoch: gets each epoch; True ends the run.
        stopping: makes signals ask for a stop.

    Raises:
        PrunedError: ``on_epoch`` has ended the run.
        TrainingInterruptedError: a signal has ended it, after saving.
        BncliError: as ``bncli train``.
    """
    needed = run.needs_weights(settings, out, resume=is_resumed)
    trainer = assembly.create_trainer(
        settings, dataset, out, pretrained=pretrained_of(settings.model) if needed else None
    )
    if is_resumed and (out / CONFIG).is_file():
        run.resume(trainer)
    else:
        run.start(trainer, overwrite=True)
    epochs_before = trainer.progress.epochs_done
    with stopping(trainer.request_stop), closing(trainer.epochs()) as events:
        for event in events:
            if isinstance(event, EpochResult) and on_epoch(event):
                raise PrunedError
    return run.finish(trainer, epochs_before=epochs_before)
