"""Population statistics in place of running averages ("precise BN": Wu & Johnson 2021, arXiv 2105.07576, section 3).

A layer's inputs depend on the statistics of the layers before it. So the network runs over the data once for each group
of layers that do not depend on each other, in inference mode. In run k the groups before k have their final statistics,
so the inputs of group k are its inputs in use. With as many runs as groups the result is exact. With fewer it is an
approximation, and one more run measures the remaining drift.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from bncli.errors import UsageError
from bncli.frameworks.linen import Network, Variables
from bncli.measure.moments import (
    ApplyFn,
    Drift,
    Moments,
    Observer,
    drift,
    layer_statistics,
)

# Inputs [B, ...], and the number of real ones; the inputs after those are padding.
Batches: TypeAlias = Iterable[tuple[jax.Array, int]]

# By default 200 batches: a mean estimated over 12,800 examples is off by 1 % of a standard deviation.
BATCHES = 200
BATCH_SIZE = 64


@dataclass(frozen=True)
class LayerDrift:
    """The drift of one BN layer's statistics from those of its inputs, before and after."""

    name: str
    before: Drift
    after: Drift


@dataclass(frozen=True)
class Recalibration:
    """New statistics, and the measurement behind them.

    Attributes:
        variables: the variables with the new batch_stats.
        layers: one entry per BN layer, in the order of the forward pass.
        num_examples: number of examples measured.
        runs: number of runs over them; the last one only measures the remaining drift.
    """

    variables: Variables
    layers: tuple[LayerDrift, ...]
    num_examples: int
    runs: int


def recalibrate(apply_fn: ApplyFn, variables: Variables, batches: Iterable[jax.Array | np.ndarray]) -> Variables:
    """Replace each BN layer's running statistics by those of its inputs over all batches.

    This also gives averaged weights (EMA, SWA), which have no statistics of their own, the right ones: pass them as
    ``params``.

    Args:
        apply_fn: ``(variables, x) -> outputs`` of a linen module in inference mode.
        variables: {"params": …, "batch_stats": …}.
        batches: inputs [B, ...] of any batch size; read several times, so pass a list, not a generator.

    Returns:
        The variables with the new batch_stats.

    Raises:
        UsageError: ``batches`` is empty or can be read only once.
        ModelError: the network has no BN layer, or one in a loop.
    """
    if iter(batches) is batches:
        raise UsageError("batches can be read only once", remedy="Pass a list: the data are read once per layer.")
    return recalibrate_measured(apply_fn, variables, _Whole(batches)).variables


def recalibrate_measured(
    apply_fn: ApplyFn,
    variables: Variables,
    batches: Batches,
    *,
    max_runs: int | None = None,
    kept: Collection[str] = (),
) -> Recalibration:
    """Recalibrate as ``recalibrate`` does, and measure the drift of each layer before and after.

    Args:
        apply_fn: the network in inference mode.
        variables: params and batch_stats.
        batches: inputs, and the number of real ones in each batch; read several times.
        max_runs: largest number of runs; None for as many as an exact result needs.
        kept: layers that keep their statistics.

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
    while done < runs and not all(left.is_rounding for name, left in after.items() if name not in kept):
        current = with_statistics(current, {name: new for name, new in measured.items() if name not in kept})
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
    """A function that replaces the statistics in variables by those of ``batches``, measured in one run.

    In that run each layer normalizes by its batch, as in training, so no layer waits for the statistics of another.
    Frozen layers keep their statistics. Since each batch is only a sample, the result is less exact than that of
    ``recalibrate``.

    Args:
        network: the network of the variables.
        image_shape: (H, W, C).
        variables: variables of the shapes that the function will get.
        batches: images, and the number of real ones in each batch.
    """

    def by_batch(variables: Variables, images: jax.Array) -> jax.Array:
        return network.logits_by_batch_stats(variables, images, mask=None)

    observer = Observer(by_batch, variables, jax.ShapeDtypeStruct((2, *image_shape), jnp.float32))

    def measured(variables: Variables) -> Variables:
        if network.frozen.issuperset(observer.layers):
            return variables
        moments = observer.measure(variables, batches)
        return with_statistics(variables, {name: new for name, new in moments.items() if name not in network.frozen})

    return measured


def with_statistics(variables: Variables, moments: Mapping[str, Moments]) -> Variables:
    """The variables with these means and variances as running statistics, in their original dtypes."""
    stats = traverse_util.flatten_dict(variables["batch_stats"])
    for name, found in moments.items():
        layer = tuple(name.split("/")) if name else ()
        for statistic, new in (("mean", found.mean), ("var", found.var)):
            stats[*layer, statistic] = _like(stats[*layer, statistic], new)
    return {**variables, "batch_stats": traverse_util.unflatten_dict(stats)}


def _like(old: jax.Array | np.ndarray, new: np.ndarray) -> jax.Array | np.ndarray:
    array = new.reshape(np.shape(old)).astype(old.dtype)
    return jnp.asarray(array) if isinstance(old, jax.Array) else array


def _drifts(observer: Observer, variables: Variables, measured: Mapping[str, Moments]) -> dict[str, Drift]:
    return {
        name: drift(*layer_statistics(variables, name), measured[name], epsilon=observer.epsilons[name])
        for name in observer.layers
    }


class _Whole:
    """Batches without padding."""

    def __init__(self, batches: Iterable[jax.Array | np.ndarray]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[tuple[jax.Array, int]]:
        return ((jnp.asarray(x), len(x)) for x in self._batches)
