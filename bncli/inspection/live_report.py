"""What data show of a network, in numbers. Apart from the measuring, which imports JAX."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bncli.measure.moments import Drift

# Output gap at which train mode and eval mode have parted: in a healthy net the outputs of the two differ by 0.1 to 0.2
# of their standard deviation, the noise of a batch.
PARTED = 0.5


@dataclass(frozen=True)
class LayerLive:
    """One BN layer on data.

    Attributes:
        name: path of the layer.
        drift: its running statistics against those of its inputs in eval mode, over training images.
        output_gap: rms difference of its outputs in train and in eval mode, in standard deviations of the former.
    """

    name: str
    drift: Drift
    output_gap: float


@dataclass(frozen=True)
class Score:
    """How the network does on the validation split."""

    accuracy: float
    loss: float


@dataclass(frozen=True)
class BatchScore:
    """The same with each batch's own statistics, in batches of this size."""

    batch_size: int
    accuracy: float
    loss: float


@dataclass(frozen=True)
class LiveReport:
    """What data show of a network.

    Attributes:
        dataset: its name.
        num_examples: training images that the statistics were held against.
        num_val: validation images that the scores are of.
        layers: in the order of the forward pass.
        first_apart: the first layer whose outputs in the two modes part; None where they do nowhere.
        running: score with running statistics.
        batch: score with the statistics of batches of the largest size.
        by_batch_size: the same for smaller ones too, ascending.
    """

    dataset: str
    num_examples: int
    num_val: int
    layers: tuple[LayerLive, ...]
    first_apart: str | None
    running: Score
    batch: Score
    by_batch_size: tuple[BatchScore, ...]
