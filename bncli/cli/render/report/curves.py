"""Loss, accuracy and learning rate over the epochs, of one run or of several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from bncli.cli.render.html.chart import Series, line_chart
from bncli.cli.render.html.document import section
from bncli.cli.render.html.markup import NOTHING, Html, element
from bncli.cli.render.words import counted

if TYPE_CHECKING:
    from bncli.jobs.report import RunReport
    from bncli.training.progress import EpochResult

Value = Callable[["EpochResult"], float]


def curves_section(run: RunReport) -> Html:
    """Return the curves of one run."""
    if not run.history:
        return section("curves", "Curves", element("p", "No epoch is recorded in this checkpoint.", class_="none"))
    best = run.best.epoch if run.best else None
    figures = [
        line_chart("Loss", _two(run, lambda r: r.train_loss, lambda r: r.val_loss, best), may_be_log=True),
        line_chart("Accuracy", _two(run, lambda r: r.train_accuracy, lambda r: r.val_accuracy, best)),
        line_chart("Learning rate", [_series("learning rate", run, lambda row: row.lr, 0)]),
    ]
    return section("curves", "Curves", element("p", _about(run), class_="about"), _side_by_side(figures))


def common_curves(runs: Sequence[RunReport], names: Sequence[str]) -> Html:
    """Return the curves of several runs, those of each quantity in one picture."""

    def chart(title: str, value: Value, *, may_be_log: bool = False) -> Html:
        lines = [
            _series(name, run, value, number, run.best.epoch if run.best else None)
            for number, (run, name) in enumerate(zip(runs, names, strict=True))
            if run.history
        ]
        return line_chart(title, lines, may_be_log=may_be_log)

    if not any(run.history for run in runs):
        return NOTHING
    figures = [
        chart("Validation accuracy", lambda row: row.val_accuracy),
        chart("Validation loss", lambda row: row.val_loss, may_be_log=True),
        chart("Training accuracy", lambda row: row.train_accuracy),
        chart("Training loss", lambda row: row.train_loss, may_be_log=True),
        chart("Learning rate", lambda row: row.lr),
    ]
    without = [name for run, name in zip(runs, names, strict=True) if not run.history]
    missing = f" Without a recorded epoch: {', '.join(without)}." if without else ""
    about = f"By epoch, all runs on one scale. The dot is the best epoch of a run.{missing}"
    return section("curves", "Curves", element("p", about, class_="about"), _side_by_side(figures))


def _about(run: RunReport) -> str:
    seconds = sum(row.seconds for row in run.history)
    took = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
    best = f" The dot is the best epoch, {run.best.epoch}." if run.best else ""
    return (
        f"{counted(len(run.history), 'epoch')} in {took} without compilation.{best} Training scores are those of the "
        "epoch's own steps, in train mode and with augmented images; validation scores follow the epoch, in eval mode."
    )


def _two(run: RunReport, train: Value, val: Value, best: int | None) -> list[Series]:
    return [_series("training", run, train, 0), _series("validation", run, val, 1, best)]


def _series(name: str, run: RunReport, value: Value, style: int, best: int | None = None) -> Series:
    return Series(name, [row.epoch for row in run.history], [value(row) for row in run.history], style, best)


def _side_by_side(figures: Sequence[Html]) -> Html:
    return element("div", *(element("div", figure, class_="card") for figure in figures), class_="charts")
