"""The documents ``bncli.study/1`` and ``bncli.study-list/1``, without times: the same cells make the same bytes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bncli.studies.experiment import Experiment, Figure, Series
    from bncli.studies.report import Outcome, StudyReport
    from bncli.studies.statistics import Comparison

CONFIDENCE = 0.95


def study_json(report: StudyReport) -> dict[str, object]:
    """Return the ``bncli.study/1`` document."""
    return {
        "schema": "bncli.study/1",
        "data": {
            "name": report.data.name,
            "sha256": report.data.sha256,
            "num_train": report.data.num_train,
            "num_val": report.data.num_val,
            "num_test": report.data.num_test,
        },
        "seeds": report.plan.seeds,
        "quick": report.plan.quick,
        "num_cells": report.num_cells,
        "num_missing": report.num_missing,
        "experiments": [_outcome(outcome) for outcome in report.outcomes],
        "versions": dict(report.versions),
        "hardware": {
            "cpu": report.hardware.cpu,
            "cores": report.hardware.cores,
            "devices": list(report.hardware.devices),
        },
    }


def experiments_json(experiments: Iterable[Experiment]) -> dict[str, object]:
    """Return the ``bncli.study-list/1`` document."""
    return {"schema": "bncli.study-list/1", "experiments": [_experiment(experiment) for experiment in experiments]}


def _experiment(experiment: Experiment) -> dict[str, object]:
    return {
        "name": experiment.name,
        "claim": experiment.claim,
        "source": experiment.source,
        "rule": experiment.rule,
    }


def _outcome(outcome: Outcome) -> dict[str, object]:
    conclusion = outcome.conclusion
    return {
        **_experiment(outcome.experiment),
        "verdict": conclusion.verdict,
        "sentence": conclusion.sentence,
        "num_runs": outcome.num_runs,
        "num_diverged": outcome.num_diverged,
        "comparisons": [_comparison(comparison) for comparison in conclusion.comparisons],
        "figures": [_figure(figure) for figure in conclusion.figures],
    }


def _comparison(comparison: Comparison) -> dict[str, object]:
    shown = comparison.shown
    return {
        "name": comparison.name,
        "unit": "ratio" if comparison.is_ratio else comparison.unit,
        "mean": finite(shown.mean),
        "low": finite(shown.low),
        "high": finite(shown.high),
        "confidence": CONFIDENCE,
        "method": "Student t over seeds, of the logarithm" if comparison.is_ratio else "Student t over seeds",
        "margin": finite(comparison.in_unit(comparison.margin)),
        "values": _numbers([comparison.in_unit(value) for value in comparison.values]),
        "verdict": comparison.verdict,
    }


def _figure(figure: Figure) -> dict[str, object]:
    return {
        "name": figure.name,
        "title": figure.title,
        "x": figure.x,
        "y": figure.y,
        "note": figure.note,
        "series": [_series(series) for series in figure.series],
    }


def _series(series: Series) -> dict[str, object]:
    return {
        "label": series.label,
        "x": _numbers(series.x),
        "y": _numbers(series.y),
        "low": None if series.low is None else _numbers(series.low),
        "high": None if series.high is None else _numbers(series.high),
        "diverged": _numbers(series.crosses),
    }


def finite(value: float) -> float | None:
    """Return the value, or None for NaN and infinity, which JSON does not have."""
    return value if math.isfinite(value) else None


def _numbers(values: Sequence[float]) -> list[float | None]:
    return [finite(value) for value in values]
