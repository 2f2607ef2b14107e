"""A report as one JSON document."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bncli.cli.render.report.text import ReportResult
    from bncli.jobs.mistakes import Example, Mistakes
    from bncli.jobs.report import RunReport, Scored


def report_json(result: ReportResult) -> dict[str, object]:
    """Return the ``bncli.report/1`` document."""
    return {
        "schema": "bncli.report/1",
        "out": str(result.out),
        "runs": [_run(run) for run in result.runs],
        "differences": [{"key": row.key, "values": list(row.values)} for row in result.differences],
    }


def _run(run: RunReport) -> dict[str, object]:
    return {
        "checkpoint": str(run.checkpoint),
        "step": run.step,
        "best": None if run.best is None else asdict(run.best),
        "history": [asdict(row) for row in run.history],
        "scored": None if run.scored is None else _scored(run.scored),
        "unscored": run.unscored or None,
        "findings": [{**asdict(row), "channels": list(row.channels)} for row in run.stats.findings],
        "settings": [
            {"key": row.key, "value": row.value, "default": row.default, "differs": row.differs} for row in run.settings
        ],
        "versions": dict(run.config.versions),
        "sha256": run.sha256,
    }


def _scored(scored: Scored) -> dict[str, object]:
    mistakes = scored.mistakes
    result = mistakes.result
    return {
        "split": scored.split,
        "dataset": scored.dataset,
        "own_data": scored.is_own,
        "num_examples": result.num_examples,
        "accuracy": result.accuracy,
        "top5_accuracy": result.top5_accuracy,
        "loss": result.loss,
        "wrong": mistakes.count,
        "confusion": result.confusion.tolist(),
        "predictions_sha256": result.predictions_sha256,
        "pairs": [
            {
                "label": mistakes.class_names[pair.label],
                "prediction": mistakes.class_names[pair.prediction],
                "count": pair.count,
                "share": pair.share,
            }
            for pair in mistakes.pairs
        ],
        "worst": [_example(example, mistakes) for example in mistakes.worst],
    }


def _example(example: Example, mistakes: Mistakes) -> dict[str, object]:
    return {
        "index": example.index,
        "file": None if example.file is None else str(example.file),
        "label": mistakes.class_names[example.label],
        "label_probability": example.label_probability,
        "prediction": mistakes.class_names[example.prediction],
        "probability": example.probability,
    }
