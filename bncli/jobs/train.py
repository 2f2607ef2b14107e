"""``bncli.train``: a whole training run from Python."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from bncli import checkpoint
from bncli.config.options import by_key, sections_of
from bncli.config.recipes import Recipe, Values, defaults, named_recipe, own_data, recommended
from bncli.config.settings import RunConfig
from bncli.config.validation import validated
from bncli.data import Dataset
from bncli.data.configured import load_configured
from bncli.data.known import KNOWN
from bncli.errors import ConfigError
from bncli.jobs.loggers.registry import check_installed
from bncli.jobs.loggers.run_loggers import logging
from bncli.training import run
from bncli.training.loop import Event
from bncli.training.result import TrainResult

# {"training": {"epochs": 5}, "model": {"bn": False}}: sections and fields of RunConfig, as in run.toml
Settings = Mapping[str, Mapping[str, object]]


def train(
    config: RunConfig | Settings | None = None,
    data: str | Path | Dataset | None = None,
    out: str | Path = "ckpt",
    *,
    resume: bool = False,
    overwrite: bool = False,
    on_event: Callable[[Event], None] | None = None,
) -> TrainResult:
    """Train a network and write a checkpoint directory, as the command ``bncli train`` does.

    Args:
        config: all settings of the run, or those that differ from the recipe of the data and the defaults, by section
            as in ``run.toml``: ``{"training": {"epochs": 5}}``.
        data: a known name, a folder, a file, or a data set that is loaded already; None for that of ``config``.
        out: the checkpoint directory.
        resume: continue the run in ``out``, with the same ``config`` and ``data``.
        overwrite: replace the checkpoint in ``out``.
        on_event: called after each step and epoch, and for each warning.

    Returns:
        The best epoch, the test score, the history, and the SHA-256 of the weights.

    Raises:
        ConfigError: a setting does not exist or is out of range.
        DataError: the data cannot be read.
        CheckpointError: ``out`` is taken, or a save cannot be written.
        BncliError: a step computed NaN or infinity; the run is saved.
    """
    started, out = time.perf_counter(), Path(out)
    if not resume:
        checkpoint.check_output(out, overwrite=overwrite, can_resume=True)
    settings, dataset = _resolved(config, data)
    check_installed(settings.training.log)
    with checkpoint.locked(out):
        trainer = run.create_trainer(settings, dataset, out, compile_ahead=not resume)
        if resume:
            run.resume(trainer)
        else:
            run.start(trainer, overwrite=overwrite)
        epochs_before = trainer.progress.epochs_done
        with logging(trainer) as loggers:
            with closing(trainer.epochs()) as events:
                for event in events:
                    loggers.on_event(event)
                    if on_event is not None:
                        on_event(event)
            result = run.finish(trainer, started=started, epochs_before=epochs_before)
            loggers.end(result)
        return result


def _resolved(config: RunConfig | Settings | None, data: str | Path | Dataset | None) -> tuple[RunConfig, Dataset]:
    """All settings of the run, and its data set."""
    loaded = data if isinstance(data, Dataset) else None
    source = loaded.source if loaded else None if data is None else str(data)
    if isinstance(config, RunConfig):
        settings = config if source is None else replace(config, data=replace(config.data, source=source))
        return settings, loaded or _load(settings)
    asked = {**_asked(config or {}), **({} if source is None else {by_key()["data.source"]: source})}
    dataset = loaded or _load(_settings(asked, None))
    return _settings(asked, _recipe(_settings(asked, None).data.source, dataset)), dataset


def _load(settings: RunConfig) -> Dataset:
    return load_configured(settings.data, seed=settings.training.seed)


def _recipe(source: str, dataset: Dataset) -> Recipe | None:
    return named_recipe(None, data=source) if source in KNOWN else own_data(len(dataset.train))


def _asked(config: Settings) -> Values:
    found = {}
    for section, fields in config.items():
        for field, value in fields.items():
            key = f"{section}.{field}"
            if key not in by_key():
                raise ConfigError(f"there is no setting {key}", remedy="See `bncli train --help` or run.toml.")
            found[by_key()[key]] = value
    return found


def _settings(asked: Values, recipe: Recipe | None) -> RunConfig:
    chosen = {} if recipe is None else recommended(recipe, asked)
    return validated(RunConfig, **sections_of({**defaults(), **chosen, **asked}.items()))
