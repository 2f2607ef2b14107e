"""The examples that a network gets wrong: the worst of them, and the pairs of classes that it confuses most.

Letters: N examples, H W height and width, C channels, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bncli.checkpoint import Checkpoint
from bncli.data import Split
from bncli.jobs.evaluate import check_num_classes
from bncli.measure.eval_step import TOP_K
from bncli.measure.score import EvalResult, summarize

MAX_WORST = 24
MAX_PAIRS = 12
MAX_PER_PAIR = 4


@dataclass(frozen=True, kw_only=True)
class Example:
    """One image with its true and its predicted class.

    Attributes:
        index: its place in the split, from 0.
        image: uint8 [H, W, C], as the network gets it.
        label: the true class.
        prediction: the most probable class.
        probability: of the prediction.
        label_probability: of the true class.
        file: the image file; None for data that are not a folder.
    """

    index: int
    image: np.ndarray
    label: int
    prediction: int
    probability: float
    label_probability: float
    file: Path | None


@dataclass(frozen=True)
class Confusion:
    """A class that is taken for another one.

    Attributes:
        label: the true class.
        prediction: the other class.
        count: number of its images so predicted.
        share: the same as a share of the true class.
        examples: some of the images, those predicted with the highest probability first.
    """

    label: int
    prediction: int
    count: int
    share: float
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class Mistakes:
    """The score of a network on a split, with its mistakes.

    Attributes:
        class_names: [K].
        result: the scores.
        worst: the mistakes with the largest loss or, if there are none, the examples with the largest loss.
        pairs: the most frequent confusions.
    """

    class_names: tuple[str, ...]
    result: EvalResult
    worst: tuple[Example, ...]
    pairs: tuple[Confusion, ...]

    @property
    def count(self) -> int:
        """Number of examples that are predicted wrong."""
        return self.result.num_examples - int(np.trace(self.result.confusion))


def find_mistakes(checkpoint: Checkpoint, split: Split, class_names: Sequence[str]) -> Mistakes:
    """Score a checkpoint in inference mode, and pick out its mistakes.

    Raises:
        DataError: the number of the network's outputs differs from the number of classes.
    """
    check_num_classes(checkpoint, class_names)
    logits = checkpoint.logits(split.images).astype(np.float64)  # [N, K]
    log_probabilities = _log_softmax(logits)
    predictions = logits.argmax(axis=1)
    losses = -log_probabilities[np.arange(len(split)), split.labels]
    result = summarize(
        losses=losses,
        predictions=predictions,
        in_top5=_in_top(logits, split.labels),
        labels=split.labels,
        class_names=class_names,
    )
    examples = _Examples(split, predictions, np.exp(log_probabilities))
    wrong = np.flatnonzero(predictions != split.labels)
    candidates = wrong if wrong.size else np.arange(len(split))
    by_loss = candidates[np.argsort(-np.nan_to_num(losses[candidates], nan=np.inf), kind="stable")]
    return Mistakes(
        class_names=tuple(class_names),
        result=result,
        worst=tuple(examples.at(int(index)) for index in by_loss[:MAX_WORST]),
        pairs=tuple(_confusions(result.confusion, examples)),
    )


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", over="ignore"):  # outputs that are not finite stay so
        shifted = logits - logits.max(axis=1, keepdims=True)
        result: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def _in_top(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    k = min(TOP_K, logits.shape[1])
    top = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    found: np.ndarray = (top == labels[:, None]).any(axis=1)
    return found


@dataclass(frozen=True)
class _Examples:
    """The examples of a split with their probabilities [N, K]."""

    split: Split
    predictions: np.ndarray
    probabilities: np.ndarray

    def at(self, index: int) -> Example:
        """The example at one place."""
        label, prediction = int(self.split.labels[index]), int(self.predictions[index])
        return Example(
            index=index,
            image=self.split.images[index],
            label=label,
            prediction=prediction,
            probability=float(self.probabilities[index, prediction]),
            label_probability=float(self.probabilities[index, label]),
            file=self.split.files[index] if self.split.files is not None else None,
        )

    def surest(self, label: int, prediction: int) -> tuple[Example, ...]:
        """The examples of one class predicted as another, those with the highest probability first."""
        found = np.flatnonzero((self.split.labels == label) & (self.predictions == prediction))
        order = np.argsort(-self.probabilities[found, prediction], kind="stable")
        return tuple(self.at(int(index)) for index in found[order][:MAX_PER_PAIR])


def _confusions(confusion: np.ndarray, examples: _Examples) -> list[Confusion]:
    counts = confusion.sum(axis=1)
    others = confusion - np.diag(np.diag(confusion))
    order = np.argsort(-others, axis=None, kind="stable")[:MAX_PAIRS]
    pairs = [divmod(int(place), len(confusion)) for place in order]
    return [
        Confusion(i, j, int(others[i, j]), float(others[i, j] / counts[i]), examples.surest(i, j))
        for i, j in pairs
        if others[i, j]
    ]
