"""``bncli study``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bncli.cli import options
from bncli.errors import UsageError

if TYPE_CHECKING:
    from bncli.studies.driver import Progress, Shard
    from bncli.studies.report import StudyReport

REPORT, DOCUMENT = "report.html", "study.json"


def study(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="Experiments; by default all.", show_default=False)
    ] = None,
    list_only: Annotated[bool, typer.Option("--list", help="Show the experiments, and measure nothing.")] = False,
    data: Annotated[
        str, typer.Option(help="A known name (see `bncli data list`), a directory of images or records, or an .npz.")
    ] = "digits",
    data_dir: options.DataDir = None,
    seeds: Annotated[int, typer.Option(min=1, help="Repetitions of each training; an interval needs 2.")] = 5,
    out: Annotated[Path, typer.Option(help="The directory of the study; the same one goes on.")] = Path("study"),
    quick: Annotated[bool, typer.Option("--quick", help="Fewer steps and coarser grids: a first look.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Processes that share the work on this machine.")] = 1,
    shard: Annotated[
        str | None,
        typer.Option(
            help="Measure one part of the cells, such as 2/8 on the second of 8 machines.", show_default=False
        ),
    ] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Re-run claims about Batch Normalization on your data: a verdict with an interval, and a figure, for each.

    Small networks are trained with and without BN, each side at its own best learning rate. Each experiment says
    supported, not supported or mixed by a rule that is fixed before it runs. The report is OUT/report.html;
    figures need the extra bncli[study]. After an interruption the same command goes on; the same command in another
    process, or on another host with the same directory, shares the work.
    """
    part = None if shard is None else _shard(shard)
    from bncli.process.configure import configure

    if list_only:
        _list(names, as_json=as_json)
        return
    configure()
    from bncli import selftest
    from bncli.cli import display, render, signals
    from bncli.studies.driver import Shard, StudySettings, chosen_experiments, run_study

    settings = StudySettings(
        names=tuple(names or ()),
        data=data,
        data_dir=None if data_dir is None else str(data_dir),
        out=str(out),
        seeds=seeds,
        quick=quick,
        jobs=jobs,
        shard=part or Shard(),
    )
    chosen_experiments(settings.names)
    display.warn(selftest.check_before_training(allow_bad_jaxlib=False), quiet=quiet)
    stopped: list[int] = []
    with signals.stopping(stopped.append, quiet=quiet), display.stages(quiet=quiet) as show:
        report = run_study(settings, on_progress=_Shown(show, quiet=quiet), should_stop=lambda: bool(stopped))
    _write(report, quiet=quiet)
    render.emit(report, as_json=as_json, to_json=render.study_json, to_text=render.study_text)


class _Shown:
    """Shows the progress: a bar on a terminal, and a line for each experiment."""

    def __init__(self, show: object, *, quiet: bool) -> None:
        self._show, self._quiet, self._last = show, quiet, ""

    def __call__(self, progress: Progress) -> None:
        from bncli.cli import display, render

        if callable(self._show):
            self._show("cells", progress.done, progress.total)
        if progress.experiment != self._last:
            self._last = progress.experiment
            display.note(render.study_progress(progress), quiet=self._quiet)


def _list(names: list[str] | None, *, as_json: bool) -> None:
    from bncli.cli import render
    from bncli.studies.driver import chosen_experiments

    chosen = chosen_experiments(names or ())
    render.emit(chosen, as_json=as_json, to_json=render.experiments_json, to_text=render.experiments_text)


def _shard(text: str) -> Shard:
    """The part that ``i/n`` names.

    Raises:
        UsageError: it names none.
    """
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and len(text) < 20 and 1 <= int(number) <= int(count)):
        raise UsageError(f"--shard {text}: no such part", remedy="Write 1/4, 2/4, 3/4 or 4/4 for four machines.")
    from bncli.studies.driver import Shard

    return Shard(int(number), int(count))


def _write(report: StudyReport, *, quiet: bool) -> None:
    """Write the document and the page, unless cells of other shards are missing."""
    import json

    from bncli.cli import display, render
    from bncli.cli.files import write_new

    if not report.outcomes:
        return
    if not report.has_pictures:
        display.warn(
            ("Matplotlib is not installed, so there are no figures. Install it: pip install 'bncli[study]'.",),
            quiet=quiet,
        )
    document = json.dumps(render.study_json(report), indent=1, ensure_ascii=False, allow_nan=False)
    write_new(report.out / DOCUMENT, document + "\n", overwrite=True)
    write_new(report.out / REPORT, render.study_page(report), overwrite=True)
