"""What ``bncli fold`` shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from bncli.cli.render.base import plain_table

if TYPE_CHECKING:
    from bncli.folding import FoldReport, NormReport
    from bncli.jobs.export import ExportReport
    from bncli.jobs.fold_report import FoldResult


def fold_json(result: FoldResult) -> dict[str, object]:
    """Return the ``bncli.fold/1`` document, the same as in ``fold_report.json``."""
    from bncli.jobs.fold_report import fold_document

    return fold_document(result)


def fold_text(result: FoldResult) -> RenderableType:
    """The fate of each BN layer, and the proof."""
    report, proof = result.report, result.verification
    if result.out is None:
        where = "dry run: nothing was written"
    else:
        data = " --data …" if result.notes else ""  # those of another program's checkpoint are not known
        where = f"written to [bold]{escape(str(result.out))}[/]; next: bncli eval {escape(str(result.out))}{data}"
    latency = result.latency
    summary = Text.from_markup(
        "".join(f"{escape(note)}\n" for note in result.notes)
        + f"[bold]{report.folded} folded, {report.kept} kept[/] in {result.seconds:.2f} s\n"
        f"[green]verified[/] on {escape(result.examples)}:\n"
        f"  relative error {proof.max_rel_error:.2g} (allowed {proof.tolerance:.2g}), "
        f"top-1 agreement {proof.top1_agreement:.4f}\n"
        f"  latency at batch 1: {latency.original:.3f} ms before, {latency.folded:.3f} ms after "
        f"({latency.original / latency.folded:.2f}×)\n"
        + "".join(_export_line(export) for export in result.exports)
        + where
    )
    return Group(_norms_table(report), summary)


def _export_line(export: ExportReport) -> str:
    proof = export.verification
    error = "" if proof is None else f", relative error {proof.max_rel_error:.2g}"
    return f"  {export.file}: {export.size / 1e6:.2f} MB{error}\n"


def _norms_table(report: FoldReport) -> Table:
    table = plain_table(
        "BN layer", "", "into, or the reason it was kept", words=("", "into, or the reason it was kept")
    )
    for row in report.norms:
        if row.status == "folded":
            table.add_row(escape(row.name), "[green]folded[/]", _destination(row))
        else:
            table.add_row(escape(row.name), "[yellow]kept[/]", f"because {escape(row.reason or '')}")
    return table


def _destination(row: NormReport) -> str:
    """Where a folded BN went, and what of it stays all the same."""
    left = f"; {row.left} stays" if row.left else ""
    return escape(f"{', '.join(row.into)} ({row.direction}){left}")
