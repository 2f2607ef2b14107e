"""``bncli verify``."""

from __future__ import annotations

from bncli.cli import options
from bncli.errors import CheckFailedError


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
        step = report.readable_step
        raise CheckFailedError(
            f"{checkpoint}: {len(report.damaged)} of {len(report.files)} are damaged",
            remedy="Restore them from a copy."
            if step is None
            else f"Readers and --resume use step {step}, the newest whole save, in place of a damaged one.",
        )
    if report.readable_step is None:
        raise CheckFailedError(
            f"{checkpoint} holds no complete save", remedy="The training ended before its first save: train again."
        )
