"""Rules about measurements: running statistics that do not match the data, and eval mode worse than train mode."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bncli.inspection.live_report import LayerLive, LiveReport
from bncli.inspection.rules.rule import Severity

if TYPE_CHECKING:
    from bncli.measure.moments import Drift

# Running means off by half a standard deviation, or standard deviations by half: healthy ones are within a tenth.
STALE_DISTANCE = 0.5
STALE_RATIO = 1.5
# Accuracy that eval mode loses against train mode: more than chance explains in a few hundred images.
ACCURACY_GAP = 0.05


def stale(report: LiveReport) -> list[LayerLive]:
    """Layers whose running statistics do not match their inputs, though training normalized by those."""
    return [layer for layer in report.layers if not layer.frozen and _is_stale(layer.drift)]


def stale_message(report: LiveReport, layer: LayerLive) -> str:
    """The distance between running and measured statistics."""
    return (
        f"running statistics do not match the layer's inputs: means are off by {layer.drift.distance:.2g} standard "
        f"deviations, and standard deviations are {layer.drift.std_ratio:.2g} times the measured ones"
    )


def by_lost_accuracy(report: LiveReport) -> Severity:
    """An error if accuracy is lost, else a warning."""
    return "error" if _lost(report) > ACCURACY_GAP else "warning"


def train_eval_gap(report: LiveReport) -> list[LayerLive]:
    """The layer where train mode and eval mode first diverge, if eval mode loses accuracy."""
    if not _lost(report) > ACCURACY_GAP:
        return []
    first = [layer for layer in report.layers if layer.name == report.first_apart]
    return [*first, *report.layers][:1]


def train_eval_gap_message(report: LiveReport, layer: LayerLive) -> str:
    """The accuracy in both modes."""
    where = "first at this layer" if report.first_apart is not None else "little by little, over all layers"
    return (
        f"accuracy is {report.running.accuracy:.4f} with running statistics and {report.batch.accuracy:.4f} with "
        f"batch statistics: train mode and eval mode diverge {where}"
    )


def _lost(report: LiveReport) -> float:
    return report.batch.accuracy - report.running.accuracy


def _is_stale(drift: Drift) -> bool:
    return not (drift.distance <= STALE_DISTANCE and 1 / STALE_RATIO <= drift.std_ratio <= STALE_RATIO)
