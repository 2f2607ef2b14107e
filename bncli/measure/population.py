"""Population statistics in place of running averages ("precise BN": Wu & Johnson 2021, arXiv 2105.07576, section 3).

A layer's inputs depend on the statistics of the layers before it. So the network runs over the data once for each group
of layers that do not depend on each other, in inference mode. In run k the groups before k have their final statistics,
so the inputs of group k are its inputs in use. With as many runs as groups the result is exact. With fewer it is an
approximation, and one more run measures the remaining drift.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from bncli.errors import BncliError, ModelError, UsageError
from bncli.folding.proof.examples import count
from bncli.folding.trace.arguments import described
from bncli.folding.trace.graph import Pytree
from bncli.frameworks.adapt import adapted, bound, framework_of
from bncli.frameworks.network import Network, Variables
from bncli.measure.moments import ApplyFn, Drift, Moments, Observer, drift, epsilons_of, with_statistics
from bncli.measure.traced import TracedObserver

# Inputs [B, ...], and the number of real ones; the inputs after those are padding.
Batches: TypeAlias = Iterable[tuple[Pytree, int]]

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


def recalibrate(network: Pytree, *arguments: Pytree, **named: Pytree) -> Pytree:
    """Replace each BN layer's running statistics by those of its inputs over all batches.

    ==================================================== ===========================================================
    ``recalibrate(apply_fn, variables, batches)``        new variables, for any function ``apply_fn(variables, x)``
    ``recalibrate(module, variables, batches)``          new variables of a linen module
    ``recalibrate(module, batches)``                     a new NNX module
    ``recalibrate(model, batches, state=state)``         a new state of an Equinox model
    ``recalibrate(transformed, params, state, batches)`` a new state of a function transformed by Haiku
    ``recalibrate(model, batches)``                      the same Keras model: it holds its statistics
    ==================================================== ===========================================================

    This also gives averaged weights (EMA, SWA), which have no statistics of their own, the right ones: pass them as
    ``params``. Networks of a framework are called in eval mode, whatever mode they are in; a function must be in it.

    Args:
        network: a function or a network.
        arguments: its arrays, where it does not hold them, and the batches, as in the table. Batches are inputs
            [B, ...] of any batch size. They are read several times, so pass a list, not a generator.
        named: the same by name.

    Raises:
        UsageError: ``batches`` is empty or can be read only once, or an argument is missing.
        ModelError: the network cannot be applied to the batches, has no BN layer, or one in a loop; or new statistics
            are not finite.
    """
    framework = framework_of(network)
    given = bound(framework, "recalibrate", "batches", arguments, named)
    batches = whole_batches(given["batches"])
    user = None if framework is None else adapted(network, framework, given, eval_mode=True)
    apply_fn, variables = (network, given["variables"]) if user is None else (user.apply_fn, user.variables)
    observer = observer_of(apply_fn, variables, batches)
    done = _recalibrated(observer, variables, batches)
    statistics = {layer: observer.statistics(done.variables, layer) for layer in observer.layers}
    _check_finite(statistics)
    return done.variables if user is None or isinstance(observer, Observer) else user.with_statistics(statistics)


def _check_finite(statistics: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Raise ModelError if a layer's new mean or variance is NaN or infinite."""
    for layer, arrays in statistics.items():
        if not all(np.isfinite(array).all() for array in arrays):
            raise ModelError(
                f"{layer}: the mean or variance of its inputs is not finite",
                remedy="Look for NaN and infinity in the batches, and in the arrays of the network.",
            )


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
        apply_fn: the network in inference mode, of linen modules or any other function.
        variables: its arrays.
        batches: inputs, and the number of real ones in each batch; read several times.
        max_runs: largest number of runs; None for as many as an exact result needs.
        kept: layers that keep their statistics.

    Raises:
        UsageError: there are no batches.
        ModelError: the network has no BN layer, or one in a loop.
    """
    observer = observer_of(apply_fn, variables, batches)
    return _recalibrated(observer, variables, batches, max_runs=max_runs, kept=kept)


def whole_batches(batches: Iterable[Pytree]) -> Batches:
    """Batches without padding, which can be read several times.

    Raises:
        UsageError: they are no collection of batches, or can be read only once.
    """
    if hasattr(batches, "shape") or isinstance(batches, Mapping | str) or not isinstance(batches, Iterable):
        given = f"one array {tuple(batches.shape)}" if hasattr(batches, "shape") else f"a {type(batches).__name__}"
        raise UsageError(f"batches is {given}, not a list of batches", remedy="Pass [x, ...], with x [B, ...].")
    if iter(batches) is batches:
        raise UsageError("batches can be read only once", remedy="Pass a list: the data are read once per layer.")
    return _Whole(batches)


def observer_of(apply_fn: ApplyFn, variables: Variables, batches: Batches) -> Observer | TracedObserver:
    """The observer of a network's BN layers: by the calls of its modules, or by its trace.

    Raises:
        UsageError: there are no batches.
        ModelError: the network cannot be applied to the batches, has no BN layer, or one in a loop.
    """
    first = first_of(batches)
    with applied_to(first):
        observes = Observer if _is_linen(apply_fn, variables, first) else TracedObserver
        return observes(apply_fn, variables, first)


@contextmanager
def applied_to(batch: Pytree) -> Iterator[None]:
    """Turn what a network's own code raises inside into a ModelError that names the shapes of the batch."""
    try:
        yield
    except BncliError:
        raise
    except Exception as error:
        shapes = ", ".join(f"{leaf.dtype} {leaf.shape}" for leaf in jax.tree.leaves(batch))
        raise ModelError(
            f"the network cannot be applied to a batch of {shapes}: {type(error).__name__}: {error}",
            remedy="Pass batches [B, ...] of what the network is called with; several inputs are a tuple.",
        ) from error


class Measuring(Protocol):
    """An observer of the BN layers of a network, as ``Observer`` and ``TracedObserver`` are."""

    layers: tuple[str, ...]
    levels: list[list[str]]
    epsilons: dict[str, float]

    def measure(self, variables: Pytree, batches: Batches) -> dict[str, Moments]:
        """The moments of each layer's inputs."""

    def statistics(self, variables: Pytree, layer: str) -> tuple[np.ndarray, np.ndarray]:
        """The layer's running mean and variance."""

    def replaced(self, variables: Pytree, moments: Mapping[str, Moments]) -> Pytree:
        """The variables with these running statistics."""


def first_of(batches: Batches) -> Pytree:
    """The description of the first batch.

    Raises:
        UsageError: there is none.
    """
    first = next(iter(batches), None)
    if first is None:
        raise UsageError("there are no batches to measure", remedy="Pass at least one.")
    return described(first[0], "input")


def _is_linen(apply_fn: ApplyFn, variables: Pytree, example: Pytree) -> bool:
    """True if the function calls linen modules with BN, or has no statistics that its trace could show."""
    is_dict = isinstance(variables, Mapping) and "batch_stats" in variables
    return is_dict and bool(epsilons_of(apply_fn, variables, example))


def _recalibrated(
    observer: Measuring,
    variables: Pytree,
    batches: Batches,
    *,
    max_runs: int | None = None,
    kept: Collection[str] = (),
) -> Recalibration:
    runs = len(observer.levels) if max_runs is None else min(max_runs, len(observer.levels))
    # Behind layers that still have their initial statistics, the activations of a deep network overflow. Those layers
    # are measured again in a later run.
    with np.errstate(over="ignore", invalid="ignore"):
        return _in_runs(observer, variables, batches, runs=runs, kept=kept)


def _in_runs(
    observer: Measuring, variables: Pytree, batches: Batches, *, runs: int, kept: Collection[str]
) -> Recalibration:
    measured = observer.measure(variables, batches)
    before = _drifts(observer, variables, measured)
    current, after, done = variables, before, 0
    while done < runs and not all(left.is_rounding for name, left in after.items() if name not in kept):
        current = observer.replaced(current, {name: new for name, new in measured.items() if name not in kept})
        measured = observer.measure(current, batches)
        after = _drifts(observer, current, measured)
        done += 1
    return Recalibration(
        variables=current,
        layers=tuple(LayerDrift(name, before[name], after[name]) for name in observer.layers),
        num_examples=_num_examples(batches),
        runs=done + 1,
    )


def _num_examples(batches: Batches) -> int:
    """The number of real inputs; batches that know it are not read again."""
    known = getattr(batches, "num_examples", None)
    return known if isinstance(known, int) else sum(num_real for _, num_real in batches)


def batch_statistics_of(
    network: Network, images: jax.ShapeDtypeStruct, variables: Variables, batches: Batches
) -> Callable[[Variables], Variables]:
    """A function that replaces the statistics in variables by those of ``batches``, measured in one run.

    In that run each layer normalizes by its batch, as in training, so no layer waits for the statistics of another.
    Frozen layers keep their statistics. Since each batch is only a sample, the result is less exact than that of
    ``recalibrate``.

    Args:
        network: the network of the variables.
        images: shape and dtype of a batch of two.
        variables: variables of the shapes that the function will get.
        batches: images, and the number of real ones in each batch.
    """

    def by_batch(variables: Variables, images: jax.Array) -> jax.Array:
        return network.logits_by_batch_stats(variables, images, mask=None)

    observer = Observer(by_batch, variables, images)

    def measured(variables: Variables) -> Variables:
        if network.frozen.issuperset(observer.layers):
            return variables
        moments = observer.measure(variables, batches)
        return with_statistics(variables, {name: new for name, new in moments.items() if name not in network.frozen})

    return measured


def _drifts(observer: Measuring, variables: Pytree, measured: Mapping[str, Moments]) -> dict[str, Drift]:
    return {
        name: drift(*observer.statistics(variables, name), measured[name], epsilon=observer.epsilons[name])
        for name in observer.layers
    }


class _Whole:
    """Batches without padding."""

    def __init__(self, batches: Iterable[Pytree]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[tuple[Pytree, int]]:
        return ((jax.tree.map(jnp.asarray, x), count(x)) for x in self._batches)
