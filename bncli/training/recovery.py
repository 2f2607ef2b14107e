"""What a run does after a step that came to NaN or infinity: ``--on-nan``, and when even that has an end."""

from __future__ import annotations

from typing import Literal

from bncli.config.choices import OnNan
from bncli.errors import BncliError
from bncli.training.progress import RunProgress

# Steps in a row that `--on-nan skip` leaves out, and times that `rollback` goes back, before the run ends after all.
MAX_SKIPPED_IN_A_ROW = 10
MAX_ROLLBACKS = 3

WayOn = Literal["end", "rollback", "skip"]


def way_on(on_nan: OnNan, progress: RunProgress, *, step: int) -> WayOn:
    """What is done about step ``step``, from 1: the run goes back, goes on without it, or ends."""
    if on_nan == "rollback" and progress.rollbacks < MAX_ROLLBACKS:
        return "rollback"
    before = tuple(range(step - MAX_SKIPPED_IN_A_ROW, step))
    if on_nan == "skip" and progress.skipped[-MAX_SKIPPED_IN_A_ROW:] != before:
        return "skip"
    return "end"


def diverged(what: str, *, saved: str, learning_rate: float) -> BncliError:
    """The error that ends a run.

    Args:
        what: was not finite, and where.
        saved: a sentence on what is on disk.
        learning_rate: the peak that the user asked for.
    """
    return BncliError(
        f"{what}: the training has diverged. {saved}",
        remedy=f"Start again with a lower --learning-rate (it was {learning_rate:g}), a longer --warmup-epochs or "
        "--clip-norm 1; or have the run go on with --on-nan skip or rollback.",
    )
