"""The application: its commands, and the way from an error to a message and an exit code."""

from __future__ import annotations

import functools
import gc
import sys
from collections.abc import Callable
from typing import Annotated

import typer

import bncli
from bncli.cli import streams
from bncli.cli.commands import Place, group_of
from bncli.errors import BncliError
from bncli.process.memory import out_of_memory

# The parameters of commands that decide how much memory they take.
_MEMORY_OPTIONS = {"batch_size": "--batch-size", "batch_sizes": "--batch-sizes", "image_size": "--image-size"}


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


COMMANDS = {
    "train": Place("train:train", "Train a network and write a checkpoint directory."),
    "lr-find": Place(
        "lr_find:lr_find",
        "Find a learning rate: train for some steps while the rate grows, until the loss explodes.",
    ),
    "sweep": Place(
        "sweep:sweep",
        "Try many settings: each trial is a training, and the study ends when it has enough.",
    ),
    "study": Place(
        "study:study",
        "Re-run claims about Batch Normalization on your data: a verdict with an interval, and a figure, for each.",
    ),
    "eval": Place(
        "evaluate:evaluate",
        "Score a checkpoint on a split: loss, accuracy, top-5, per-class accuracy, confusion matrix.",
    ),
    "predict": Place(
        "predict:predict",
        "Show the most probable classes of image files, resized and normalised as in training.",
    ),
    "inspect-stats": Place(
        "inspect_stats:inspect_stats",
        "Show each BN layer in numbers, with findings and remedies; or compare two checkpoints.",
        kind="optional_value:DataCommand",
    ),
    "launch": Place(
        "launch:launch",
        "Run a command in several processes of this machine, which work as one.",
    ),
    "report": Place(
        "report:report",
        "Write a run as one HTML page: curves, confusion matrix, worst images, BN layers, findings, settings.",
    ),
    "fold": Place(
        "fold:fold",
        "Merge BN into its neighbours, prove on data that nothing changed, and write a checkpoint without BN.",
    ),
    "convert": Place(
        "convert:convert",
        "Make a checkpoint of the weights of torchvision or timm, for every other command to take.",
    ),
    "recalibrate": Place(
        "recalibrate:recalibrate",
        'Replace running averages by the true statistics of the training images ("precise BN").',
    ),
    "bench": Place(
        "bench:bench",
        "Compare the speed of networks by batch size, cold and warm: a trained checkpoint beside the folded one.",
    ),
    "verify": Place(
        "verify:verify",
        "Compare every file of a checkpoint with the SHA-256 that was written with it; exit with 3 if one is damaged.",
    ),
    "doctor": Place(
        "doctor:doctor",
        "Show versions, hardware and caches, and check that the installed jaxlib computes what it should.",
    ),
}
DATA_COMMANDS = {
    "list": Place("data:list_datasets", "Show the data sets known by name, and where each lies."),
    "fetch": Place("data:fetch", "Download a data set from its publisher, and check its SHA-256."),
    "pack": Place(
        "data:pack", "Decode a data set once, into a few large files that train, eval and the others read fast."
    ),
}


app = typer.Typer(
    name="bncli",
    help="Train convolutional networks with Batch Normalization, diagnose their BN layers, and fold BN away.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    cls=group_of(COMMANDS, guarded),
    rich_markup_mode=None,  # the help is drawn in help.py, errors stay plain
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with: bncli train --bn --epochs 20",
)
data_app = typer.Typer(
    help="Known data sets: where they lie, and how to get them.",
    no_args_is_help=True,
    cls=group_of(DATA_COMMANDS, guarded),
    rich_markup_mode=None,
)
app.add_typer(data_app, name="data")


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


# Tracing makes many objects and few cycles; at Python's own thresholds, the search for them takes a tenth of a start.
COLLECT_AFTER = (20_000, 20, 20)  # objects, collections of the youngest, collections of the middle generation


def main() -> None:
    """Run the console script."""
    gc.set_threshold(*COLLECT_AFTER)
    streams.prepare()
    try:
        with streams.ending_at_closed_pipe(by_signal=True):
            app()
    except (BncliError, OSError) as error:  # the help or the version could not be written
        from bncli.cli import display

        display.show_error(error if isinstance(error, BncliError) else streams.unwritable(error))
        sys.exit(1)
