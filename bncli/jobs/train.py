"""``bncli.train``: a whole training run from Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from bncli import checkpoint, weights
from bncli.config.options import by_key, options, sections_of
from bncli.config.recipes import Recipe, Values, named_recipe, own_data, recommended, settled
from bncli.config.settings import ModelConfig, RunConfig
from bncli.config.validation import validated
from bncli.data import Dataset
from bncli.data.configured import load_configured, normalized_as
from bncli.data.known import KNOWN
from bncli.data.load import holds_image_files
from bncli.errors import ConfigError
from bncli.jobs.loggers.registry import check_installed
from bncli.jobs.loggers.run_loggers import logging
from bncli.process.flags import bfloat16_pays
from bncli.process.phase_clock import PhaseClock
from bncli.training import assembly, run
from bncli.training.loop import Event
from bncli.training.result import TrainResult
from bncli.weights import Pretrained

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
    clock, out = PhaseClock(), Path(out)
    if not resume:
        checkpoint.check_output(out, overwrite=overwrite, can_resume=True)
    stored = checkpoint.read_config(out).run if resume else None
    with clock.phase("data"):
        settings, dataset, pretrained = _resolved(config, data, out, stored=stored)
    check_installed(settings.training.log)
    with checkpoint.locked_for_all(out):
        trainer = assembly.create_trainer(
            settings, dataset, out, pretrained=pretrained, compile_ahead=not resume, clock=clock
        )
        clock.enter("rest")
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
            result = run.finish(trainer, epochs_before=epochs_before)
            loggers.end(result)
        return result


def _resolved(
    config: RunConfig | Settings | None,
    data: str | Path | Dataset | None,
    out: Path = Path("ckpt"),
    *,
    stored: RunConfig | None = None,
) -> tuple[RunConfig, Dataset, Pretrained | None]:
    """All settings of the run, its data set, and the weights that it starts from.

    ``stored`` are the settings of a run that goes on. It keeps those that its weights have decided, since their file
    may be gone.
    """
    loaded = data if isinstance(data, Dataset) else None
    source = loaded.source if loaded else None if data is None else str(data)
    if isinstance(config, RunConfig):
        settings = config if source is None else replace(config, data=replace(config.data, source=source))
        return settings, _load(settings, loaded), _pretrained(settings, out, resume=stored is not None)
    asked = {**_asked(config or {}), **({} if source is None else {by_key()["data.source"]: source})}
    if stored is not None and stored.model.weights is not None:
        settings = _settings({**_values_of(stored), **asked}, None)
        return settings, _load(settings, loaded), _pretrained(settings, out, resume=True)
    chosen, pretrained = with_weights(asked, resizes=False if loaded is not None else None)
    dataset = _load(_settings(chosen, None), loaded)
    recipe = _recipe(chosen, dataset)
    return _settings(chosen, recipe), dataset, pretrained


def _values_of(run_config: RunConfig) -> Values:
    return {option: getattr(getattr(run_config, option.section), option.field) for option in options()}


def _pretrained(settings: RunConfig, out: Path, *, resume: bool) -> Pretrained | None:
    return pretrained_of(settings.model) if run.needs_weights(settings, out, resume=resume) else None


def pretrained_of(model: ModelConfig) -> Pretrained | None:
    """The weights that a network starts from; None if it starts from random ones."""
    if model.weights is None:
        return None
    return weights.read(model.weights, model=model.name, origin=model.weights_from)


def with_weights(asked: Values, *, resizes: bool | None = None) -> tuple[Values, Pretrained | None]:
    """(the settings that the user chose, with those that their weights decide; the weights).

    Args:
        asked: the settings that the user chose.
        resizes: True if the data are files, which take the size of the weights; None looks at the source.

    Raises:
        UsageError: the user chose another value for a setting that the weights bind.
        CheckpointError: the weights cannot be read.
    """
    chosen = _settings(asked, None)
    if chosen.model.weights is None:
        return asked, None
    name = chosen.model.name if by_key()["model.name"] in asked else None
    pretrained = weights.read(chosen.model.weights, model=name, origin=chosen.model.weights_from)
    resizes = holds_image_files(chosen.data.source) if resizes is None else resizes
    return {**asked, **weights.settings_of(pretrained, asked, resizes=resizes)}, pretrained


def _load(settings: RunConfig, loaded: Dataset | None) -> Dataset:
    if loaded is not None:
        return normalized_as(settings.data, loaded)
    return load_configured(settings.data, seed=settings.training.seed)


def _recipe(asked: Values, dataset: Dataset) -> Recipe | None:
    plain = _settings(asked, None)
    if plain.data.source in KNOWN:
        return named_recipe(None, asked, bfloat16_pays=bfloat16_pays())
    return own_data(len(dataset.train), fine_tunes=plain.model.weights is not None)


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
    return validated(RunConfig, **sections_of(settled(asked, chosen).items()))
