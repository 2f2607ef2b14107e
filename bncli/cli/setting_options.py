"""The options of ``bncli train`` that are settings of the run, made from their declarations in ``config``."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from typer.models import ParameterInfo

from bncli.config.options import Option, options
from bncli.config.settings import GENERAL, PANELS

# The defaults of options that can be repeated: key=value, and texts.
_EMPTY: tuple[object, ...] = ({}, ())


def with_settings(command: Callable[..., None], *, without: Collection[str] = ()) -> Callable[..., None]:
    """The command with an option for each setting, in front of its own options of the same panel.

    The command reads their values from its context (``run_settings``), where their sources are known too.

    Args:
        command: the function of the command.
        without: keys of settings that it has no use for, such as "training.epochs".
    """
    own = inspect.signature(command, eval_str=True).parameters

    @functools.wraps(command)
    def run(**values: object) -> None:
        command(**{name: value for name, value in values.items() if name in own})

    generated = [_parameter(option) for option in options() if option.key not in without]
    context, *others = own.values()
    ordered = sorted([*generated, *others], key=_panel)
    vars(run)["__signature__"] = inspect.Signature([context, *ordered])
    return run


def _parameter(option: Option) -> inspect.Parameter:
    return inspect.Parameter(
        option.parameter,
        inspect.Parameter.KEYWORD_ONLY,
        default=None if option.default in _EMPTY else option.default,
        annotation=Annotated[_annotation(option), _typer_option(option)],
    )


def _annotation(option: Option) -> Any:  # noqa: ANN401 - a type
    if option.type is bool:
        return bool | None if option.optional else bool
    if option.default in _EMPTY:
        return list[str] | None  # repeated
    kind = Path if option.field.endswith("_dir") else option.type
    return kind | None if option.optional else kind


def _typer_option(option: Option) -> Any:  # noqa: ANN401 - what typer.Option returns
    setting = option.setting
    names = [f"--{option.flag}/--no-{option.flag}"] if option.type is bool else [f"--{option.flag}"]
    panel = None if setting.panel == GENERAL else setting.panel
    shown = option.default not in (None, *_EMPTY)
    return typer.Option(*names, help=setting.help, rich_help_panel=panel, show_default=shown, min=option.minimum)


def _panel(parameter: inspect.Parameter) -> int:
    (info,) = (note for note in get_args(parameter.annotation) if isinstance(note, ParameterInfo))
    return PANELS.index(info.rich_help_panel or GENERAL)
