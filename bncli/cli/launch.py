"""``bncli launch``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bncli.cli import options
from bncli.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from bncli.process.launcher import Ended

# The commands that take the options of a cluster.
COMMANDS = ("train", "eval", "recalibrate", "inspect-stats", "doctor")


def launch(
    command: Annotated[
        list[str],
        typer.Argument(metavar="COMMAND", help="A command of bncli with its options, after --.", show_default=False),
    ],
    processes: Annotated[int, typer.Option("--processes", "-n", help="Processes to start.", min=1)] = 2,
    logs: Annotated[
        Path, typer.Option(help="The folder for process-0.log and so on; earlier ones are replaced.")
    ] = Path("launch-logs"),
    port: Annotated[
        int | None,
        typer.Option(help="TCP port of process 0; by default a free one.", min=1, max=65535, show_default=False),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="With train: continue the run in its --out if there is one, else start it.")
    ] = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Run a command in several processes of this machine, which work as one.

    Process 0 prints here. Each process has a log file. Ctrl-C, SIGTERM and SIGUSR1 go to all of them, and all end when
    one does. On several machines, start one process on each yourself: see --distributed and --coordinator of the
    command.
    """
    from bncli.cli import display
    from bncli.process import launcher

    words = _checked(command)
    if resume:
        words = _resuming(words)
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"cannot create {logs}: {error.strerror or error}", remedy="Name another --logs."
        ) from None

    def tell(ended: Ended) -> None:
        if ended.process != 0:  # process 0 has said it itself
            display.note(f"{ended}; its log is {ended.log}", quiet=quiet)

    code = launcher.launch(words, processes=processes, logs=logs, port=port, on_end=tell)
    if code:
        raise typer.Exit(code)


def _checked(command: Sequence[str]) -> list[str]:
    """The words of the command.

    Raises:
        UsageError: it is no command that several processes can run.
    """
    name = command[0]
    if name not in COMMANDS:
        raise UsageError(
            f"{name}: several processes can run {', '.join(COMMANDS)}",
            remedy="Such as: bncli launch --processes 2 -- train --data digits",
        )
    own = ("--distributed", "--coordinator", "--num-processes", "--process-id")
    given = [word for word in command if word.partition("=")[0] in own and name != "doctor"]
    if given:
        raise UsageError(f"{given[0]}: bncli launch sets it", remedy="Leave it out.")
    return list(command)


def _resuming(words: Sequence[str]) -> list[str]:
    """The words of a training that continues its run if there is one."""
    from bncli.checkpoint.directory import CONFIG

    if words[0] != "train":
        raise UsageError(f"--resume: {words[0]} has no run to continue", remedy="Leave it out.")
    has_run = (_out_of(words) / CONFIG).is_file()
    return [*words, "--resume"] if has_run and "--resume" not in words else list(words)


def _out_of(words: Sequence[str]) -> Path:
    """The --out of a training."""
    out = "ckpt"
    for place, word in enumerate(words):
        if word == "--out" and place + 1 < len(words):
            out = words[place + 1]
        elif word.startswith("--out="):
            out = word.removeprefix("--out=")
    return Path(out)
