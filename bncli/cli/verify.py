"""``bncli verify``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bncli.cli import options
from bncli.errors import CheckFailedError

if TYPE_CHECKING:
    from bncli.checkpoint import VerifyReport


def verify(
    checkpoint: options.Checkpoint,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Compare every file of a checkpoint with the SHA-256 that was written with it; exit with 3 if one is damaged."""
    from bncli.checkpoint import verify_checkpoint
    from bncli.cli import render

    report = verify_checkpoint(checkpoint)
    render.emit(report, as_json=as_json, to_json=render.verify_json, to_text=render.verify_text)
    if report.damaged:
        raise CheckFailedError(
            f"{checkpoint}: {len(report.damaged)} of {len(report.files)} are damaged", remedy=_remedy(report)
        )
    if report.readable_step is None:
        raise CheckFailedError(
            f"{checkpoint} holds no complete save", remedy="The training ended before its first save: train again."
        )


def _remedy(report: VerifyReport) -> str:
    beside = [file.name for file in report.damaged if not file.is_save]
    if beside:
        return f"Restore {', '.join(beside)} from a copy: the checkpoint has each of them once."
    if report.readable_step is None:
        return "Restore them from a copy."
    return f"Readers and --resume use step {report.readable_step}, the newest whole save, in place of a damaged one."
