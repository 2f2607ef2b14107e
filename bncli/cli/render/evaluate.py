"""The result of ``bncli eval``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bncli.cli.render.tables import plain_table
from bncli.cli.render.words import marked

if TYPE_CHECKING:
    from bncli.measure.score import EvalResult

# A confusion matrix of more classes does not fit 80 columns; the most frequent confusions are listed instead.
MAX_CONFUSION_CLASSES = 10
MAX_CONFUSION_ROWS = 10
_TTA_WORDS = {"flip": ", each with its mirror image (--tta flip)", "none": ""}


@dataclass(frozen=True)
class EvalReport:
    """The scores of a checkpoint on a split.

    Attributes:
        checkpoint: its directory.
        step: the step of the evaluated save.
        split: the evaluated split.
        stats: "running" or "batch", the BN statistics that were used.
        tta: "flip" if the logits are the mean over each image and its mirror image, else "none".
        dataset: name of the data set.
        result: the scores.
    """

    checkpoint: Path
    step: int
    split: str
    stats: str
    tta: str
    dataset: str
    result: EvalResult


def eval_json(report: EvalReport) -> dict[str, object]:
    """Return the ``bncli.eval/1`` document."""
    result = report.result
    return {
        "schema": "bncli.eval/1",
        "checkpoint": str(report.checkpoint),
        "step": report.step,
        "dataset": report.dataset,
        "split": report.split,
        "stats": report.stats,
        "tta": report.tta,
        "num_examples": result.num_examples,
        "loss": result.loss,
        "accuracy": result.accuracy,
        "top5_accuracy": result.top5_accuracy,
        "per_class": [asdict(row) for row in result.per_class],
        "confusion": result.confusion.tolist(),
        "predictions_sha256": result.predictions_sha256,
    }


def eval_text(report: EvalReport) -> RenderableType:
    """Return the scores, the accuracy per class and the confusion matrix."""
    from bncli.measure.eval_step import TOP_K

    result = report.result
    is_telling = len(result.per_class) > TOP_K  # else every label is among the five largest logits
    step = f" step {report.step}" if report.step else ""  # another program's file does not tell it
    top5 = f"  top-5 {result.top5_accuracy:.4f}" if is_telling else ""
    head = Text.from_markup(
        f"{marked(str(report.checkpoint))}{step} on {marked(report.dataset)} {report.split}, "
        f"{report.stats} statistics, {result.num_examples:,} images{_TTA_WORDS[report.tta]}\n"
        f"[bold]accuracy {result.accuracy:.4f}[/]{top5}  loss {result.loss:.4f}"
    )
    if len(result.per_class) <= MAX_CONFUSION_CLASSES:
        return Group(head, _confusion_matrix(result))
    return Group(head, _worst_classes(result), _worst_confusions(result))


def _confusion_matrix(result: EvalResult) -> Table:
    """Return a table with labels as rows and predictions as columns; each row ends with the accuracy of its class."""
    table = plain_table(
        "label",
        *[str(k) for k in range(len(result.per_class))],
        "count",
        "acc",
        title="confusion matrix: label × prediction",
    )
    for k, row in enumerate(result.per_class):
        cells = [_cell(int(n), is_diagonal=k == j) for j, n in enumerate(result.confusion[k])]
        table.add_row(_class_label(k, row.name), *cells, f"{row.count:,}", _accuracy(row.accuracy))
    return table


def _cell(count: int, *, is_diagonal: bool) -> str:
    if count == 0:
        return "[dim]·[/]"
    return f"[green]{count}[/]" if is_diagonal else f"[red]{count}[/]"


def _class_label(k: int, name: str) -> str:
    return marked(name) if name == str(k) else f"{k} {marked(name)}"


def _worst_classes(result: EvalResult) -> Table:
    table = plain_table("class", "count", "acc", title="classes with the lowest accuracy")
    rows = sorted(result.per_class, key=lambda row: 1.0 if row.accuracy is None else row.accuracy)
    for row in rows[:MAX_CONFUSION_ROWS]:
        table.add_row(marked(row.name), f"{row.count:,}", _accuracy(row.accuracy))
    return table


def _worst_confusions(result: EvalResult) -> Table:
    table = plain_table("label", "predicted as", "times", words=("predicted as",), title="most frequent confusions")
    names = [row.name for row in result.per_class]
    pairs = [
        (int(n), names[i], names[j])
        for i, row in enumerate(result.confusion)
        for j, n in enumerate(row)
        if n and i != j
    ]
    for count, label, prediction in sorted(pairs, reverse=True)[:MAX_CONFUSION_ROWS]:
        table.add_row(marked(label), marked(prediction), f"{count:,}")
    return table


def _accuracy(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
