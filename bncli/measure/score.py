"""The score of a network on a split: loss, accuracy, per-class accuracy and the confusion matrix.

Letters: N examples, B batch size, K classes.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from bncli.data import Preprocessor, Split
from bncli.data.batches import eval_batches
from bncli.data.feed import images_of
from bncli.frameworks.linen import Variables
from bncli.measure.eval_step import EvalStep, ExampleOutcome, LogitsFn, make_eval_step
from bncli.process import distributed
from bncli.process.flags import jit_inference
from bncli.process.mesh import check_batch_size, fetch, fitting_batch_size, make_mesh, own_rows, put_rows, put_whole

# Enough to keep a device busy while the host collects results, few enough to bound memory on a large split.
BATCHES_AHEAD = 4


@dataclass(frozen=True)
class ClassAccuracy:
    """One row of the per-class table; ``accuracy`` is None for a class without examples."""

    name: str
    count: int
    accuracy: float | None


@dataclass(frozen=True)
class EvalResult:
    """The score of a network on a split.

    Attributes:
        num_examples: N, each scored exactly once.
        loss: mean cross-entropy in nats.
        accuracy: share of examples whose largest logit is at the label.
        top5_accuracy: share of examples whose label is among the five largest logits.
        per_class: one row per class, in label order.
        confusion: int64 [K, K], rows are labels, columns predictions.
        predictions: int32 [N].
    """

    num_examples: int
    loss: float
    accuracy: float
    top5_accuracy: float
    per_class: tuple[ClassAccuracy, ...]
    confusion: np.ndarray
    predictions: np.ndarray

    @property
    def predictions_sha256(self) -> str:
        """SHA-256 over the predictions as little-endian int32."""
        return hashlib.sha256(self.predictions.astype("<i4").tobytes()).hexdigest()


def score_network(
    logits_fn: LogitsFn,
    variables: Variables,
    split: Split,
    *,
    preprocessor: Preprocessor,
    class_names: Sequence[str],
    batch_size: int,
) -> EvalResult:
    """Score a network on the whole split, on all devices.

    Args:
        logits_fn: the network in eval mode, or with batch statistics.
        variables: its arrays, on the host or a device.
        split: images of the network's size and channels.
        preprocessor: turns uint8 images into the network's input.
        class_names: [K].
        batch_size: B; in eval mode the result does not depend on it.

    Raises:
        UsageError: the batch does not divide over the devices.
    """
    mesh = make_mesh()
    check_batch_size(batch_size, mesh)
    eval_step = distributed.InStep(jit_inference(make_eval_step(logits_fn, preprocessor), preprocessor.precision))
    placed = put_whole(variables, mesh)
    return score(eval_step, placed, split, class_names=class_names, batch_size=batch_size, mesh=mesh)


def score(
    eval_step: EvalStep,
    variables: Variables,
    split: Split,
    *,
    class_names: Sequence[str],
    batch_size: int,
    mesh: jax.sharding.Mesh,
) -> EvalResult:
    """Score a compiled ``eval_step`` on the whole split; the last batch is padded, and its padding does not count.

    Sums are taken in float64 on the host, so they do not depend on the batch size.
    """
    size = fitting_batch_size(batch_size, len(split), mesh)
    outcomes = list(_outcomes(eval_step, variables, split, batch_size=size, mesh=mesh))
    return summarize(
        losses=np.concatenate([outcome.loss.astype(np.float64) for outcome in outcomes]),
        predictions=np.concatenate([outcome.prediction for outcome in outcomes]),
        in_top5=np.concatenate([outcome.in_top5 for outcome in outcomes]),
        labels=split.labels,
        class_names=class_names,
    )


def _outcomes(
    eval_step: EvalStep, variables: Variables, split: Split, *, batch_size: int, mesh: jax.sharding.Mesh
) -> Iterator[ExampleOutcome]:
    """The outcomes of each batch, on the host and without padding; the device runs a few batches ahead."""
    pending: deque[tuple[ExampleOutcome, int]] = deque()
    batches = list(eval_batches(len(split), batch_size))
    for batch, rows in zip(batches, images_of(split.images, batches, own_rows(mesh, batch_size)), strict=True):
        images: jax.Array = put_rows(rows, mesh, whole=False)
        inputs = (images, *put_rows((split.labels[batch.indices], batch.real), mesh))
        pending.append((eval_step(variables, *inputs), batch.num_real))
        if len(pending) > BATCHES_AHEAD:
            yield _without_padding(*pending.popleft())
    yield from (_without_padding(*entry) for entry in pending)


def _without_padding(outcome: ExampleOutcome, num_real: int) -> ExampleOutcome:
    unpadded: ExampleOutcome = jax.tree.map(lambda values: values[:num_real], fetch(outcome))
    return unpadded


def summarize(
    *,
    losses: np.ndarray,
    predictions: np.ndarray,
    in_top5: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
) -> EvalResult:
    """The result from the outcome of each example, all arrays [N]."""
    num_classes = len(class_names)
    confusion = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(confusion, (labels, predictions), 1)
    counts = confusion.sum(axis=1)
    per_class = tuple(
        ClassAccuracy(name, int(count), float(confusion[k, k] / count) if count else None)
        for k, (name, count) in enumerate(zip(class_names, counts, strict=True))
    )
    return EvalResult(
        num_examples=len(labels),
        loss=float(losses.mean()),
        accuracy=float((predictions == labels).mean()),
        top5_accuracy=float(in_top5.mean()),
        per_class=per_class,
        confusion=confusion,
        predictions=predictions.astype(np.int32),
    )
