"""The settings of a run, from what the command was given: its options, its recipe's, a resumed run's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bncli.cli.parsing import absolute_model_name, absolute_source, model_arguments
from bncli.errors import CheckpointError, ConfigError, UsageError

if TYPE_CHECKING:
    import typer

    from bncli.config.settings import RunConfig

# parameter of the command -> where it lies in the configuration
SETTINGS: dict[str, tuple[str, str]] = {
    "augment": ("data", "augment"),
    "bad_images": ("data", "bad_images"),
    "batch_size": ("training", "batch_size"),
    "bn": ("model", "bn"),
    "bn_epsilon": ("model", "bn_epsilon"),
    "bn_momentum": ("model", "bn_momentum"),
    "bn_placement": ("model", "bn_placement"),
    "channels": ("data", "channels"),
    "clip_norm": ("optimizer", "clip_norm"),
    "data": ("data", "source"),
    "data_dir": ("data", "data_dir"),
    "decay_all": ("optimizer", "decay_all"),
    "deterministic": ("training", "deterministic"),
    "dropout": ("model", "dropout"),
    "ema_decay": ("training", "ema_decay"),
    "epochs": ("training", "epochs"),
    "image_size": ("data", "image_size"),
    "init": ("model", "init"),
    "keep": ("training", "keep"),
    "label_smoothing": ("optimizer", "label_smoothing"),
    "learning_rate": ("optimizer", "learning_rate"),
    "model": ("model", "name"),
    "model_arg": ("model", "args"),
    "momentum": ("optimizer", "momentum"),
    "on_nan": ("training", "on_nan"),
    "on_save_error": ("training", "on_save_error"),
    "optimizer": ("optimizer", "name"),
    "patience": ("training", "patience"),
    "precise_bn": ("training", "precise_bn"),
    "precision": ("training", "precision"),
    "save_every": ("training", "save_every"),
    "schedule": ("optimizer", "schedule"),
    "schedule_epochs": ("optimizer", "schedule_epochs"),
    "seed": ("training", "seed"),
    "val_fraction": ("data", "val_fraction"),
    "warmup_epochs": ("optimizer", "warmup_epochs"),
    "weight_decay": ("optimizer", "weight_decay"),
}
# What a resumed run may change without becoming another run.
_CHANGEABLE = ("data_dir", "epochs", "keep", "on_nan", "on_save_error", "patience", "precise_bn", "save_every")


def new_run(ctx: typer.Context, chosen: dict[str, Any]) -> RunConfig:
    """The run's settings from the command's options, those of its recipe among them."""
    return _validated(_sections({**ctx.params, **chosen}))


def from_recipe(ctx: typer.Context) -> dict[str, Any]:
    """The recipe's options that were not given in the call."""
    from bncli.config.recipes import recipe_options

    params = ctx.params
    options = recipe_options(
        params["recipe"],
        data=params["data"],
        model=params["model"],
        bn=params["bn"],
        optimizer=params["optimizer"],
    )
    return {name: value for name, value in options.items() if not _is_given(ctx, name)}


def resumed_run(ctx: typer.Context, out: Path, *, quiet: bool) -> RunConfig:
    """The settings of the run in ``out``, with what a resumed run may change.

    Raises:
        UsageError: an option was given that would make it another run.
    """
    from dataclasses import asdict

    from bncli import checkpoint

    if not (out / checkpoint.CONFIG).is_file():
        raise CheckpointError(f"{out} holds no run to resume", remedy="Leave --resume out to start one.")
    opened = checkpoint.read_config(out)
    if not _is_given(ctx, "model"):  # else the user has named the code, which below must be that of the run
        checkpoint.check_model_code(out, opened)
    stored = asdict(opened.run)
    given = {name: value for name, value in ctx.params.items() if name in SETTINGS and _is_given(ctx, name)}
    sections = {section: dict(fields) for section, fields in stored.items()}
    for section, fields in _sections(given).items():
        for field, value in fields.items():
            name = next(name for name, place in SETTINGS.items() if place == (section, field))
            if value != stored[section][field] and name not in _CHANGEABLE:
                raise UsageError(
                    f"--{name.replace('_', '-')}: this run has {stored[section][field]!r}, and keeps it",
                    remedy="Leave the option out, or start another run with another --out.",
                )
            sections[section][field] = value
    config = _validated(sections)
    _note_stretched_schedule(stored, config, quiet=quiet)
    return config


def _note_stretched_schedule(stored: dict[str, Any], config: RunConfig, *, quiet: bool) -> None:
    from bncli.cli import display

    before, now = stored["training"]["epochs"], config.training.epochs
    if before != now and config.optimizer.schedule_epochs is None and config.optimizer.schedule != "constant":
        display.note(
            f"the {config.optimizer.schedule} schedule is stretched from {before} to {now} epochs; "
            "--schedule-epochs at the start of a run fixes its length",
            quiet=quiet,
        )


def _is_given(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _sections(params: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Options -> {section: {field: value}}."""
    sections: dict[str, dict[str, Any]] = {}
    for name, (section, field) in SETTINGS.items():
        if name in params:
            sections.setdefault(section, {})[field] = field_value(name, params[name])
    return sections


def field_value(name: str, value: Any) -> Any:  # noqa: ANN401 - any option's value
    if name in ("clip_norm", "ema_decay"):
        return value or None  # 0 is none, so that the call can take back what its recipe has
    if name == "model_arg":
        return model_arguments(value or ())
    if name == "model":
        return absolute_model_name(value)
    if name == "data":
        return absolute_source(value)
    if isinstance(value, Path):
        return str(value)
    return value


def _validated(sections: dict[str, dict[str, Any]]) -> RunConfig:
    from bncli.config.settings import RunConfig, validated

    try:
        return validated(RunConfig, **sections)
    except ConfigError as error:
        section_and_field, _, complaint = error.message.partition(": ")
        name = next((n for n, place in SETTINGS.items() if ".".join(place) == section_and_field), section_and_field)
        raise UsageError(f"--{name.replace('_', '-')}: {complaint}", remedy="See `bncli train --help`.") from None
