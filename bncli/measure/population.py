"""Population statistics in place of running averages ("precise BN": Wu & Johnson 2021, arXiv 2105.07576, section 3).

A layer's inputs depend on the statistics of the layers before it. So the network is run over the data once for each
group of layers that do not depend on each other, in inference mode: in run k the groups before k have their final
statistics, and what group k meets is what it will meet in use. After as many runs as there are groups the result is
exact; after fewer it is an approximation, and one more run measures what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bncli.errors import UsageError
from bncli.frameworks.linen import Network
from bncli.measure.moments import (
    ApplyFn,
    Drift,
    Moments,
    Observer,
    Variables,
    batch_norm_stats,
    drift,
    layer_statistics,
)

Batches = Iterable[tuple[jax.Array, int]]  # inputs [B, ...], and how many of them count: those after are padding

# By default 200 batches: the estimate of a mean over 12,800 examples is off by 1 % of a standard deviation.
BATCHES = 200
BATCH_SIZE = 64


@dataclass(frozen=True)
class LayerDrift:
    """One BN layer's statistics against those of its inputs, before and after."""

    name: str
    before: Drift
    after: Drift


@dataclass(frozen=True)
class Recalibration:
    """New statistics and how they were found.

    Attributes:
        variables: as they were, with the new batch_stats.
        layers: in the order of the forward pass.
        num_examples: that were looked at.
        runs: over them, the last one only to measure what is left.
    """

    variables: Variables
    layers: tuple[LayerDrift, ...]
    num_examples: int
    runs: int


def recalibrate(apply_fn: ApplyFn, variables: Variables, batches: Iterable[Any]) -> Variables:
    """The variables with each BN layer's running statistics replaced by those of its inputs over all batches.

    Also for averaged weights (EMA, SWA), which have no statistics of their own: pass those as ``params``.

    Args:
        apply_fn: ``(variables, x) -> outputs`` in inference mode, by a linen module.
        variables: {"params": …, "batch_stats": …}.
        batches: inputs [B, ...] of any sizes; read several times, so a list or the like and no generator.

    Raises:
        UsageError: ``batches`` is empty or can be read only once.
        ModelError: the network has no BN layer, or one in a loop.
    """
    if iter(batches) is batches:
        raise UsageError("batches can be read only once", remedy="Pass a list: the data are read once a layer.")
    return recalibrate_measured(apply_fn, variables, _Whole(batches)).variables


def recalibrate_measured(
    apply_fn: ApplyFn, variables: Variables, batches: Batches, *, max_runs: int | None = None
) -> Recalibration:
    """The same with the drift of each layer before and after.

    Args:
        apply_fn: in inference mode.
        variables: params and batch_stats.
        batches: inputs, and how many of each count; read several times.
        max_runs: at most so many runs; None for as many as are needed to be exact.

    Raises:
        UsageError: there are no batches.
        ModelError: the network has no BN layer, or one in a loop.
    """
    first = next(iter(batches), None)
    if first is None:
        raise UsageError("there are no batches to measure", remedy="Pass at least one.")
    observer = Observer(apply_fn, variables, jax.ShapeDtypeStruct(first[0].shape, first[0].dtype))
    runs = len(observer.levels) if max_runs is None else min(max_runs, len(observer.levels))
    measured = observer.measure(variables, batches)
    before = _drifts(observer, variables, measured)
    current, after, done = variables, before, 0
    while done < runs and not all(left.is_rounding for left in after.values()):
        current = with_statistics(current, measured)
        measured = observer.measure(current, batches)
        after = _drifts(observer, current, measured)
        done += 1
    return Recalibration(
        variables=current,
        layers=tuple(LayerDrift(name, before[name], after[name]) for name in observer.layers),
        num_examples=sum(num_real for _, num_real in batches),
        runs=done + 1,
    )


def batch_statistics_of(
    network: Network, image_shape: tuple[int, int, int], variables: Variables, batches: Batches
) -> Callable[[Variables], Variables]:
    """A function that gives variables the statistics of ``batches``, found in one run whatever the depth.

    Each layer normalises by its batch in that run, as in training, so that no layer waits for another's statistics.
    Each batch being a sample, they are less exact than those of ``recalibrate``.

    Args:
        network: whose variables they are.
        image_shape: (H, W, C).
        variables: of the shapes that will be given.
        batches: images, and how many of each count.
    """

    def by_batch(variables: Variables, images: jax.Array) -> jax.Array:
        return network.logits_by_batch_stats(variables, images, mask=None)

    observer = Observer(by_batch, variables, jax.ShapeDtypeStruct((2, *image_shape), jnp.float32))
    return lambda variables: with_statistics(variables, observer.measure(variables, batches))


def with_statistics(variables: Variables, moments: Mapping[str, Moments]) -> Variables:
    """The variables with these means and variances as running statistics, in the dtypes they had."""
    stats = jax.tree.map(lambda leaf: leaf, variables["batch_stats"])  # a copy of the dicts
    for name, found in moments.items():
        layer = batch_norm_stats(stats, name)
        layer["mean"] = _like(layer["mean"], found.mean)
        layer["var"] = _like(layer["var"], found.var)
    return {**variables, "batch_stats": stats}


def _like(old: Any, new: np.ndarray) -> Any:  # noqa: ANN401 - a JAX or NumPy array
    array = new.reshape(np.shape(old)).astype(old.dtype)
    return jnp.asarray(array) if isinstance(old, jax.Array) else array


def _drifts(observer: Observer, variables: Variables, measured: Mapping[str, Moments]) -> dict[str, Drift]:
    return {
        name: drift(*layer_statistics(variables, name), measured[name], epsilon=observer.epsilons[name])
        for name in observer.layers
    }


class _Whole:
    """Batches of which every example counts."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[tuple[jax.Array, int]]:
        return ((x, len(x)) for x in self._batches)
