"""The result of ``bncli fold``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bncli.cli.render.tables import plain_table
from bncli.cli.render.words import counted, marked

if TYPE_CHECKING:
    from pathlib import Path

    from bncli.folding import FoldReport, NormReport
    from bncli.folding.prune.prune import PrunedLayers, PruneReport
    from bncli.jobs.export import ExportReport
    from bncli.jobs.fold_report import FoldResult
    from bncli.jobs.quantize import QuantizeReport

_DESTINATION = "folded into, or reason for keeping it"


def fold_json(result: FoldResult) -> dict[str, object]:
    """Return the ``bncli.fold/1`` document, the same as in ``fold_report.json``."""
    from bncli.jobs.fold_report import fold_document

    return fold_document(result)


def fold_text(result: FoldResult) -> RenderableType:
    """Return one row per BN layer, and the verification."""
    report = result.report
    lines = (
        *map(marked, result.notes),
        f"[bold]{report.folded} folded, {report.kept} kept[/] in {result.seconds:.2f} s",
        *(_pruned_lines(result.pruned) if result.pruned else ()),
        *_verification_lines(result),
        *(_export_line(export, result.out) for export in result.exports),
        *(_quantized_lines(result.quantized, result.out) if result.quantized else ()),
        _output_line(result),
    )
    return Group(_norms_table(report), Text.from_markup("\n".join(lines)))


def _verification_lines(result: FoldResult) -> tuple[str, ...]:
    proof, latency = result.verification, result.latency
    verdict = "[green]verified[/]" if proof.passed else "[yellow]not proved[/]"
    return (
        f"{verdict} on {marked(result.examples)}:",
        *((f"  {marked(proof.note)}",) if proof.note else ()),
        f"  relative error {proof.max_rel_error:.2g} (allowed {proof.tolerance:.2g}), "
        f"top-1 agreement {proof.top1_agreement:.4f}",
        f"  latency at batch 1: {latency.original:.3f} ms before, {latency.folded:.3f} ms after "
        f"({latency.original / latency.folded:.2f}×)",
    )


def _export_line(export: ExportReport, out: Path | None) -> str:
    proof = export.verification
    error = "" if proof is None else f", relative error {proof.max_rel_error:.2g}"
    if proof is not None and not proof.passed:
        error += f" (not proved: {marked(proof.note or '')})"
    return f"  {_place(export.file, out)}: {export.size / 1e6:.2f} MB{error}"


def _place(file: str, out: Path | None) -> str:
    """Return the path of a file of the output, as markup."""
    return marked(str(out / file)) if out else marked(file)


def _pruned_lines(report: PruneReport) -> tuple[str, ...]:
    before, after = report.parameters
    if not report.layers:
        return ("no dead channels: for some image within the range of pixels, each may pass something on",)
    head = (
        f"{counted(report.removed, 'dead channel')} removed: {before:,} parameters before, {after:,} after"
        if report.removed
        else "no channel removed"
    )
    return (head, *map(_pruned_line, report.layers))


def _pruned_line(row: PrunedLayers) -> str:
    parts = [
        f"{row.zero} always 0 where they are read" if row.zero else "",
        f"{row.unread} read with the weight 0 alone" if row.unread else "",
        f"{row.kept} dead but kept, because {row.reason}" if row.kept else "",
        f"{row.constant} kept, because they pass a constant on" if row.constant else "",
    ]
    what = f"{', '.join(row.layers)}, of {counted(row.channels, 'channel')}"
    return f"  {marked(what)}: {marked('; '.join(filter(None, parts)))}"


def _quantized_lines(report: QuantizeReport, out: Path | None) -> tuple[str, ...]:
    after = f"[bold]{report.accuracy_int8:.4f}[/]"
    return (
        f"  {_place(report.file, out)}: {report.size / 1e6:.2f} MB, {_way(report)}, calibrated on "
        f"{counted(report.calibration_images, 'training image')}",
        f"    accuracy on {counted(report.num_examples, 'validation image')}: {after}, in float32 "
        f"{report.accuracy_float32:.4f}; the same class for {report.top1_agreement:.1%}",
        *(
            f"    latency at batch {row.batch_size}: {row.int8:.3f} ms, in float32 {row.float32:.3f} ms "
            f"({row.float32 / row.int8:.2f}×)"
            for row in report.latency_ms
        ),
    )


def _way(report: QuantizeReport) -> str:
    """Words for the way in which a network was quantized."""
    if report.first_in_float32:
        return "layers alone, the first in float32"
    if report.layers_only:
        return "layers alone, and in float32 what lies between them"
    pairs = counted(report.equalized_pairs, "pair")
    return f"with {pairs} of layers equalised" if report.equalized else "without equalising layers"


def _output_line(result: FoldResult) -> str:
    if result.out is None:
        return "dry run: nothing was written"
    out = marked(str(result.out))
    data = " --data …" if result.notes else ""  # the data of another program's checkpoint are unknown
    return f"written to [bold]{out}[/]; next: bncli eval {out}{data}"


def _norms_table(report: FoldReport) -> Table:
    table = plain_table("BN layer", "", _DESTINATION, words=("", _DESTINATION))
    for row in report.norms:
        if row.status == "folded":
            table.add_row(marked(row.name), "[green]folded[/]", _destination(row))
        else:
            table.add_row(marked(row.name), "[yellow]kept[/]", f"because {marked(row.reason or '')}")
    return table


def _destination(row: NormReport) -> str:
    """Return the operations that a BN layer was folded into, and the part of it that remains."""
    left = f"; {row.left} remains" if row.left else ""
    return marked(f"{', '.join(row.into)} ({row.direction}){left}")
