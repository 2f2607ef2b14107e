"""The measurements of ``--data`` as plain data; apart from ``live``, which takes them and imports JAX."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bncli.measure.moments import Drift

# Output gap from which on train mode and eval mode diverge. In a healthy network their outputs differ by 0.1 to 0.2
# standard deviations, the noise of a batch.
PARTED = 0.5


@dataclass(frozen=True)
class LayerLive:
    """One BN layer, measured on data.

    Attributes:
        name: path of the layer.
        drift: distance of its running statistics from those of its inputs in eval mode, over training images.
        output_gap: rms difference between its outputs in train and in eval mode, in standard deviations of those in
            train mode; NaN if it was not measured.
        frozen: True if it uses its running statistics in train mode too.
    """

    name: str
    drift: Drift
    output_gap: float
    frozen: bool = False


@dataclass(frozen=True)
class Score:
    """Accuracy and loss on the validation split; NaN for data without labels."""

    accuracy: float
    loss: float


@dataclass(frozen=True)
class BatchScore:
    """Accuracy and loss with batch statistics, in batches of this size."""

    batch_size: int
    accuracy: float
    loss: float


@dataclass(frozen=True)
class LiveReport:
    """The measurements of a network on data.

    Attributes:
        dataset: name of the data set.
        num_examples: number of training images that the statistics were compared with.
        num_val: number of validation images that were scored.
        layers: in the order of the forward pass.
        first_apart: the first layer whose outputs diverge between the two modes; None if none do.
        running: score with running statistics.
        batch: score with batch statistics, at the largest batch size.
        by_batch_size: score with batch statistics at each batch size, ascending.
    """

    dataset: str
    num_examples: int
    num_val: int
    layers: tuple[LayerLive, ...]
    first_apart: str | None
    running: Score
    batch: Score
    by_batch_size: tuple[BatchScore, ...]
