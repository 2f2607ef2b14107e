"""The settings of a run: its options, above its ``--config`` file, above its recipe, above the defaults."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from bncli.cli.parsing import (
    absolute_model_name,
    absolute_source,
    absolute_weights,
    is_own_data,
    model_arguments,
)
from bncli.config.file_names import displayed
from bncli.config.options import by_key, by_parameter, options, sections_of
from bncli.errors import CheckpointError, ConfigError, UsageError

if TYPE_CHECKING:
    import typer

    from bncli.config.document import CheckpointConfig
    from bncli.config.recipes import Recipe, Values
    from bncli.config.run_file import RunFile
    from bncli.config.settings import RunConfig


@dataclass(frozen=True)
class NewRun:
    """The settings of a run that begins or, with nothing but ``config``, of one that goes on.

    Attributes:
        config: all of them.
        asked: those that the user chose.
        from_recipe: those that its recipe decided.
        follows_data: True if its recipe depends on the data, which are not read yet; see ``fitted``.
        recipe: the recipe; None if there is none, or if it depends on the data.
        from_weights: those that its pretrained weights decided, which ``asked`` has too.
    """

    config: RunConfig
    asked: Values = field(default_factory=dict, repr=False)
    from_recipe: Values = field(default_factory=dict)
    follows_data: bool = False
    recipe: Recipe | None = None
    from_weights: Values = field(default_factory=dict)

    def with_weights(self, decided: Values) -> NewRun:
        """The run with the settings that its weights decide, above those of its recipe."""
        asked = {**self.asked, **decided}
        return replace(_resolved(asked, self.recipe, follows_data=self.follows_data), from_weights=decided)

    def fitted(self, num_train: int) -> NewRun:
        """The run for this number of training images."""
        from bncli.config.recipes import own_data

        if not self.follows_data:
            return self
        recipe = own_data(num_train, fine_tunes=self.config.model.weights is not None)
        return replace(_with_recipe(self.asked, recipe), from_weights=self.from_weights)


def new_run(ctx: typer.Context) -> NewRun:
    """The settings of a new run.

    Raises:
        UsageError: an option is out of range, or there is no such recipe.
        ConfigError: the ``--config`` file is malformed.
    """
    from bncli.config.recipes import AUTO, named_recipe, settled
    from bncli.process.flags import bfloat16_pays

    file = _run_file(ctx)
    asked = {**(file.values if file else {}), **_given(ctx)}
    name = ctx.params["recipe"] or (file.recipe if file else None)
    data = str(settled(asked)[by_parameter()["data"]])
    recipe = named_recipe(name, asked, bfloat16_pays=bfloat16_pays())
    return _resolved(asked, recipe, follows_data=name == AUTO or (name is None and is_own_data(data)))


def _resolved(asked: Values, recipe: Recipe | None, *, follows_data: bool) -> NewRun:
    from bncli.config.recipes import settled

    if recipe is not None and not follows_data:
        return _with_recipe(asked, recipe)
    return NewRun(_validated(settled(asked)), asked, follows_data=follows_data)


def _with_recipe(asked: Values, recipe: Recipe) -> NewRun:
    """The settings that the user chose, above those of the recipe, above the defaults."""
    from bncli.config.recipes import recommended, settled

    chosen = recommended(recipe, asked)
    return NewRun(_validated(settled(asked, chosen)), asked, chosen, recipe=recipe)


def resumed_run(ctx: typer.Context, out: Path, *, quiet: bool) -> RunConfig:
    """The settings of the run in ``out``, with what a resumed run may change.

    Raises:
        UsageError: an option or the ``--config`` file would make it another run.
    """
    from bncli import checkpoint

    if not (out / checkpoint.CONFIG).is_file():
        raise CheckpointError(f"{out} holds no run to resume", remedy="Leave out --resume to start one.")
    opened, stored = _stored(ctx, out)
    file, given = _run_file(ctx), _given(ctx)
    asked = {**(file.values if file else {}), **given}
    for option, value in asked.items():
        if value != stored[option] and not option.setting.changeable:
            place = f"--{option.flag}" if file is None or option in given else file.places[option]
            raise UsageError(
                f"{place}: this run has {stored[option]!r}, and keeps it",
                remedy="Leave it out, or start another run with another --out.",
            )
    config = _validated({**stored, **asked})
    _note_stretched_schedule(opened.run, config, quiet=quiet)
    return config


def settings_from(ctx: typer.Context, path: Path) -> NewRun:
    """The settings of the run that made a checkpoint, below what is given here.

    Raises:
        CheckpointError: the checkpoint is folded.
        UsageError: an option would make it another network.
    """
    opened, stored = _stored(ctx, path)
    if opened.folded_from is not None:
        raise CheckpointError(f"{path} is folded and cannot be trained", remedy="Name the checkpoint it was made of.")
    file = _run_file(ctx)
    asked = {**(file.values if file else {}), **_given(ctx)}
    for option, value in asked.items():
        if option.section == "model" and value != stored[option]:
            raise UsageError(
                f"--{option.flag}: the network is that of {path}, which has {stored[option]!r}", remedy="Leave it out."
            )
    return NewRun(_validated({**stored, **asked}), asked)


def _stored(ctx: typer.Context, path: Path) -> tuple[CheckpointConfig, Values]:
    """The configuration of a checkpoint, and the settings in it."""
    from bncli import checkpoint

    opened = checkpoint.read_config(path)
    if not _is_given(ctx, "model"):  # else the user has named the code, which must be that of the run
        checkpoint.check_model_code(path, opened)
    return opened, {option: getattr(getattr(opened.run, option.section), option.field) for option in options()}


def field_value(parameter: str, value: object) -> object:
    """The value of a setting, from what the command line says."""
    if by_parameter()[parameter].setting.turned_off(value):
        return None
    if parameter == "model_arg":
        return model_arguments(cast("Iterable[str]", value or ()))
    if by_parameter()[parameter].is_repeatable:
        return tuple(cast("Iterable[str]", value or ()))
    return _absolute(parameter, str(value) if isinstance(value, Path) else value)


def _absolute(parameter: str, value: object) -> object:
    """The value with its path made absolute, if it is one, so that the run can be continued from any directory."""
    paths = {"data": absolute_source, "model": absolute_model_name, "weights": absolute_weights}
    absolute = paths.get(parameter)
    if not isinstance(value, str):
        return value
    return displayed(absolute(value) if absolute is not None else value)


def _given(ctx: typer.Context) -> Values:
    """The settings that stand on the command line."""
    return {
        option: field_value(name, ctx.params[name])
        for name, option in by_parameter().items()
        if name in ctx.params and _is_given(ctx, name)
    }


def _run_file(ctx: typer.Context) -> RunFile | None:
    """The ``--config`` file; a path in it is relative to the working directory, as on the command line."""
    if ctx.params.get("config") is None:
        return None
    from bncli.config.run_file import read_run_file

    file = read_run_file(ctx.params["config"])
    return replace(file, values=absolute_values(file.values))


def absolute_values(values: Values) -> Values:
    """Settings with their paths made absolute."""
    return {option: _absolute(option.parameter, value) for option, value in values.items()}


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
    from bncli.config.settings import RunConfig
    from bncli.config.validation import validated

    try:
        return validated(RunConfig, **sections_of(values.items()))
    except ConfigError as error:
        key, _, complaint = error.message.partition(": ")
        option = by_key().get(".".join(key.split(".")[:2]))
        name = f"--{option.flag}" if option else key
        raise UsageError(f"{name}: {complaint}", remedy="See `bncli train --help`.") from None
