"""A report in a few lines for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from bncli.cli.render.report.words import about_split, run_names, scored_on
from bncli.cli.render.tables import Name, plain_table
from bncli.cli.render.words import counted, marked

if TYPE_CHECKING:
    from bncli.jobs.report import Difference, RunReport

# Confused pairs that are named.
NAMED_PAIRS = 3


@dataclass(frozen=True)
class ReportResult:
    """A written report.

    Attributes:
        out: the page.
        runs: the runs in it.
        differences: the settings in which they differ.
    """

    out: Path
    runs: tuple[RunReport, ...]
    differences: tuple[Difference, ...]


def report_text(result: ReportResult) -> RenderableType:
    """Return the scores of the runs, and the path of the page."""
    written = Text.from_markup(f"written to [bold]{marked(str(result.out))}[/]")
    if len(result.runs) > 1:
        return Group(_table(result), *map(Text.from_markup, _about(result)), written)
    (run,) = result.runs
    return Group(*map(Text.from_markup, _lines(run)), written)


def _lines(run: RunReport) -> Iterator[str]:
    if run.best is not None:
        yield (
            f"best epoch {run.best.epoch} of {len(run.history)}: val acc {run.best.val_accuracy:.4f}, "
            f"loss {run.best.val_loss:.4f}"
        )
    if run.scored is None:
        yield f"nothing was scored: {marked(run.unscored)}"
    else:
        mistakes = run.scored.mistakes
        yield (
            f"[bold]accuracy {mistakes.result.accuracy:.4f}[/], loss {mistakes.result.loss:.4f} on "
            f"{marked(scored_on(run.scored))}; {mistakes.count:,} wrong"
        )
        yield f"  {about_split(run.scored)}"
        names = mistakes.class_names
        for pair in mistakes.pairs[:NAMED_PAIRS]:
            label, prediction = marked(names[pair.label]), marked(names[pair.prediction])
            yield f"  {label} taken for {prediction}: {counted(pair.count, 'image')}, {pair.share:.1%} of its class"
    counts = [counted(count, severity) for severity, count in run.stats.count().items() if count]
    if run.stats.layers:
        yield f"BN layers: {', '.join(counts) or 'no findings'}"


def _table(result: ReportResult) -> RenderableType:
    table = plain_table("run", "epochs", "best", "val acc", "val loss", "accuracy", "loss", "findings")
    for run, name in zip(result.runs, run_names(result.runs), strict=True):
        best, scored = run.best, run.scored
        table.add_row(
            Name(name),
            str(len(run.history)) if run.history else "–",
            *((str(best.epoch), f"{best.val_accuracy:.4f}", f"{best.val_loss:.4f}") if best else ("–", "–", "–")),
            *(
                (f"{scored.mistakes.result.accuracy:.4f}", f"{scored.mistakes.result.loss:.4f}")
                if scored
                else ("–", "–")
            ),
            str(len(run.stats.findings)),
        )
    return table


def _about(result: ReportResult) -> Iterator[str]:
    yield from dict.fromkeys(
        f"accuracy and loss on {marked(scored_on(run.scored))}. {about_split(run.scored)}"
        for run in result.runs
        if run.scored
    )
    for run, name in zip(result.runs, run_names(result.runs), strict=True):
        if run.scored is None:
            yield f"{marked(name)}: {marked(run.unscored)}"
