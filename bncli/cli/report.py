"""``bncli report``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bncli.cli import options
from bncli.cli.files import check_new, write_new
from bncli.cli.untrusted import visible
from bncli.errors import DataError, UsageError

if TYPE_CHECKING:
    from bncli.data import Dataset
    from bncli.jobs.report import RunReport
    from bncli.training.result import TrainResult

REPORT = "report.html"


def report(
    checkpoints: Annotated[
        list[Path],
        typer.Argument(
            metavar="CKPT…", help="Checkpoints, trained or folded; several are compared.", show_default=False
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The page; by default report.html in CKPT, or in the working directory for several.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[
        Literal["val", "test"],
        typer.Option(
            help="The images to score. Those of val chose the best epoch; those of test are best kept unseen."
        ),
    ] = "val",
    data: options.Data = None,
    data_dir: options.DataDir = None,
    step: options.Step = "best",
    model: options.Model = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the page if it is already there.")] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Write a run as one HTML page: curves, confusion matrix, worst images, BN layers, findings, settings.

    The page needs no network. Several runs are drawn on common scales, with a table of the settings in which they
    differ. Scores are those of the validation images, unless --split or --data names others.
    """
    place = out if out is not None else _default_place(checkpoints)
    check_new(place, overwrite=overwrite)
    if len(checkpoints) > 1 and model is not None:
        raise UsageError("--model names the code of one checkpoint", remedy="Report on each by itself.")
    from bncli.cli import render

    runs = tuple(
        _gather(path, split=split, source=data, data_dir=data_dir, step=step, model=model, quiet=quiet)
        for path in checkpoints
    )
    from bncli.jobs.report import differences

    result = render.ReportResult(place, runs, tuple(differences(runs)))
    page = render.report_html(runs[0]) if len(runs) == 1 else render.comparison_html(runs, result.differences)
    write_new(place, page, overwrite=overwrite)
    render.emit(result, as_json=as_json, to_json=render.report_json, to_text=render.report_text)


def write_training_report(result: TrainResult, dataset: Dataset, *, quiet: bool) -> None:
    """Write the page of a training that has just ended into its directory; an earlier one there was its own."""
    from bncli.checkpoint import load
    from bncli.cli import display, render
    from bncli.jobs.report import report_run

    place = result.out / REPORT
    found = report_run(load(result.out), dataset, test=result.test)
    write_new(place, render.report_html(found), overwrite=True)
    display.note(visible(f"report written to {place}"), quiet=quiet)


def _default_place(checkpoints: list[Path]) -> Path:
    return checkpoints[0] / REPORT if len(checkpoints) == 1 and checkpoints[0].is_dir() else Path(REPORT)


def _gather(
    path: Path,
    *,
    split: Literal["val", "test"],
    source: str | None,
    data_dir: Path | None,
    step: str,
    model: str | None,
    quiet: bool,
) -> RunReport:
    """Everything about one checkpoint; without scores, and with the reason, if its own data are not available."""
    from bncli.cli import display, session

    display.note(visible(f"reading {path} …"), quiet=quiet)
    opened = session.open_checkpoint(path, step=step, model=model)
    from bncli.jobs.report import report_run

    try:
        dataset = session.checkpoint_data(opened, source=source, data_dir=data_dir, quiet=quiet)
    except DataError as error:
        if source is not None:
            raise
        reason = " ".join(filter(None, (f"{error.message}.", error.remedy)))
        display.warn((f"nothing is scored: {error.message}",), quiet=quiet)
        return report_run(opened, None, unscored=reason, model=model)
    return report_run(opened, dataset, split=split, is_own=source is None, model=model)
