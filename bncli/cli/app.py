"""The application: its commands, and how an error becomes a message and an exit code."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, Any

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
    save_errors,
    train,
    verify,
)
from bncli.errors import BncliError

app = typer.Typer(
    name="bncli",
    help="Train convolutional networks with Batch Normalization, diagnose their BN layers, and fold BN away.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with: bncli train --bn --epochs 20",
)


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """The command with its errors shown as a message and turned into exit codes; ``--debug`` shows the traceback."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - whatever the command takes
        from bncli.cli import display

        try:
            with display.shown_warnings(quiet=bool(kwargs.get("quiet"))):
                command(*args, **kwargs)
        except (BncliError, Exception) as error:
            if kwargs.get("debug") or isinstance(error, (typer.Exit, typer.BadParameter)):
                raise
            display.show_error(error)
            raise typer.Exit(error.exit_code if isinstance(error, BncliError) else 1) from None

    return run


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bncli {bncli.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    pass


app.command("train")(guarded(train.train))
app.command("eval")(guarded(evaluate.evaluate))
app.command("predict")(guarded(predict.predict))
app.command("inspect-stats")(guarded(inspect_stats.inspect_stats))
app.command("fold")(guarded(fold.fold))
app.command("recalibrate")(guarded(recalibrate.recalibrate))
app.command("bench")(guarded(bench.bench))
app.command("verify")(guarded(verify.verify))
app.command("doctor")(guarded(doctor.doctor))

data_app = typer.Typer(help="Known data sets: where they lie, and how to get them.", no_args_is_help=True)
data_app.command("list")(guarded(data.list_datasets))
data_app.command("fetch")(guarded(data.fetch))
app.add_typer(data_app, name="data")


def main() -> None:
    """The console script."""
    save_errors.report_once()
    app()
