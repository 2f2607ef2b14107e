"""``bncli sweep``."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from bncli.cli import options
from bncli.cli.run_settings import absolute_values
from bncli.config.options import by_key
from bncli.errors import RuntimeCheckError

if TYPE_CHECKING:
    from bncli.config.choices import Precision
    from bncli.config.options import Option
    from bncli.config.sweep_file import Choices, Range, SweepFile

SUMMARY = "summary.html"


def sweep(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="The settings to try, and those that are fixed.", show_default=False),
    ],
    out: Annotated[
        Path, typer.Option(help="The directory of the study; each trial is a checkpoint directory in it.")
    ] = Path("sweep"),
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Try many settings: each trial is a training, and the study ends when it has enough.

    The same command in another process, or on another host with the same directory, shares the study. After an
    interruption it continues: a trial that was cut off is resumed, and no settings are tried twice. The test split
    plays no part in the comparison. Needs the extra bncli[sweep].
    """
    from bncli.config.sweep_file import read_sweep_file

    asked = _absolute(read_sweep_file(file))
    if find_spec("optuna") is None:
        raise RuntimeCheckError(
            "bncli sweep needs Optuna, which is not installed", remedy="Install it: pip install 'bncli[sweep]'."
        )
    from bncli.process.configure import configure

    precision = asked.fixed.values.get(by_key()["training.precision"], "float32")
    configure(cast("Precision", precision), allow_bad_jaxlib=False)
    from bncli import selftest
    from bncli.cli import display, render, signals
    from bncli.cli.files import write_new
    from bncli.jobs.sweep import sweep as carry_on

    display.warn(selftest.check_before_training(allow_bad_jaxlib=False), quiet=quiet)
    with display.stages(quiet=quiet) as show:
        result = carry_on(
            asked,
            out,
            on_epoch=lambda trial, epoch, epochs: show(f"trial {trial}", epoch, epochs),
            on_trial=lambda trial, words: display.note(f"trial {trial}: {words}", quiet=quiet),
            stopping=partial(signals.stopping, quiet=quiet),
        )
    write_new(out / SUMMARY, render.sweep_page(result), overwrite=True)
    render.emit(result, as_json=as_json, to_json=render.sweep_json, to_text=render.sweep_text)


def _absolute(file: SweepFile) -> SweepFile:
    """The file with its paths made absolute, as ``bncli train`` keeps them."""
    space = {option: _absolute_choices(option, values) for option, values in file.space.items()}
    return replace(file, fixed=replace(file.fixed, values=absolute_values(file.fixed.values)), space=space)


def _absolute_choices(option: Option, values: Choices | Range) -> Choices | Range:
    from bncli.config.sweep_file import Choices

    if not isinstance(values, Choices):
        return values
    return replace(values, values=tuple(absolute_values({option: value})[option] for value in values.values))
