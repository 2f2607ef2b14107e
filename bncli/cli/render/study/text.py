"""The result of ``bncli study`` in the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from bncli.cli.render.tables import plain_table
from bncli.cli.render.words import counted, marked

if TYPE_CHECKING:
    from bncli.studies.driver import Progress
    from bncli.studies.experiment import Experiment
    from bncli.studies.report import Outcome, StudyReport
    from bncli.studies.statistics import Comparison

VERDICT_STYLES = {"supported": "green", "not supported": "red", "mixed": "yellow"}
_MINUTE = 60


def study_text(report: StudyReport) -> RenderableType:
    """Return each claim with its verdict, its numbers and their intervals."""
    if not report.outcomes:
        done = report.num_cells - report.num_missing
        return Text(
            f"{done} of {counted(report.num_cells, 'cell')} measured, {report.num_done_here} of them here. The "
            "verdicts follow when the other parts are measured: run the command without --shard then."
        )
    return Group(*(line for outcome in report.outcomes for line in _claim(outcome)), *_ending(report))


def _claim(outcome: Outcome) -> Iterator[RenderableType]:
    conclusion, experiment = outcome.conclusion, outcome.experiment
    style = VERDICT_STYLES[conclusion.verdict]
    yield Text.from_markup(
        f"[bold]{experiment.name}[/]  {marked(experiment.claim)}  [bold {style}]{conclusion.verdict}[/]"
    )
    yield Text(f"  {conclusion.sentence}")
    for comparison in conclusion.comparisons:
        yield Text(f"  {comparison_line(comparison)}", style="dim")
    yield Text("")


def _ending(report: StudyReport) -> Iterator[RenderableType]:
    runs = sum(outcome.num_runs for outcome in report.outcomes)
    diverged = sum(outcome.num_diverged for outcome in report.outcomes)
    data = report.data
    yield Text.from_markup(
        f"{marked(data.name)}: {data.num_train:,} training, {data.num_test:,} test images; "
        f"{counted(report.plan.seeds, 'seed')}, {counted(runs, 'training')}, {diverged} diverged; "
        f"{duration(report.seconds)} in all; {report.num_done_here} of {report.num_cells} cells measured here"
    )
    yield Text.from_markup(f"the report is [bold]{marked(str(report.out))}/report.html[/]")


def comparison_line(comparison: Comparison) -> str:
    """Return a comparison in one line: quantity, mean, interval, margin, verdict."""
    shown, unit = comparison.shown, " points" if comparison.unit == "points" else ""
    margin = comparison.in_unit(comparison.margin)
    return (
        f"{comparison.name}: {number(shown.mean)}{unit} [{number(shown.low)}, {number(shown.high)}], "
        f"margin {number(margin)}: {comparison.verdict}"
    )


def number(value: float) -> str:
    """Return three significant digits, without an exponent where that is short."""
    if not math.isfinite(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:.3g}".replace("-", "−")


def duration(seconds: float) -> str:
    """Return a time in seconds or minutes."""
    return f"{seconds:.0f} s" if seconds < 2 * _MINUTE else f"{seconds / _MINUTE:.0f} min"


def study_progress(progress: Progress) -> str:
    """Return the progress in one line."""
    left = "" if progress.seconds_left is None else f", about {duration(progress.seconds_left)} left"
    return f"{progress.experiment}: {progress.done} of {progress.total} cells{left}"


def experiments_text(experiments: Iterable[Experiment]) -> RenderableType:
    """Return the table of experiments."""
    rows = plain_table("name", "claim", words=("claim",))
    for experiment in experiments:
        rows.add_row(experiment.name, experiment.claim)
    return rows
