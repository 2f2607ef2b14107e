"""The log of a run: ``metrics.jsonl`` with one line an epoch, ``layers.jsonl`` with the layers after each epoch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from bncli import checkpoint
from bncli.training.observation import LayerRow
from bncli.training.progress import EpochResult, RunProgress


@dataclass(frozen=True)
class RunLog:
    """Writes the log files of the run in ``out``; the files' format is ``checkpoint/directory.py``'s."""

    out: Path

    def rewind(self, progress: RunProgress) -> None:
        """Drop all that lies after ``progress``: the run does those epochs again."""
        self.write_history(progress.history)
        checkpoint.keep_layers(self.out, epochs=progress.epochs_done)

    def write_history(self, history: Iterable[EpochResult]) -> None:
        """Write ``metrics.jsonl`` anew: it holds each epoch once, whatever was saved, lost or resumed before."""
        checkpoint.write_metrics(self.out, [asdict(result) for result in history])

    def append_layers(self, epoch: int, layers: Iterable[LayerRow]) -> None:
        """Append the layers after one epoch to ``layers.jsonl``."""
        checkpoint.append_layers(self.out, {"epoch": epoch, "layers": [asdict(layer) for layer in layers]})
