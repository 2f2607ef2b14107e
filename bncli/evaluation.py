"""A network on a split: loss, accuracy, per-class accuracy and the confusion matrix.

Letters: N examples, B batch size, K classes.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from bncli.checkpoint import Checkpoint
from bncli.choices import StatsMode
from bncli.config import CheckpointConfig
from bncli.data import Dataset, Split, normalize
from bncli.data.batches import epoch_order, eval_batches
from bncli.errors import DataError, UsageError
from bncli.models import Variables
from bncli.runtime import batch_sharding, check_batch_size, make_mesh, replicated
from bncli.training.steps import EvalStep, ExampleOutcome, LogitsFn, make_eval_step

# Enough to keep a device busy while the host collects, few enough that a large split is not all in flight.
BATCHES_AHEAD = 4


@dataclass(frozen=True)
class ClassAccuracy:
    """One row of the per-class table; ``accuracy`` is None for a class without examples."""

    name: str
    count: int
    accuracy: float | None


@dataclass(frozen=True)
class EvalResult:
    """How a network did on a split.

    Attributes:
        num_examples: N, each scored exactly once.
        loss: mean cross-entropy in nats.
        accuracy: share of examples whose largest logit is the label's.
        top5_accuracy: share whose label is among the five largest logits.
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


def evaluate_checkpoint(
    checkpoint: Checkpoint, split: Split, *, class_names: Sequence[str], stats: StatsMode, batch_size: int
) -> EvalResult:
    """How a checkpoint, trained or folded, does on a split.

    Args:
        checkpoint: as ``checkpoint.load`` returns it.
        split: images of the checkpoint's size and channels.
        class_names: [K].
        stats: "running" is inference; "batch" normalises by each batch's own statistics, dropout off.
        batch_size: B; with "running" the result does not depend on it.

    Raises:
        DataError: the network has another number of outputs than there are classes.
        UsageError: batch statistics of a folded checkpoint, or a batch that does not divide over the devices.
    """
    _check_num_classes(checkpoint, class_names)
    mesh = make_mesh()
    check_batch_size(batch_size, mesh)
    eval_step = make_eval_step(
        _logits_fn(checkpoint, stats),
        checkpoint.config.preprocessing,
        precision=checkpoint.config.run.training.precision,
    )
    variables = jax.device_put(checkpoint.variables, replicated(mesh))
    return evaluate(jax.jit(eval_step), variables, split, class_names=class_names, batch_size=batch_size, mesh=mesh)


def _check_num_classes(checkpoint: Checkpoint, class_names: Sequence[str]) -> None:
    """Raises DataError unless the network makes one logit per class; nothing is computed."""
    shape = (1, *checkpoint.config.preprocessing.image_shape)
    images = jax.ShapeDtypeStruct(shape, jnp.dtype(checkpoint.config.run.training.precision))
    num_outputs = jax.eval_shape(checkpoint.apply_fn, checkpoint.variables, images).shape[-1]
    if num_outputs != len(class_names):
        raise DataError(
            f"the data have {len(class_names)} classes, and {checkpoint.path} has {num_outputs} outputs",
            remedy="Use data with the classes that the network was trained on.",
        )


class ImageBatches:
    """Images as a network takes them, batch by batch on the mesh; can be read again and again.

    Yields (normalised images [B, H, W, C], how many of them count: those after are padding).
    """

    def __init__(self, config: CheckpointConfig, images: np.ndarray, *, batch_size: int) -> None:
        """Of uint8 ``images`` [N, H, W, C], in their order."""
        self._config = config
        self._images = images
        self._batch_size = batch_size
        self._sharding = batch_sharding(make_mesh())

    @classmethod
    def training(
        cls, config: CheckpointConfig, dataset: Dataset, *, num_batches: int | None, batch_size: int
    ) -> ImageBatches:
        """Of training images, not augmented: some at random, always the same; all where ``num_batches`` is None."""
        order = epoch_order(config.run.training.seed, 0, len(dataset.train))
        some = order if num_batches is None else order[: num_batches * batch_size]
        return cls(config, dataset.train.images[some], batch_size=batch_size)

    def __iter__(self) -> Iterator[tuple[jax.Array, int]]:
        preprocessing = self._config.preprocessing
        dtype = jnp.dtype(self._config.run.training.precision)
        for batch in eval_batches(len(self._images), self._batch_size):
            images = jax.device_put(self._images[batch.indices], self._sharding)
            yield normalize(images, preprocessing.mean, preprocessing.std, dtype=dtype), batch.num_real


def _logits_fn(checkpoint: Checkpoint, stats: StatsMode) -> LogitsFn:
    if stats == "running":
        return lambda variables, images, mask: checkpoint.apply_fn(variables, images)
    network = checkpoint.network
    if network is None:
        raise UsageError(
            f"--stats batch: {checkpoint.path} is folded and has no BN left to normalise by the batch",
            remedy="Evaluate the checkpoint it was folded from.",
        )
    return lambda variables, images, mask: network.logits_by_batch_stats(variables, images, mask=mask)


def evaluate(
    eval_step: EvalStep,
    variables: Variables,
    split: Split,
    *,
    class_names: Sequence[str],
    batch_size: int,
    mesh: jax.sharding.Mesh,
) -> EvalResult:
    """The result of a compiled ``eval_step`` over the whole split, the last batch padded and its padding left out.

    Sums are taken in float64 on the host, so that they do not depend on the batch size.
    """
    outcomes = list(_outcomes(eval_step, variables, split, batch_size=batch_size, mesh=mesh))
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
    """What the network made of each batch, on the host and without padding; a few batches ahead of the device."""
    sharding = batch_sharding(mesh)
    pending: deque[tuple[ExampleOutcome, int]] = deque()
    for batch in eval_batches(len(split), batch_size):
        mask = np.ones(batch_size, bool) if batch.mask is None else batch.mask
        inputs = jax.device_put((split.images[batch.indices], split.labels[batch.indices], mask), sharding)
        pending.append((eval_step(variables, *inputs), batch.num_real))
        if len(pending) > BATCHES_AHEAD:
            yield _without_padding(*pending.popleft())
    yield from (_without_padding(*entry) for entry in pending)


def _without_padding(outcome: ExampleOutcome, num_real: int) -> ExampleOutcome:
    return jax.tree.map(lambda values: np.asarray(values)[:num_real], outcome)


def summarize(
    *,
    losses: np.ndarray,
    predictions: np.ndarray,
    in_top5: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
) -> EvalResult:
    """The result from what the network made of each example, all arrays [N]."""
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
