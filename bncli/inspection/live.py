"""What only data can show of BN layers: statistics that are off, and where eval mode parts from train mode.

Letters: B batch size, C channels of one layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bncli.checkpoint import Checkpoint
from bncli.config.choices import StatsMode
from bncli.data import Dataset
from bncli.errors import CheckpointError
from bncli.inspection.findings import Entry, Finding, Severity
from bncli.inspection.live_report import PARTED, BatchScore, LayerLive, LiveReport, Score
from bncli.measure.batches import ImageBatches
from bncli.measure.moments import Drift, Observer, Variables, drift, layer_statistics, record_batch_norms
from bncli.measure.score import EvalResult, score_network
from bncli.ops import pad_small_images
from bncli.process.mesh import make_mesh

# How many images are looked at: enough for a mean that is off by 2 % of a standard deviation.
BATCHES = 40
BATCH_SIZE = 64
# Batch sizes at which accuracy by batch statistics is taken: what a batch of 2 per device does to a network.
BATCH_SIZES = (2, 8, 32, 128)
# Running means half a standard deviation off, or standard deviations off by half: healthy ones are within a tenth.
STALE_DISTANCE = 0.5
STALE_RATIO = 1.5
# Accuracy that eval mode loses against train mode beyond what a few hundred images leave to chance.
ACCURACY_GAP = 0.05

RULES_ON_DATA = (
    Entry(
        code="stale-statistics",
        severities=("warning", "error"),
        when=f"with --data: running means {STALE_DISTANCE:g} standard deviations from the true ones, or standard "
        f"deviations {STALE_RATIO:g}-fold; an error where accuracy is lost by it",
        why="healthy ones are within a tenth; see not-converged for the most common cause",
    ),
    Entry(
        code="train-eval-gap",
        severities=("error",),
        when=f"with --data: running statistics {100 * ACCURACY_GAP:g} % less accurate than those of a batch",
        why="more than a few hundred images leave to chance; at the layer where train and eval mode part first",
    ),
)


def look_at_data(checkpoint: Checkpoint, dataset: Dataset) -> LiveReport:
    """The network of a trained checkpoint on data.

    Args:
        checkpoint: a trained one.
        dataset: training images for the statistics, validation images for the scores; test is left alone.

    Raises:
        CheckpointError: a folded checkpoint, which has no statistics.
        ModelError: the network has no BN layer, or one in a loop.
    """
    if checkpoint.network is None:
        raise CheckpointError(
            f"{checkpoint.path} is folded and has no BN statistics left", remedy="Inspect what it was folded from."
        )
    devices = make_mesh().size
    batch_size = max(BATCH_SIZE // devices, 1) * devices
    batches = ImageBatches.training(checkpoint.config, dataset, num_batches=BATCHES, batch_size=batch_size)
    first = next(iter(batches))[0]
    observer = Observer(checkpoint.apply_fn, checkpoint.variables, jax.ShapeDtypeStruct(first.shape, first.dtype))
    measured = observer.measure(checkpoint.variables, batches)
    gaps = _output_gaps(checkpoint, _full_batches(batches))
    layers = []
    for name in observer.layers:
        mean, var = layer_statistics(checkpoint.variables, name)
        off = drift(mean, var, measured[name], epsilon=observer.epsilons[name])
        layers.append(LayerLive(name, off, gaps[name]))
    by_batch_size = tuple(_batch_score(checkpoint, dataset, size) for size in _batch_sizes(len(dataset.val), devices))
    running = _score(checkpoint, dataset, stats="running", batch_size=batch_size)
    return LiveReport(
        dataset=dataset.name,
        num_examples=sum(num_real for _, num_real in batches),
        num_val=len(dataset.val),
        layers=tuple(layers),
        first_apart=next((layer.name for layer in layers if not layer.output_gap <= PARTED), None),
        running=Score(running.accuracy, running.loss),
        batch=Score(by_batch_size[-1].accuracy, by_batch_size[-1].loss),
        by_batch_size=by_batch_size,
    )


def _batch_sizes(num_examples: int, devices: int) -> list[int]:
    """The sizes that the split can fill and the devices can share, at least one."""
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
        preprocessing=checkpoint.config.preprocessing,
        precision=checkpoint.config.run.training.precision,
        class_names=dataset.class_names,
        batch_size=batch_size,
    )


def _full_batches(batches: Iterable[tuple[jax.Array, int]]) -> Iterator[jax.Array]:
    """Those without padding, which batch statistics would see; what there is of the first one if all are padded."""
    for number, (x, num_real) in enumerate(batches):
        if num_real == len(x):
            yield x
        elif number == 0:
            yield x[:num_real]


def _output_gaps(checkpoint: Checkpoint, batches: Iterable[jax.Array]) -> dict[str, float]:
    """Each layer's output gap, over all batches."""
    network = checkpoint.network
    assert network is not None  # the caller has seen to that

    def by_batch(variables: Variables, x: jax.Array) -> jax.Array:
        return network.logits_by_batch_stats(variables, x, mask=None)

    @jax.jit
    @pad_small_images
    def squares(variables: Variables, x: jax.Array) -> dict[str, jax.Array]:
        train = record_batch_norms(by_batch, variables, x, lambda norm, given, made: made)
        evaluated = record_batch_norms(network.logits, variables, x, lambda norm, given, made: made)
        return {name: _squares(train[name], evaluated[name]) for name in train}

    sums: Mapping[str, Any] = {}
    for x in batches:
        found = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), squares(checkpoint.variables, x))
        sums = jax.tree.map(np.add, sums, found) if sums else found
    return {name: float(np.sqrt(difference / max(variance, 1e-30))) for name, (difference, variance) in sums.items()}


def _squares(train: list[jax.Array], evaluated: list[jax.Array]) -> jax.Array:
    """Sum of squared differences of a layer's outputs in both modes, and of squared deviations in train mode: [2]."""
    pairs = [(a.astype(jnp.float32), b.astype(jnp.float32)) for a, b in zip(train, evaluated, strict=True)]
    difference = sum(jnp.square(a - b).sum() for a, b in pairs)
    deviation = sum(jnp.square(a - a.mean(axis=tuple(range(a.ndim - 1)))).sum() for a, _ in pairs)
    return jnp.stack([jnp.asarray(difference), jnp.asarray(deviation)])


def findings_on_data(report: LiveReport, *, path: str) -> tuple[Finding, ...]:
    """What the data say is wrong, the layer concerned first named where it begins."""
    lost = report.batch.accuracy - report.running.accuracy
    severity: Severity = "error" if lost > ACCURACY_GAP else "warning"
    remedy = f"bncli recalibrate {path} OUT"
    found = [
        Finding("stale-statistics", severity, layer.name, (), _stale_message(layer.drift), remedy)
        for layer in report.layers
        if _is_stale(layer.drift)
    ]
    if lost > ACCURACY_GAP:
        place = report.first_apart or report.layers[0].name
        message = (
            f"with running statistics {report.running.accuracy:.4f} accurate, with batch statistics "
            f"{report.batch.accuracy:.4f}: train mode and eval mode part here first"
        )
        found.append(Finding("train-eval-gap", "error", place, (), message, remedy))
    return tuple(found)


def _is_stale(off: Drift) -> bool:
    return not (off.distance <= STALE_DISTANCE and 1 / STALE_RATIO <= off.std_ratio <= STALE_RATIO)


def _stale_message(off: Drift) -> str:
    return (
        f"running statistics are not those of its inputs: means off by {off.distance:.2g} standard deviations, "
        f"standard deviations {off.std_ratio:.2g} times the true ones"
    )
