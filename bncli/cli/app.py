"""The application: its commands, and the way from an error to a message and an exit code."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Annotated

import typer

import bncli
from bncli.cli import (
    bench,
    data,
    doctor,
    evaluate,
    fold,
    inspect_stats,
    predict,
    recalibrate,
    streams,
    train,
    verify,
)
from bncli.cli.help import Command, Group, flowing
from bncli.cli.optional_value import DataCommand
from bncli.errors import BncliError
from bncli.process.memory import out_of_memory

# The parameters of commands that decide how much memory they take.
_MEMORY_OPTIONS = {"batch_size": "--batch-size", "batch_sizes": "--batch-sizes", "image_size": "--image-size"}

app = typer.Typer(
    name="bncli",
    help="Train convolutional networks with Batch Normalization, diagnose their BN layers, and fold BN away.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    cls=Group,
    rich_markup_mode=None,  # the help is drawn in help.py, errors stay plain
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with: bncli train --bn --epochs 20",
)


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """The command with its errors turned into messages and exit codes; ``--debug`` shows the traceback."""

    @functools.wraps(command)
    def run(*args: object, **kwargs: object) -> None:
        from bncli.cli import display, save_errors

        save_errors.report_once()
        with streams.ending_at_closed_pipe(by_signal=False):
            try:
                with display.shown_warnings(quiet=bool(kwargs.get("quiet"))):
                    command(*args, **kwargs)
            except (BncliError, Exception) as error:
                if kwargs.get("debug") or isinstance(error, (typer.Exit, typer.BadParameter)):
                    raise
                lower = [option for name, option in _MEMORY_OPTIONS.items() if name in kwargs]
                display.show_error(out_of_memory(error, lower=lower) or error)
                raise typer.Exit(error.exit_code if isinstance(error, BncliError) else 1) from None

    return run


def _version(wanted: bool) -> None:
    if wanted:
        streams.write_result(f"bncli {bncli.__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_version, metavar="")
    ] = False,
) -> None:
    pass


def add(group: typer.Typer, name: str, command: Callable[..., None], *, cls: type[Command] = Command) -> None:
    """Add a command to a group; its docstring is its help."""
    group.command(name, cls=cls, help=flowing(command.__doc__ or ""))(guarded(command))


add(app, "train", train.train)
add(app, "eval", evaluate.evaluate)
add(app, "predict", predict.predict)
add(app, "inspect-stats", inspect_stats.inspect_stats, cls=DataCommand)
add(app, "fold", fold.fold)
add(app, "recalibrate", recalibrate.recalibrate)
add(app, "bench", bench.bench)
add(app, "verify", verify.verify)
add(app, "doctor", doctor.doctor)

data_app = typer.Typer(
    help="Known data sets: where they lie, and how to get them.", no_args_is_help=True, cls=Group, rich_markup_mode=None
)
add(data_app, "list", data.list_datasets)
add(data_app, "fetch", data.fetch)
app.add_typer(data_app, name="data")


def main() -> None:
    """Run the console script."""
    streams.prepare()
    try:
        with streams.ending_at_closed_pipe(by_signal=True):
            app()
    except (BncliError, OSError) as error:  # the help or the version could not be written
        from bncli.cli import display

        display.show_error(error if isinstance(error, BncliError) else streams.unwritable(error))
        sys.exit(1)
