"""The mean and variance of each BN layer's inputs over data, in inference mode.

The device sums each example by itself and the host pools the examples in float64, so the result depends neither on the
batch size nor on the number of devices.

Letters: B batch size, C channels of one layer, N examples.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from bncli.config.choices import Precision
from bncli.errors import ModelError
from bncli.folding.trace.graph import trace
from bncli.frameworks.calls import LayerCall, NormCall, observing
from bncli.frameworks.network import Variables
from bncli.ops import pad_small_images
from bncli.process import distributed
from bncli.process.flags import jit_inference
from bncli.process.mesh import fetch, make_mesh, put_whole

ApplyFn: TypeAlias = Callable[[Variables, jax.Array], object]
Example: TypeAlias = jax.Array | jax.ShapeDtypeStruct
# Mean and sum of squared deviations of each example, both [B, C].
ExampleMoments: TypeAlias = tuple[jax.Array, jax.Array]
T = TypeVar("T")


@dataclass(frozen=True)
class Moments:
    """Mean and variance of one layer's inputs.

    Attributes:
        count: number of values per channel.
        mean: float64 [C].
        var: biased, as Flax keeps it; float64 [C].
    """

    count: int
    mean: np.ndarray
    var: np.ndarray


# Statistics this close to the measured ones are final: float32 rounding explains the difference.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Drift:
    """The distance of a layer's running statistics from the statistics of its inputs.

    Attributes:
        distance: √(mean over channels of (μ − μ')²/(σ'² + ε)), μ running, μ' and σ'² measured.
        std_ratio: running √(σ² + ε) over the measured one, geometric mean over channels.
        worst_std_ratio: the ratio of the channel that is farthest from 1.
    """

    distance: float
    std_ratio: float
    worst_std_ratio: float

    @property
    def is_rounding(self) -> bool:
        """True if rounding explains the distance."""
        return self.distance < ROUNDING and abs(math.log(self.worst_std_ratio)) < ROUNDING


def drift(mean: np.ndarray, var: np.ndarray, moments: Moments, *, epsilon: float) -> Drift:
    """The distance of running statistics [C] from measured ones; NaN if the running ones are."""
    measured = moments.var + epsilon
    with np.errstate(invalid="ignore", divide="ignore"):
        logs = np.log((np.asarray(var, np.float64) + epsilon) / measured) / 2
    return Drift(
        distance=float(np.sqrt(np.mean((np.asarray(mean, np.float64) - moments.mean) ** 2 / measured))),
        std_ratio=float(np.exp(logs.mean())),
        worst_std_ratio=float(np.exp(logs[np.abs(logs).argmax()])),
    )


def batch_norm_stats(stats: Variables, name: str) -> Variables:
    """The mean and var of layer ``name`` ("Block_1/BatchNorm_0") in a batch_stats tree."""
    for part in name.split("/") if name else ():
        stats = stats[part]
    return stats


def layer_statistics(variables: Variables, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A layer's running mean and variance, [C] each."""
    stats = batch_norm_stats(variables["batch_stats"], name)
    return np.asarray(stats["mean"]).reshape(-1), np.asarray(stats["var"]).reshape(-1)


def with_statistics(variables: Variables, moments: Mapping[str, Moments]) -> Variables:
    """The variables with these means and variances as running statistics, in their original dtypes."""
    stats = traverse_util.flatten_dict(variables["batch_stats"])
    for name, found in moments.items():
        layer = tuple(name.split("/")) if name else ()
        for statistic, new in (("mean", found.mean), ("var", found.var)):
            stats[*layer, statistic] = like(stats[*layer, statistic], new)
    return {**variables, "batch_stats": traverse_util.unflatten_dict(stats)}


def like(old: jax.Array | np.ndarray, new: np.ndarray) -> jax.Array | np.ndarray:
    """The new numbers in the shape and the dtype of the old ones."""
    array = new.reshape(np.shape(old)).astype(old.dtype)
    if not isinstance(old, jax.Array):
        return array
    return jnp.asarray(array) if old.is_fully_addressable else put_whole(array, make_mesh())


class Pool:
    """Pools the moments of single examples.

    Chan, Golub & LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample variances".
    """

    def __init__(self) -> None:
        self._count = 0
        self._mean = np.zeros(())
        self._deviations = np.zeros(())

    def add(self, means: np.ndarray, deviations: np.ndarray, *, count: int) -> None:
        """Add examples: their means and sums of squared deviations [B, C], of ``count`` values each."""
        means, deviations = means.astype(np.float64), deviations.astype(np.float64)
        mean = means.mean(axis=0)
        within = deviations.sum(axis=0) + count * ((means - mean) ** 2).sum(axis=0)
        added = count * len(means)
        total = self._count + added
        delta = mean - self._mean
        self._deviations = self._deviations + within + delta**2 * (self._count * added / total)
        self._mean = self._mean + delta * (added / total)
        self._count = total

    @property
    def moments(self) -> Moments:
        """The moments of all examples so far; there must be one."""
        return Moments(self._count, self._mean, self._deviations / self._count)


def one_ahead(results: Iterable[T]) -> Iterator[T]:
    """The same results, each only after the next one is asked for: the device computes while the host reads."""
    waiting: deque[T] = deque()
    for result in results:
        waiting.append(result)
        if len(waiting) > 1:
            yield waiting.popleft()
    yield from waiting


class Observer:
    """Runs a network in inference mode and measures the inputs of its BN layers.

    Attributes:
        layers: the BN layers by path ("Block_1/BatchNorm_0"), in the order of the forward pass.
        levels: the same in groups; a layer's inputs depend on the statistics of earlier groups only.
        epsilons: each layer's ε.
    """

    def __init__(self, apply_fn: ApplyFn, variables: Variables, example: Example) -> None:
        """Find the layers; nothing is computed.

        Args:
            apply_fn: ``(variables, x) -> outputs`` of a network in inference mode.
            variables: its params and batch_stats.
            example: an input, or its shape and dtype; the batch size may differ.

        Raises:
            ModelError: there is no BN layer, or one is inside a loop (``nn.scan``), where it cannot be observed.
        """
        self._apply_fn = apply_fn
        self._values_per_example: dict[str, list[int]] = {}
        self.epsilons = epsilons_of(apply_fn, variables, example)
        self.layers = tuple(self.epsilons)
        self.levels = self._find_levels(variables, example)
        precision: Precision = "bfloat16" if example.dtype == jnp.bfloat16 else "float32"
        self._moments = distributed.InStep(jit_inference(pad_small_images(self._example_moments), precision))

    def measure(self, variables: Variables, batches: Iterable[tuple[jax.Array, int]]) -> dict[str, Moments]:
        """The moments of each layer's inputs.

        Args:
            variables: params and batch_stats.
            batches: inputs [B, ...], and the number of real examples; the examples after those are padding.
        """
        pools = {name: Pool() for name in self.layers}
        measured = ((self._moments(variables, x), num_real) for x, num_real in batches)
        # Several processes must run their programs, whose sums go through all of them, in the same order.
        for found, num_real in one_ahead(measured) if distributed.is_alone() else measured:
            for name, calls in fetch(found).items():
                for (mean, deviations), count in zip(calls, self._values_per_example[name], strict=True):
                    pools[name].add(mean[:num_real], deviations[:num_real], count=count)
        return {name: pool.moments for name, pool in pools.items()}

    def statistics(self, variables: Variables, layer: str) -> tuple[np.ndarray, np.ndarray]:
        """The layer's running mean and variance, [C] each."""
        return layer_statistics(variables, layer)

    def replaced(self, variables: Variables, moments: Mapping[str, Moments]) -> Variables:
        """The variables with these means and variances as running statistics."""
        return with_statistics(variables, moments)

    def _find_levels(self, variables: Variables, example: Example) -> list[list[str]]:
        if not self.layers:
            raise ModelError("the network has no BN layer", remedy="There is nothing to measure.")
        try:
            levels = _levels(self._example_moments, variables, example, self.layers)
            shapes = jax.eval_shape(lambda v, x: inputs_of_batch_norms(self._apply_fn, v, x), variables, example)
        except jax.errors.JAXTypeError:  # the common class of what a value raises that leaves its loop
            raise ModelError(
                "a BN layer is in a loop (nn.scan, nn.vmap), where its inputs cannot be observed",
                remedy="Unroll the loop over layers.",
            ) from None
        for name, calls in shapes.items():
            self._values_per_example[name] = [call.size // (call.shape[0] * call.shape[-1]) for call in calls]
        return levels

    def _example_moments(self, variables: Variables, x: jax.Array) -> dict[str, list[ExampleMoments]]:
        recorded = inputs_of_batch_norms(self._apply_fn, variables, x)
        return {name: [example_moments(call) for call in calls] for name, calls in recorded.items()}


def inputs_of_batch_norms(apply_fn: ApplyFn, variables: Variables, x: jax.Array) -> dict[str, list[jax.Array]]:
    """The inputs of each BN layer's calls as [B, positions, C], channels last, with the B examples of ``x``."""
    return record_batch_norms(apply_fn, variables, x, lambda norm, inputs, outputs: _by_example(inputs, norm, len(x)))


def epsilons_of(apply_fn: ApplyFn, variables: Variables, example: Example) -> dict[str, float]:
    """ε of each BN layer that the function calls, in the order of the calls.

    The dict that a function under ``jit`` returns would lose that order.
    """
    found: dict[str, float] = {}

    def note(variables: Variables, x: jax.Array) -> None:
        calls = record_batch_norms(apply_fn, variables, x, lambda norm, inputs, outputs: float(norm.epsilon))
        found.update({name: epsilons[0] for name, epsilons in calls.items()})

    jax.eval_shape(note, variables, example)
    return found


def record_batch_norms(
    apply_fn: ApplyFn, variables: Variables, x: jax.Array, look: Callable[[NormCall, jax.Array, jax.Array], T]
) -> dict[str, list[T]]:
    """The values of ``look(norm, input, output)`` at each call of a BN layer inside ``apply_fn``, by layer."""
    recorded: dict[str, list[T]] = {}

    def record(call: LayerCall) -> None:
        if call.norm is not None:
            assert isinstance(call.inputs, jax.Array | np.ndarray)
            assert isinstance(call.outputs, jax.Array)
            recorded.setdefault(call.path, []).append(look(call.norm, jnp.asarray(call.inputs), call.outputs))

    with observing(record):
        apply_fn(variables, x)
    return recorded


def _by_example(x: jax.Array, norm: NormCall, batch_size: int) -> jax.Array:
    """A layer's input as [B, positions, C]; time steps that were merged into the batch are split off again."""
    given = (norm.axis,) if isinstance(norm.axis, int) else norm.axis
    axes = tuple(axis % x.ndim for axis in given)
    if 0 in axes or x.shape[0] % batch_size:
        raise ModelError(
            f"{norm.path}: the first axis of its input {x.shape} is not the batch",
            remedy="Normalize over the batch axis first.",
        )
    moved = jnp.moveaxis(x, axes, range(x.ndim - len(axes), x.ndim))
    channels = int(np.prod([x.shape[axis] for axis in axes]))
    return moved.reshape(batch_size, -1, channels)


def example_moments(x: jax.Array) -> ExampleMoments:
    """Mean and sum of squared deviations over the positions of x [B, positions, C]."""
    x = x.astype(jnp.float32)
    mean = x.mean(axis=1)
    return mean, jnp.square(x - mean[:, None]).sum(axis=1)


def _levels(function: ApplyFn, variables: Variables, example: Example, layers: tuple[str, ...]) -> list[list[str]]:
    """The layers in groups, each layer after all layers whose statistics its inputs depend on."""
    sources = _sources(function, variables, example)
    level: dict[str, int] = {}
    for name in layers:
        level[name] = 1 + max((level[other] for other in sources[name] if other in level), default=-1)
    return [[name for name in layers if level[name] == number] for number in range(max(level.values()) + 1)]


def _sources(function: ApplyFn, variables: Variables, example: Example) -> dict[str, set[str]]:
    """For each entry of a function's dict of outputs, the layers whose running statistics it depends on."""
    graph = trace(function, variables, example)
    reached: dict[int, frozenset[str]] = {
        value: frozenset(("/".join(path[1:-1]),)) for value, path in graph.leaves.items() if path[0] == "batch_stats"
    }
    for node in graph.nodes:
        union = frozenset[str]().union(*(reached.get(value, frozenset()) for value in node.inputs))
        reached.update(dict.fromkeys(node.outputs, union))
    outputs = jax.tree.unflatten(graph.out_tree, [reached.get(value, frozenset()) for value in graph.outputs])
    return {
        name: set().union(*jax.tree.leaves(calls, is_leaf=lambda x: isinstance(x, frozenset)))
        for name, calls in outputs.items()
    }
