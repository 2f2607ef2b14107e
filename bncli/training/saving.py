"""What a run saves, and when: in the background, so that the device goes on with the next steps."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import jax

from bncli import checkpoint
from bncli.config.settings import TrainingConfig
from bncli.errors import BncliWarning, CheckpointError
from bncli.frameworks.linen import Variables
from bncli.training.observation import LayerRow
from bncli.training.progress import Best, RunProgress
from bncli.training.state import TrainState


@dataclass
class RunSaver:
    """Writes the saves of one run.

    Attributes:
        out: the checkpoint directory.
        settings: how many saves are kept, how often within an epoch, what a failed one means.
        last_step: optimizer steps at the last save.
        best: the best epoch of those whose save is written.
    """

    out: Path
    settings: TrainingConfig
    last_step: int = 0
    best: Best | None = None
    _saver: checkpoint.BackgroundSaver = field(default_factory=checkpoint.BackgroundSaver)
    _last_time: float = field(default_factory=time.monotonic)

    def is_due(self, step: int) -> bool:
        """Whether ``--save-every`` asks for a save within the epoch, at optimizer step ``step``."""
        every = self.settings.save_every
        if every is None or step <= self.last_step:
            return False
        if every.endswith("s"):
            return time.monotonic() - self._last_time >= int(every[:-1])
        return step - self.last_step >= int(every)

    def start(
        self, state: TrainState, scored: Variables, progress: RunProgress, *, layers: Iterable[LayerRow] | None = None
    ) -> None:
        """Begins to write a save. The one before must have been waited for: its failure changes what is the best.

        Args:
            state: of the run; it is copied, since the next step takes its memory.
            scored: what readers are to take.
            progress: how far the run is.
            layers: after an epoch, what each layer hands on.
        """
        step = int(state.step)
        variables, optimizer = jax.device_put(split_state(state, scored=scored), may_alias=False)
        row = None if layers is None else {"epoch": progress.epochs_done, "layers": [asdict(layer) for layer in layers]}

        def write() -> None:
            # Before the save: a row too many is dropped on resume, one too few would be lost.
            if row is not None:
                checkpoint.append_layers(self.out, row)
            document = progress.to_json()
            checkpoint.save(self.out, step, variables=variables, optimizer=optimizer, progress=document)
            self.best = progress.best  # its save is written: this one, or one before
            checkpoint.write_metrics(self.out, document["history"])
            best_step = progress.best.step if progress.best else None
            with suppress(OSError):  # a save too many does no harm, and the next time it goes
                checkpoint.prune(self.out, keep=self.settings.keep, best_step=best_step)

        self._saver.submit(write)
        self.last_step, self._last_time = step, time.monotonic()

    def failure(self) -> CheckpointError | None:
        """The error of a save that has just failed; does not wait."""
        return self._saver.failure()

    def wait(self) -> CheckpointError | None:
        """Waits for the save under way; its error, if it had one."""
        return self._saver.wait()


def restore(out: Path, step: int, like: TrainState) -> tuple[TrainState, RunProgress]:
    """A save as the state and progress of a run. What was saved after it is removed: the run comes there again.

    Args:
        out: the checkpoint directory.
        step: which save.
        like: a state of this network and optimizer, whose places the restored one takes.

    Raises:
        CheckpointError: the save is damaged, or of another network or optimizer.
    """
    variables, rest = split_state(like, scored=like.variables)
    state = join_state(*checkpoint.restore_training(out, step, variables=variables, optimizer=rest))
    progress = RunProgress.from_json(checkpoint.read_progress(out, step))
    checkpoint.drop_after(out, step)
    return state, replace(progress, best=_best_on_disk(out, progress.best))


def _best_on_disk(out: Path, best: Best | None) -> Best | None:
    """The best epoch, if its save is there and whole; the run is scored by another one if not."""
    if best is None:
        return None
    try:
        checkpoint.verify(out, best.step)
    except CheckpointError as error:
        warnings.warn(f"{error.message}; epoch {best.epoch} is no longer the best", BncliWarning, stacklevel=3)
        return None
    return best


def split_state(state: TrainState, *, scored: Variables) -> tuple[Variables, dict[str, Any]]:
    """(variables, the rest) of a state: the two array items of a save, apart so that a reader takes the first alone.

    Args:
        state: of a run.
        scored: what readers are to take: the trained variables, or where there is a moving average that one.
    """
    rest = {
        "halted": state.halted,
        "metrics": state.metrics,
        "opt_state": state.opt_state,
        "rate_scale": state.rate_scale,
        "step": state.step,
    }
    return (scored, {**rest, "trained": state.variables}) if state.ema else (state.variables, rest)


def join_state(variables: Variables, rest: Mapping[str, Any]) -> TrainState:
    """The inverse of ``split_state``."""
    if "trained" not in rest:
        return TrainState(**variables, **rest)
    others = {name: value for name, value in rest.items() if name != "trained"}
    return TrainState(**rest["trained"], **others, ema=variables["params"])
