"""BN layers measured on data: statistics that do not match it, and where eval mode diverges from train mode.

Letters: B batch size, C channels of one layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from bncli.checkpoint import Checkpoint
from bncli.config.choices import StatsMode
from bncli.data import Dataset
from bncli.errors import CheckpointError
from bncli.frameworks.adapted import Adapted
from bncli.frameworks.linen import Variables
from bncli.inspection.live_report import PARTED, BatchScore, LayerLive, LiveReport, Score
from bncli.measure.batches import ImageBatches
from bncli.measure.moments import Observer, drift, layer_statistics, record_batch_norms
from bncli.measure.population import Batches, observer_of
from bncli.measure.score import EvalResult, score_network
from bncli.ops import pad_small_images
from bncli.process.mesh import fetch, make_mesh

# Number of training images: enough to see a mean that is off by 2 % of a standard deviation.
BATCHES = 40
BATCH_SIZE = 64
# Batch sizes at which accuracy with batch statistics is measured; 2 shows the effect of a batch of 2 per device.
BATCH_SIZES = (2, 8, 32, 128)


def look_at_data(checkpoint: Checkpoint, dataset: Dataset) -> LiveReport:
    """Measure the network of a trained checkpoint on data.

    Args:
        checkpoint: a trained one.
        dataset: its training images are used for the statistics, its validation images for the scores; the test split
            is not touched.

    Raises:
        CheckpointError: the checkpoint is folded, and has no statistics.
        ModelError: the network has no BN layer, or one in a loop.
    """
    if checkpoint.network is None:
        raise CheckpointError(
            f"{checkpoint.path} is folded and has no BN statistics left", remedy="Inspect its original instead."
        )
    devices = make_mesh().size
    batch_size = max(BATCH_SIZE // devices, 1) * devices
    batches = ImageBatches.training(checkpoint.config, dataset, num_batches=BATCHES, batch_size=batch_size)
    layers = _measured_layers(checkpoint, batches)
    by_batch_size = tuple(_batch_score(checkpoint, dataset, size) for size in _batch_sizes(len(dataset.val), devices))
    running = _score(checkpoint, dataset, stats="running", batch_size=batch_size)
    return LiveReport(
        dataset=dataset.name,
        num_examples=sum(num_real for _, num_real in batches),
        num_val=len(dataset.val),
        layers=layers,
        first_apart=next((layer.name for layer in layers if not layer.output_gap <= PARTED), None),
        running=Score(running.accuracy, running.loss),
        batch=Score(by_batch_size[-1].accuracy, by_batch_size[-1].loss),
        by_batch_size=by_batch_size,
    )


def look_at_batches(user: Adapted, batches: Batches) -> LiveReport:
    """Measure the inputs of a network's BN layers over batches, which have no labels: gaps and scores are NaN.

    Raises:
        UsageError: there are no batches.
        ModelError: the network cannot be applied to the batches, has no BN layer, or one in a loop.
    """
    observer = observer_of(user.apply_fn, user.variables, batches)
    measured = observer.measure(user.variables, batches)
    unknown = float("nan")
    layers = tuple(
        LayerLive(
            name, drift(*observer.statistics(user.variables, name), found, epsilon=observer.epsilons[name]), unknown
        )
        for name, found in measured.items()
    )
    return LiveReport(
        dataset="the batches",
        num_examples=sum(num_real for _, num_real in batches),
        num_val=0,
        layers=layers,
        first_apart=None,
        running=Score(unknown, unknown),
        batch=Score(unknown, unknown),
        by_batch_size=(),
    )


def _measured_layers(checkpoint: Checkpoint, batches: ImageBatches) -> tuple[LayerLive, ...]:
    """Drift and output gap of each layer, in the order of the forward pass."""
    first = next(iter(batches))[0]
    observer = Observer(checkpoint.apply_fn, checkpoint.variables, jax.ShapeDtypeStruct(first.shape, first.dtype))
    measured = observer.measure(checkpoint.variables, batches)
    gaps = _output_gaps(checkpoint, _full_batches(batches))
    frozen = checkpoint.network.frozen if checkpoint.network is not None else frozenset[str]()

    def measured_layer(name: str) -> LayerLive:
        mean, var = layer_statistics(checkpoint.variables, name)
        off = drift(mean, var, measured[name], epsilon=observer.epsilons[name])
        return LayerLive(name, off, gaps[name], frozen=name in frozen)

    return tuple(map(measured_layer, observer.layers))


def _batch_sizes(num_examples: int, devices: int) -> list[int]:
    """The sizes that the split can fill and the devices can share evenly; at least one."""
    fitting = [size for size in BATCH_SIZES if size <= num_examples and size % devices == 0]
    return fitting or [max(num_examples // devices, 1) * devices]


def _batch_score(checkpoint: Checkpoint, dataset: Dataset, size: int) -> BatchScore:
    result = _score(checkpoint, dataset, stats="batch", batch_size=size)
    return BatchScore(size, result.accuracy, result.loss)


def _score(checkpoint: Checkpoint, dataset: Dataset, *, stats: StatsMode, batch_size: int) -> EvalResult:
    """The score on the validation split."""
    return score_network(
        checkpoint.logits_fn(stats),
        checkpoint.variables,
        dataset.val,
        preprocessor=checkpoint.preprocessor,
        class_names=dataset.class_names,
        batch_size=batch_size,
    )


def _full_batches(batches: Iterable[tuple[jax.Array, int]]) -> Iterator[jax.Array]:
    """The batches without padding, which batch statistics would see; if all are padded, the real part of the first."""
    for number, (x, num_real) in enumerate(batches):
        if num_real == len(x):
            yield x
        elif number == 0:
            yield x[:num_real]


def _output_gaps(checkpoint: Checkpoint, batches: Iterable[jax.Array]) -> dict[str, float]:
    """Each layer's output gap, over all batches."""
    network = checkpoint.network
    assert network is not None  # the caller has checked

    def by_batch(variables: Variables, x: jax.Array) -> jax.Array:
        return network.logits_by_batch_stats(variables, x, mask=None)

    @jax.jit
    @pad_small_images
    def squares(variables: Variables, x: jax.Array) -> dict[str, jax.Array]:
        train = record_batch_norms(by_batch, variables, x, lambda norm, given, made: made)
        evaluated = record_batch_norms(network.logits, variables, x, lambda norm, given, made: made)
        return {name: _squares(train[name], evaluated[name]) for name in train}

    sums: dict[str, np.ndarray] = {}
    for x in batches:
        for name, pair in fetch(squares(checkpoint.variables, x)).items():
            sums[name] = sums.get(name, 0.0) + pair.astype(np.float64)
    return {name: float(np.sqrt(difference / max(variance, 1e-30))) for name, (difference, variance) in sums.items()}


def _squares(train: list[jax.Array], evaluated: list[jax.Array]) -> jax.Array:
    """Sum of squared differences of a layer's outputs in both modes, and of squared deviations in train mode: [2]."""
    pairs = [(a.astype(jnp.float32), b.astype(jnp.float32)) for a, b in zip(train, evaluated, strict=True)]
    difference = sum(jnp.square(a - b).sum() for a, b in pairs)
    deviation = sum(jnp.square(a - a.mean(axis=tuple(range(a.ndim - 1)))).sum() for a, _ in pairs)
    return jnp.stack([jnp.asarray(difference), jnp.asarray(deviation)])
