"""The inputs of BN layers in a network of any framework, found in its trace.

A layer's input is what the first operation reads that meets the layer's running statistics: x in x − mean (Flax,
Equinox, Haiku), or in x · scale (Keras). Letters: B batch size, C channels of one layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from bncli.errors import ModelError
from bncli.folding.affine import compact, varying
from bncli.folding.fold import batch_axes
from bncli.folding.folded import flatten
from bncli.folding.primitives import elementwise, primitive_of
from bncli.folding.proof.examples import count
from bncli.folding.rewrite.edits import EditedGraph
from bncli.folding.rewrite.program import Program, values_of
from bncli.folding.search.norms import MEANS, is_variance, norm_names, statistic
from bncli.folding.search.statistics import Statistics, find_statistics
from bncli.folding.trace.arguments import concrete, described
from bncli.folding.trace.constants import Constants, is_float
from bncli.folding.trace.graph import ApplyFn, Node, Path, Pytree, leaf_path, trace
from bncli.measure.moments import Moments, Pool, example_moments, like
from bncli.process import distributed
from bncli.process.mesh import fetch

EPSILON = 1e-5  # of a layer that adds none, or adds it where no trace shows it
# Layer -> for each of its calls mean and sum of squared deviations by example, [B, C] each, and the values of each.
Measured: TypeAlias = dict[str, list[tuple[jax.Array, jax.Array, int]]]
MeasureFn: TypeAlias = Callable[[Pytree, Pytree], Measured]


@dataclass(frozen=True)
class Site:
    """One use of a BN layer.

    Attributes:
        layer: its name.
        source: the number of its input in the trace.
        batch: the input's batch axis.
        channels: its channel axes.
    """

    layer: str
    source: int
    batch: int
    channels: tuple[int, ...]


class TracedObserver:
    """Runs a network in eval mode and measures the inputs of its BN layers.

    Attributes:
        layers: the BN layers, in the order of the forward pass.
        levels: the same in groups; a layer's inputs depend on the statistics of earlier groups only.
        epsilons: each layer's ε.
    """

    def __init__(self, apply_fn: ApplyFn, variables: Pytree, example: Pytree) -> None:
        """Find the layers; nothing is computed.

        Args:
            apply_fn: ``(variables, x) -> outputs`` in eval mode.
            variables: its arrays, with the running statistics under "batch_stats".
            example: a batch of inputs, or its description; the batch size may differ.

        Raises:
            ModelError: there is no BN layer, or one is inside a loop, where it cannot be observed.
        """
        self._apply_fn = apply_fn
        self._arrays = concrete(variables)
        self._shapes = described(variables, "variable")
        network, found = self._network(described(example, "input"))
        sites = self._sites(network)
        self.layers = tuple(dict.fromkeys(site.layer for site in sites))
        hidden = sorted(set(network.names.values()) - set(self.layers))
        if hidden or not self.layers:
            raise _unobservable(hidden)
        self.levels = _levels(network, sites)
        self._places = {layer: _places(network, found, layer) for layer in self.layers}
        self.epsilons = {layer: _epsilon(network, self._places[layer][1]) for layer in self.layers}
        self._compiled: dict[str, MeasureFn] = {}  # by the shapes of the inputs

    def measure(self, variables: Pytree, batches: Iterable[tuple[Pytree, int]]) -> dict[str, Moments]:
        """The moments of each layer's inputs.

        Args:
            variables: like those that the observer was made with.
            batches: inputs, and the number of real examples; the examples after those are padding.
        """
        pools = {name: Pool() for name in self.layers}
        for x, num_real in batches:
            inputs = described(x, "input")
            shapes = str(inputs)
            if shapes not in self._compiled:
                self._compiled[shapes] = self._measuring(inputs)
            for name, calls in fetch(self._compiled[shapes](variables, x)).items():
                for mean, deviations, values in calls:
                    pools[name].add(mean[:num_real], deviations[:num_real], count=int(values))
        return {name: pool.moments for name, pool in pools.items()}

    def statistics(self, variables: Pytree, layer: str) -> tuple[np.ndarray, np.ndarray]:
        """The layer's running mean and variance, [C] each."""
        arrays = dict(flatten(variables))
        mean, var = (np.asarray(arrays[path]).reshape(-1) for path in self._places[layer])
        return mean, var

    def replaced(self, variables: Pytree, moments: Mapping[str, Moments]) -> Pytree:
        """The variables with these means and variances as running statistics, in their original dtypes."""
        new: dict[Path, np.ndarray] = {}
        for layer, found in moments.items():
            new |= dict(zip(self._places[layer], (found.mean, found.var), strict=True))
        return jax.tree_util.tree_map_with_path(
            lambda key, old: like(old, new[leaf_path(key)]) if leaf_path(key) in new else old, variables
        )

    def _network(self, inputs: Pytree) -> tuple[EditedGraph, Statistics]:
        """The trace with distinct numbers in each vector, which show the axes along which a constant varies."""
        graph = trace(self._apply_fn, self._shapes, inputs)
        constants = Constants(graph, self._arrays)
        found = find_statistics(None, self._shapes, graph, constants.provenance)
        rng = np.random.default_rng(0)
        marked = {
            path: rng.uniform(1, 2, np.shape(array))
            for path, array in sorted(self._arrays.items())
            if is_float(array.dtype) and (path in found.paths or np.ndim(array) == 1)
        }
        constants = Constants(graph, {**self._arrays, **marked})
        axes = batch_axes(graph, self._apply_fn, self._shapes, inputs)
        return EditedGraph(graph, constants, axes, found), found

    def _sites(self, network: EditedGraph) -> list[Site]:
        return [_site(network, node, layer) for node, layer in _first_readers(network)]

    def _measuring(self, inputs: Pytree) -> MeasureFn:
        """The compiled measurement for inputs of these shapes; sites are found outside of the compiled program."""
        network, _ = self._network(inputs)
        sites, steps = self._sites(network), tuple(node.index for node in network.live)
        size = count(inputs)

        def measured(variables: Pytree, x: Pytree) -> Measured:
            values = values_of(Program(steps), network.graph, dict(flatten(variables)), x)
            found: Measured = {}
            for site in sites:
                by_example = _by_example(jnp.asarray(values[site.source]), site, size)
                found.setdefault(site.layer, []).append((*example_moments(by_example), by_example.shape[1]))
            return found

        return distributed.InStep(jax.jit(measured))


def _unobservable(hidden: Sequence[str]) -> ModelError:
    if not hidden:
        return ModelError("the network has no BN layer", remedy="There is nothing to measure.")
    return ModelError(
        f"{hidden[0]} is in a loop or is not used, so its inputs cannot be observed",
        remedy="Unroll the loop over layers.",
    )


def _first_readers(network: EditedGraph) -> Iterator[tuple[Node, str]]:
    """For each use of a layer the operation that meets its statistics first."""
    inside: dict[int, frozenset[str]] = {}  # value -> the layers that it is the middle of
    for node in network.live:
        dynamic = [value for value in node.inputs if value not in network.graph.known]
        if len(dynamic) != 1 or primitive_of(node.name).control_flow:
            continue
        provenance = network.constants.provenance
        known = [value for value in node.inputs if value in network.graph.known]
        names = frozenset(norm_names((p for v in known for p in provenance.get(v, frozenset())), network.names))
        running = inside.get(dynamic[0], frozenset())
        yield from ((node, name) for name in sorted(names - running))
        if primitive_of(node.name).affine is not None or primitive_of(node.name).inverse is not None:
            inside.update(dict.fromkeys(node.outputs, names | running))


def _site(network: EditedGraph, node: Node, layer: str) -> Site:
    """The input of the layer at its first operation.

    Raises:
        ModelError: the layer does not normalise over the batch.
    """
    (source,) = (value for value in node.inputs if value not in network.graph.known)
    rank = len(network.graph.avals[source].shape)
    axes: set[int] = set()
    for value in node.inputs:
        if value in network.constants:
            array = network.constants.array(value)
            axes |= varying(compact(np.asarray(array.reshape((1,) * (rank - array.ndim) + array.shape), np.float64)))
    batch = sorted(network.batch[source]) or [0]
    if len(batch) != 1 or batch[0] in axes or not rank:
        shape = network.graph.avals[source].shape
        raise ModelError(
            f"{layer}: its input {shape} has no batch axis of its own", remedy="Normalize over the batch axis first."
        )
    return Site(layer, source, batch[0], tuple(sorted(axes)))


def _by_example(x: jax.Array, site: Site, size: int) -> jax.Array:
    """A layer's input as [B, positions, C]; time steps that were merged into the batch are split off again.

    Raises:
        ModelError: the input is no multiple of the batch.
    """
    if x.shape[site.batch] % size:
        raise ModelError(
            f"{site.layer}: its input {x.shape} is no multiple of the batch of {size}",
            remedy="Normalize over the batch axis first.",
        )
    last = range(x.ndim - len(site.channels), x.ndim)
    moved = jnp.moveaxis(x, (site.batch, *site.channels), (0, *last))
    channels = int(np.prod([x.shape[axis] for axis in site.channels]))
    return moved.reshape(size, -1, channels)


def _levels(network: EditedGraph, sites: Sequence[Site]) -> list[list[str]]:
    """The layers in groups, each layer after all layers whose statistics its inputs depend on."""
    reached: dict[int, frozenset[str]] = {
        value: frozenset((network.names[path],))
        for value, path in network.graph.leaves.items()
        if path in network.names
    }
    for node in network.graph.nodes:
        union = frozenset[str]().union(*(reached.get(value, frozenset()) for value in node.inputs))
        reached.update(dict.fromkeys(node.outputs, union))
    sources: dict[str, set[str]] = {}
    for site in sites:
        sources.setdefault(site.layer, set()).update(reached.get(site.source, frozenset()) - {site.layer})
    level: dict[str, int] = {}
    for layer, others in sources.items():
        level[layer] = 1 + max((level[other] for other in others if other in level), default=-1)
    return [[layer for layer in level if level[layer] == number] for number in range(max(level.values()) + 1)]


def _places(network: EditedGraph, found: Statistics, layer: str) -> tuple[Path, Path]:
    """The paths of the layer's mean and variance.

    Raises:
        ModelError: there is not one of each.
    """
    read = {value for node in network.live for value in node.inputs} | set(network.graph.outputs)
    paths = [path for value, path in network.graph.leaves.items() if network.names.get(path) == layer and value in read]
    variances = [path for path in paths if is_variance(path, found)]
    pairs = {pair.mean for pair in found.pairs}
    means = [path for path in paths if path not in variances and (path in pairs or statistic(path) in MEANS)]
    if len(means) != 1 or len(variances) != 1:
        raise ModelError(
            f"{layer}: its statistics are {', '.join(map('/'.join, paths))}, which are not one mean and one variance",
            remedy="Call bncli.recalibrate with the network itself, not with a function of its arrays.",
        )
    return means[0], variances[0]


def _epsilon(network: EditedGraph, variance: Path) -> float:
    """The number that is added to the layer's variance."""
    provenance = network.constants.provenance
    for node in network.graph.nodes:
        if primitive_of(node.name) is not elementwise.ADD or not network.graph.known.issuperset(node.inputs):
            continue
        for mine, other in (node.inputs, node.inputs[::-1]):
            if variance in provenance.get(mine, frozenset()) and not provenance.get(other):
                return float(network.constants.array(other).reshape(-1)[0])
    return EPSILON
