"""The settings of a run: its options, above its ``--config`` file, above its recipe, above the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bncli.cli.parsing import absolute_model_name, absolute_source, model_arguments
from bncli.config.options import Option, by_key, by_parameter, options, sections_of
from bncli.errors import CheckpointError, ConfigError, UsageError

if TYPE_CHECKING:
    import typer

    from bncli.config.settings import RunConfig

Values = Mapping[Option, Any]


@dataclass(frozen=True)
class NewRun:
    """The settings of a run that begins.

    Attributes:
        config: all of them.
        from_recipe: by parameter, those that its recipe decided.
    """

    config: RunConfig
    from_recipe: Mapping[str, Any]


def new_run(ctx: typer.Context) -> NewRun:
    """The settings of a new run.

    Raises:
        UsageError: an option is out of range, or there is no such recipe.
        ConfigError: the ``--config`` file is malformed.
    """
    recipe, from_file = _from_file(ctx)
    asked = {**_defaults(), **from_file, **_given(ctx)}
    chosen = {
        name: value
        for name, value in _recipe_options(ctx, recipe, asked).items()
        if by_parameter()[name] not in {**from_file, **_given(ctx)}
    }
    recommended = {by_parameter()[name]: field_value(name, value) for name, value in chosen.items()}
    return NewRun(_validated({**asked, **recommended}), chosen)


def resumed_run(ctx: typer.Context, out: Path, *, quiet: bool) -> RunConfig:
    """The settings of the run in ``out``, with what a resumed run may change.

    Raises:
        UsageError: an option or the ``--config`` file would make it another run.
    """
    from bncli import checkpoint

    if not (out / checkpoint.CONFIG).is_file():
        raise CheckpointError(f"{out} holds no run to resume", remedy="Leave out --resume to start one.")
    opened = checkpoint.read_config(out)
    if not _is_given(ctx, "model"):  # else the user has named the code, which below must be that of the run
        checkpoint.check_model_code(out, opened)
    stored = {option: getattr(getattr(opened.run, option.section), option.field) for option in options()}
    asked = {**_from_file(ctx)[1], **_given(ctx)}
    for option, value in asked.items():
        if value != stored[option] and not option.setting.changeable:
            raise UsageError(
                f"--{option.flag}: this run has {stored[option]!r}, and keeps it",
                remedy="Leave the option out, or start another run with another --out.",
            )
    config = _validated({**stored, **asked})
    _note_stretched_schedule(opened.run, config, quiet=quiet)
    return config


def field_value(parameter: str, value: Any) -> Any:  # noqa: ANN401 - any option's value
    """The value of a setting, from what the command line or a recipe says."""
    if by_parameter()[parameter].setting.zero_is_none:
        return value or None
    if parameter == "model_arg":
        return model_arguments(value or ())
    if parameter == "model":
        return absolute_model_name(value)
    if parameter == "data":
        return absolute_source(value)
    return str(value) if isinstance(value, Path) else value


def _defaults() -> Values:
    return {option: option.default for option in options()}


def _given(ctx: typer.Context) -> Values:
    """The settings that stand on the command line."""
    return {
        option: field_value(name, ctx.params[name])
        for name, option in by_parameter().items()
        if name in ctx.params and _is_given(ctx, name)
    }


def _from_file(ctx: typer.Context) -> tuple[str | None, Values]:
    """(recipe, settings) of the ``--config`` file; nothing without one."""
    if ctx.params.get("config") is None:
        return None, {}
    from bncli.config.run_file import read_run_file

    found = read_run_file(ctx.params["config"])
    texts = ("model", "data")  # a path there is relative to where the command runs, as on the command line
    return found.recipe, {
        option: field_value(option.parameter, value) if option.parameter in texts else value
        for option, value in found.values.items()
    }


def _recipe_options(ctx: typer.Context, recipe: str | None, asked: Values) -> Mapping[str, Any]:
    from bncli.config.recipes import recipe_options

    names = ("data", "model", "bn", "optimizer")
    return recipe_options(ctx.params["recipe"] or recipe, **{name: asked[by_parameter()[name]] for name in names})


def _is_given(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _note_stretched_schedule(stored: RunConfig, config: RunConfig, *, quiet: bool) -> None:
    from bncli.cli import display

    before, now, optimizer = stored.training.epochs, config.training.epochs, config.optimizer
    if before != now and optimizer.schedule_epochs is None and optimizer.schedule != "constant":
        display.note(
            f"the {optimizer.schedule} schedule is stretched from {before} to {now} epochs; "
            "--schedule-epochs at the start of a run fixes its length",
            quiet=quiet,
        )


def _validated(values: Values) -> RunConfig:
    from bncli.config.document import validated
    from bncli.config.settings import RunConfig

    try:
        return validated(RunConfig, **sections_of(values.items()))
    except ConfigError as error:
        key, _, complaint = error.message.partition(": ")
        option = by_key().get(".".join(key.split(".")[:2]))
        name = f"--{option.flag}" if option else key
        raise UsageError(f"{name}: {complaint}", remedy="See `bncli train --help`.") from None
