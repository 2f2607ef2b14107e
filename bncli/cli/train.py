"""``bncli train``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bncli.cli import options
from bncli.cli.cluster import with_cluster
from bncli.cli.run_settings import NewRun, new_run, resumed_run
from bncli.cli.setting_options import with_settings
from bncli.cli.streams import one_place, write_result
from bncli.config.settings import OPTIMIZER, OUTPUT
from bncli.errors import UsageError
from bncli.process import distributed
from bncli.process.phase_clock import PhaseClock

if TYPE_CHECKING:
    from bncli.cli.display import TrainingDisplay
    from bncli.config.settings import RunConfig
    from bncli.data import Dataset
    from bncli.jobs.loggers.run_loggers import RunLoggers
    from bncli.training.loop import Trainer
    from bncli.training.result import TrainResult
    from bncli.weights import Pretrained


@with_cluster
@with_settings
def train(
    ctx: typer.Context,
    *,
    config: Annotated[
        Path | None,
        typer.Option(help="Settings in a TOML file; options on the command line win.", show_default=False),
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the settings of the run as TOML, and train nothing.")
    ] = False,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Defaults for a data set: fashion-mnist, cifar10, cifar100, auto (for a folder or file, by the number "
            "of its images), fast (for accuracy in few epochs), or none. By default that of --data.",
            rich_help_panel=OPTIMIZER,
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The checkpoint directory.", rich_help_panel=OUTPUT)] = Path("ckpt"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out.", rich_help_panel=OUTPUT)
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the checkpoint in --out.", rich_help_panel=OUTPUT)
    ] = False,
    report: Annotated[
        bool,
        typer.Option(
            "--report", help="At the end, write report.html in --out, as `bncli report` does.", rich_help_panel=OUTPUT
        ),
    ] = False,
    allow_bad_jaxlib: Annotated[
        bool, typer.Option("--allow-bad-jaxlib", help="Train even if jaxlib computes wrong numbers (`bncli doctor`).")
    ] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Train a network and write a checkpoint directory.

    The result depends on the options and the seed alone. Ctrl-C and SIGTERM save the run. --resume continues it after
    them, or after a crash, to the same bytes as an uninterrupted run. The test split is scored once, at the end, on the
    epoch with the best validation accuracy.
    """
    clock = PhaseClock()
    _check_options(out, resume=resume, overwrite=overwrite, print_config=print_config, as_json=as_json, report=report)
    asked = new_run(ctx)  # first: a mistake in the call is answered before JAX is imported
    if resume:
        asked = NewRun(resumed_run(ctx, out, quiet=quiet))
    if print_config:
        _print(_fitted(asked, out, resume=resume, quiet=quiet).config)
        return
    from bncli.cli import display, render

    shown = display.TrainingDisplay(quiet=quiet)
    with shown.running():
        how = _How(resume=resume, overwrite=overwrite, quiet=quiet, allow_bad_jaxlib=allow_bad_jaxlib)
        result, dataset = _trained(asked, out, shown, how, clock)
    has_rows = not quiet and one_place()  # there the rows stand already, on stderr
    text = partial(render.train_text, with_epochs=not has_rows)
    render.emit(result, as_json=as_json, to_json=render.train_json, to_text=text)
    if report:
        from bncli.cli.report import write_training_report

        write_training_report(result, dataset, quiet=quiet)


@dataclass(frozen=True, kw_only=True)
class _How:
    """The options of the command that are no settings of the run."""

    resume: bool
    overwrite: bool
    quiet: bool
    allow_bad_jaxlib: bool


def _trained(
    asked: NewRun, out: Path, shown: TrainingDisplay, how: _How, clock: PhaseClock
) -> tuple[TrainResult, Dataset]:
    """(the result of the run, its data set)."""
    from bncli import checkpoint
    from bncli.jobs.loggers.registry import check_installed as check_loggers

    clock.on_phase = shown.show_phase
    check_loggers(asked.config.training.log)
    if not how.resume:
        checkpoint.check_output(out, overwrite=how.overwrite, can_resume=True)
    _set_up(asked, quiet=how.quiet, allow_bad_jaxlib=how.allow_bad_jaxlib)
    with _trainer(asked, out, shown, how, clock) as (new, trainer):
        from bncli.jobs.loggers.run_loggers import logging
        from bncli.training import run

        if how.resume:
            run.resume(trainer)
        else:
            run.start(trainer, overwrite=how.overwrite)
        epochs_before = trainer.progress.epochs_done
        _announce(new, trainer, quiet=how.quiet)
        clock.enter("rest")
        with logging(trainer) as loggers:
            _show_epochs(trainer, loggers, shown, quiet=how.quiet)
            result = run.finish(trainer, epochs_before=epochs_before)
            loggers.end(result)
    return result, trainer.dataset


def _check_options(
    out: Path, *, resume: bool, overwrite: bool, print_config: bool, as_json: bool, report: bool
) -> None:
    if resume and overwrite:
        raise UsageError("--resume and --overwrite exclude each other", remedy="Choose one.")
    if print_config and as_json:
        raise UsageError("--print-config prints TOML, --json prints JSON", remedy="Choose one.")
    if report and not distributed.is_alone():
        raise UsageError(
            "--report is written by a process that is alone",
            remedy=f"Leave it out, and run afterwards: bncli report {out}",
        )


def _print(settings: RunConfig) -> None:
    from bncli.config.run_file import run_file_text

    write_result(run_file_text(settings))


def _fitted(asked: NewRun, out: Path, *, resume: bool, quiet: bool) -> NewRun:
    """The run with what its weights decide, fitted to its data if its recipe depends on them."""
    from bncli.cli import session

    asked, _ = _with_weights(asked, out, resume=resume, quiet=quiet)
    if not asked.follows_data:
        return asked
    return asked.fitted(len(session.training_data(asked.config, quiet=quiet).train))


def with_pretrained(asked: NewRun, *, quiet: bool) -> tuple[NewRun, Pretrained | None]:
    """(a new run with the settings that its pretrained weights decide, the weights; None if it needs none)."""
    if asked.config.model.weights is None:
        return asked, None
    from bncli.cli import display
    from bncli.jobs.train import with_weights

    values, pretrained = with_weights(asked.asked)
    for note in pretrained.notes if pretrained is not None else ():
        display.note(note, quiet=quiet)
    decided = {option: value for option, value in values.items() if asked.asked.get(option, ...) != value}
    return asked.with_weights(decided), pretrained


def _with_weights(asked: NewRun, out: Path, *, resume: bool, quiet: bool) -> tuple[NewRun, Pretrained | None]:
    """(the run with the settings that its pretrained weights decide, the weights; None if it needs none)."""
    if asked.config.model.weights is None or not resume:
        return with_pretrained(asked, quiet=quiet)
    from bncli.jobs.train import pretrained_of
    from bncli.training.run import needs_weights

    needed = needs_weights(asked.config, out, resume=True)
    return asked, pretrained_of(asked.config.model) if needed else None


def _set_up(asked: NewRun, *, quiet: bool, allow_bad_jaxlib: bool) -> None:
    """Set up the process for a training, and check it."""
    from bncli.cli import display
    from bncli.process.configure import configure

    configure(asked.config.training.precision, allow_bad_jaxlib=allow_bad_jaxlib)
    from bncli import selftest

    display.warn(selftest.check_before_training(allow_bad_jaxlib=allow_bad_jaxlib), quiet=quiet)


@contextmanager
def _trainer(
    asked: NewRun, out: Path, shown: TrainingDisplay, how: _How, clock: PhaseClock
) -> Iterator[tuple[NewRun, Trainer]]:
    """The run, fitted to its data, and its trainer; no other training can use ``out`` inside."""
    from bncli import checkpoint
    from bncli.cli import session
    from bncli.training.assembly import create_trainer

    asked, pretrained = _with_weights(asked, out, resume=how.resume, quiet=how.quiet)
    with clock.phase("data"):
        dataset = session.training_data(asked.config, quiet=how.quiet, shown=shown)
    run = asked.fitted(len(dataset.train))
    trainer = create_trainer(run.config, dataset, out, pretrained=pretrained, compile_ahead=not how.resume, clock=clock)
    with checkpoint.locked_for_all(out):
        yield run, trainer


def _announce(new: NewRun, trainer: Trainer, *, quiet: bool) -> None:
    """Show what is about to be trained, and the settings that pretrained weights and a recipe chose."""
    from bncli.cli import display, render

    display.note(render.run_lines(trainer), quiet=quiet)
    for line in render.origin_lines(trainer, new.from_recipe, new.from_weights):
        display.note(line, quiet=quiet)


def _show_epochs(trainer: Trainer, loggers: RunLoggers, shown: TrainingDisplay, *, quiet: bool) -> None:
    """Run the training and draw its events."""
    from bncli.cli import display, signals
    from bncli.training.progress import EpochResult, Notice

    shown.epochs = trainer.config.training.epochs
    silent = quiet or not distributed.is_first()
    with signals.stopping(trainer.request_stop, quiet=silent):
        shown.show_earlier(trainer.progress)
        for event in trainer.epochs():
            loggers.on_event(event)
            if isinstance(event, EpochResult):
                shown.show_epoch(event, trainer.progress.best)
            elif isinstance(event, Notice):
                display.warn((event.message,), quiet=quiet)
            else:
                shown.show_step(event)
