"""``bncli inspect-stats``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bncli.cli import options
from bncli.cli.cluster import with_cluster
from bncli.cli.files import check_new, write_new
from bncli.cli.parsing import finding_codes
from bncli.cli.streams import write_result
from bncli.cli.untrusted import visible
from bncli.config.choices import FailOn
from bncli.errors import CheckFailedError, UsageError

if TYPE_CHECKING:
    from bncli.checkpoint import Unsaid
    from bncli.inspection import Finding, StatsReport

_DATA = "On data (the network must be known)"
_OUTPUT = "Output"


@with_cluster
def inspect_stats(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A checkpoint of any framework.", show_default=False)],
    other: Annotated[
        Path | None,
        typer.Argument(metavar="[OTHER]", help="A second checkpoint, to compare each layer with.", show_default=False),
    ] = None,
    step: options.Step = "best",
    other_step: Annotated[
        str | None, typer.Option(help="The save of OTHER to read; by default as --step.", show_default=False)
    ] = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(
            help="Show only layers of this name, channel by channel; * is a wildcard; repeatable.", show_default=False
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Show all layers, channels and findings, even if there are many.")
    ] = False,
    epsilon: Annotated[
        float | None,
        typer.Option(help="ε of all layers, if the checkpoint does not store it.", show_default=False),
    ] = None,
    momentum: Annotated[
        float | None,
        typer.Option(
            help="Weight of the old running value (1 - PyTorch's momentum), if the checkpoint does not store it.",
            show_default=False,
        ),
    ] = None,
    model: options.Model = None,
    model_arg: options.ModelArg = None,
    input_shape: options.InputShape = None,
    mean: options.Mean = None,
    std: options.Std = None,
    history: Annotated[
        bool, typer.Option("--history", help="Show each layer over the epochs of the training.")
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="[SOURCE]",
            help="Also measure on data: true statistics, train mode against eval mode. Without a value on the "
            "checkpoint's own, else on a known name (see `bncli data list`), a directory of images or records, or an "
            ".npz.",
            rich_help_panel=_DATA,
            show_default=False,
        ),
    ] = None,
    data_from: Annotated[str | None, typer.Option("--data-from", hidden=True, help="The former --data SOURCE.")] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            "--data-dir",
            help="The folder to search first for a known data set.",
            rich_help_panel=_DATA,
            show_default=False,
        ),
    ] = None,
    fail_on: Annotated[
        FailOn | None,
        typer.Option(
            help="Exit with 3 at a finding of this severity or above; of two checkpoints, at a new one.",
            show_default=False,
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CODE",
            help="Leave out findings of this code (the documentation lists them); repeatable.",
            show_default=False,
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also write a report with plots: one file that needs no network.",
            rich_help_panel=_OUTPUT,
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file of --html.", rich_help_panel=_OUTPUT)
    ] = False,
    as_csv: Annotated[
        bool,
        typer.Option(
            "--csv",
            help="Print CSV on stdout and nothing else there: a row per layer, with --layer one per channel.",
            rich_help_panel=_OUTPUT,
        ),
    ] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Show each BN layer in numbers, with findings and remedies; or compare two checkpoints."""
    form = _Form(everything=everything, by_channel=bool(layer), as_csv=as_csv, as_json=as_json)
    source = _source(data, data_from)
    wants_data = source is not None
    given = {"--layer": layer, "--history": history, "--data": wants_data, "--html": html}
    _check_usage(form, given, other, other_step, data_dir)
    ignored = finding_codes(ignore or ())
    if html is not None:
        check_new(html, overwrite=overwrite)
    from bncli.cli import session

    unsaid = session.unsaid(model_arg, input_shape, mean, std)
    inspect = partial(_inspect, epsilon=epsilon, momentum=momentum, model=model, unsaid=unsaid)
    report = inspect(path, step).without(ignored)
    if other is not None:
        new = _show_comparison(report, inspect(other, other_step or step).without(ignored), form)
        _fail_on(fail_on, new)
        return
    if wants_data:
        on = _Data(source or None, data_dir, quiet)
        report = _with_data(report, path, on, step=step, model=model, unsaid=unsaid).without(ignored)
    if history:
        from bncli.jobs.inspect import with_history

        report = with_history(report, path)
    if layer:
        from bncli.inspection.names import match_layers

        report = report.only(match_layers([row.name for row in report.layers], layer))
    if html is not None:
        _write_html(report, html, overwrite=overwrite, quiet=quiet)
    _show(report, form)
    _fail_on(fail_on, report.findings)


def _source(data: str | None, data_from: str | None) -> str | None:
    """The data to measure on: a source, "" for the checkpoint's own, None for none."""
    if data and data_from is not None:
        raise UsageError("--data and --data-from both name data", remedy="Leave out --data-from, the former name.")
    return data if data_from is None else data_from


@dataclass(frozen=True)
class _Form:
    """The form of a result.

    Attributes:
        everything: True to show also what a long result leaves out.
        by_channel: True for one row per channel.
        as_csv: True for CSV.
        as_json: True for a JSON document.
    """

    everything: bool
    by_channel: bool
    as_csv: bool
    as_json: bool


@dataclass(frozen=True)
class _Data:
    """The data to measure on.

    Attributes:
        source: as ``--data``; None is the checkpoint's own.
        data_dir: the folder to search first.
        quiet: no progress and no warnings.
    """

    source: str | None
    data_dir: Path | None
    quiet: bool


def _check_usage(
    form: _Form, given: Mapping[str, object], other: Path | None, other_step: str | None, data_dir: Path | None
) -> None:
    """Raise UsageError for options that exclude each other, or have no effect."""
    named = [option for option, value in given.items() if value]
    if form.as_csv and form.as_json:
        raise UsageError("--csv and --json are two forms of one result", remedy="Leave one out.")
    if other is not None and named:
        raise UsageError(f"{', '.join(named)}: not for two checkpoints at once", remedy="Name one checkpoint.")
    if other is None and other_step is not None:
        raise UsageError("--other-step is the step of a second checkpoint", remedy="Name it, or use --step.")
    if data_dir is not None and "--data" not in named:
        raise UsageError("--data-dir is the folder of the data of --data", remedy="Add --data.")


def _inspect(
    path: Path, step: str, *, epsilon: float | None, momentum: float | None, model: str | None, unsaid: Unsaid
) -> StatsReport:
    from bncli.cli import session
    from bncli.inspection import inspect_stats as inspect
    from bncli.inspection.readers import detect

    if detect(path) == "bncli":  # its network is traced, so JAX must be set up
        from bncli.checkpoint import refuse_unsaid

        refuse_unsaid(path, unsaid)
        session.configure_for(path)
    elif model is not None:
        return _inspect_network(path, step, epsilon=epsilon, momentum=momentum, model=model, unsaid=unsaid)
    elif unsaid.options:
        raise UsageError(
            f"{', '.join(unsaid.options)}: {path} is read without its model's code",
            remedy="Add --model file.py:Class, or leave the option out.",
        )
    # Other files need no JAX.
    return inspect(path, step=step, epsilon=epsilon, momentum=momentum, model=model)


def _inspect_network(
    path: Path, step: str, *, epsilon: float | None, momentum: float | None, model: str, unsaid: Unsaid
) -> StatsReport:
    """The report on another program's checkpoint with its model, which knows ε, momentum, and the order of layers."""
    from bncli.cli import session
    from bncli.inspection.opened import inspect_opened
    from bncli.inspection.readers import Asked

    asked = Asked(step, epsilon, momentum, model)
    return inspect_opened(session.open_checkpoint(path, step=step, model=model, unsaid=unsaid), asked)


def _with_data(
    report: StatsReport, path: Path, data: _Data, *, step: str, model: str | None, unsaid: Unsaid
) -> StatsReport:
    """The report with measurements on data.

    Raises:
        CheckpointError: the network has no BN, or is not known.
        DataError: the data cannot be read, or are not for this network.
    """
    from bncli.cli import display, session
    from bncli.inspection.opened import check_can_run, with_data
    from bncli.inspection.readers import Asked

    check_can_run(report, path, is_known=model is not None or report.format == "bncli")
    opened = session.open_checkpoint(path, step=step, model=model, unsaid=unsaid)
    dataset = session.checkpoint_data(opened, source=data.source, data_dir=data.data_dir, quiet=data.quiet)
    display.note(visible(f"measuring the network on {dataset.name} …"), quiet=data.quiet)
    return with_data(report, opened, dataset, Asked(step, model=model))


def _write_html(report: StatsReport, path: Path, *, overwrite: bool, quiet: bool) -> None:
    from bncli.cli import display, render

    write_new(path, render.stats_html(report), overwrite=overwrite)
    display.note(visible(f"report written to {path}"), quiet=quiet)


def _show(report: StatsReport, form: _Form) -> None:
    from bncli.cli import render

    if form.as_csv:
        write_result(render.stats_csv(report, by_channel=form.by_channel))
        return
    render.emit(
        report,
        as_json=form.as_json,
        to_json=lambda report: render.stats_json(report, by_channel=form.by_channel),
        to_text=lambda report: render.stats_text(report, everything=form.everything, by_channel=form.by_channel),
    )


def _show_comparison(before: StatsReport, after: StatsReport, form: _Form) -> tuple[Finding, ...]:
    """Show the comparison; return the findings that only the second checkpoint has."""
    from bncli.cli import render
    from bncli.inspection.comparison import compare

    comparison = compare(before, after)
    if form.as_csv:
        write_result(render.comparison_csv(comparison))
    else:
        render.emit(
            comparison,
            as_json=form.as_json,
            to_json=render.comparison_json,
            to_text=lambda comparison: render.comparison_text(comparison, everything=form.everything),
        )
    return comparison.appeared


def _fail_on(severity: FailOn | None, findings: Iterable[Finding]) -> None:
    """Raise CheckFailedError at a finding of this severity or above."""
    grave = {"error": ("error",), "warning": ("error", "warning"), None: ()}[severity]
    found = [finding for finding in findings if finding.severity in grave]
    if found:
        from bncli.cli.render.words import counted

        message = f"{counted(len(found), 'finding')} of severity {severity} or above"
        raise CheckFailedError(message, remedy=found[0].remedy)
