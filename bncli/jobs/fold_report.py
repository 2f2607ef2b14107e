"""The result of folding a checkpoint, and the document that is written beside it as ``fold_report.json``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from bncli.folding import FoldReport, Verification
from bncli.folding.prune.prune import PruneReport
from bncli.jobs.export import ExportReport
from bncli.jobs.quantize import QuantizeReport


@dataclass(frozen=True)
class Latency:
    """Median time of one call at batch 1, compiled, in milliseconds."""

    original: float
    folded: float


@dataclass(frozen=True)
class FoldResult:
    """The result of folding a checkpoint.

    Attributes:
        checkpoint: the folded checkpoint's original.
        step: the step of the save that was folded.
        out: the new checkpoint; None if nothing was written.
        report: one row per BN layer: folded into which operations, or kept for which reason.
        verification: the comparison of the original and the folded network.
        examples: a description of the images they were compared on.
        latency: the latency of both networks.
        seconds: time for folding and lowering, without verification.
        exports: files for other programs.
        pruned: the channels removed; None if that was not asked for.
        quantized: the quantized network beside the one in float32; None if it was not asked for.
        notes: assumptions about a checkpoint that bncli did not write.
        files: written files, relative to ``out``.
    """

    checkpoint: Path
    step: int
    out: Path | None
    report: FoldReport
    verification: Verification
    examples: str
    latency: Latency
    seconds: float
    exports: tuple[ExportReport, ...]
    pruned: PruneReport | None = None
    quantized: QuantizeReport | None = None
    notes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


def fold_document(result: FoldResult) -> dict[str, object]:
    """Return the ``bncli.fold/1`` document, the content of ``fold_report.json``."""
    return {
        "schema": "bncli.fold/1",
        "checkpoint": str(result.checkpoint),
        "step": result.step,
        "out": None if result.out is None else str(result.out),
        "folded": result.report.folded,
        "kept": result.report.kept,
        "norms": [{**asdict(row), "into": list(row.into)} for row in result.report.norms],
        "verification": {**asdict(result.verification), "examples": result.examples},
        "latency_ms": asdict(result.latency),
        "seconds": result.seconds,
        "exports": [asdict(export) for export in result.exports],
        "pruned": None if result.pruned is None else pruned_document(result.pruned),
        "quantized": None if result.quantized is None else asdict(result.quantized),
        "notes": list(result.notes),
        "files": list(result.files),
    }


def pruned_document(report: PruneReport) -> dict[str, object]:
    """Return the field ``pruned`` of the document."""
    before, after = report.parameters
    return {
        "removed": report.removed,
        "parameters": {"before": before, "after": after},
        "layers": [{**asdict(row), "layers": list(row.layers), "removed": list(row.removed)} for row in report.layers],
    }
