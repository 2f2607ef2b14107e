"""A network without its dead channels.

Letters: C channels, O outputs, I inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import numpy as np

from bncli.errors import FoldError
from bncli.folding.fold import batch_axes
from bncli.folding.folded import Folded, flatten, nested
from bncli.folding.primitives.stuck import Slot
from bncli.folding.prune.axes import Moved
from bncli.folding.prune.bounds import Bounds, Context, find_bounds
from bncli.folding.prune.streams import Stream, find_streams, layer_names
from bncli.folding.report.rows import FoldReport
from bncli.folding.trace.arguments import concrete, described
from bncli.folding.trace.constants import Constants
from bncli.folding.trace.graph import ApplyFn, Constant, DType, Graph, Node, Path, Pytree, trace


@dataclass(frozen=True)
class PrunedLayers:
    """The layers that make one set of channels, and what became of them.

    Attributes:
        layers: the layers.
        channels: C.
        removed: the channels removed.
        zero: those of them that are 0 for every input, wherever they are read.
        unread: those of them that every reader gives the weight 0.
        constant: channels that have always the same value other than 0; they pass it on, and stay.
        kept: channels that are dead and stay, because something is in the way.
        reason: what is in the way; "" for nothing.
    """

    layers: tuple[str, ...]
    channels: int
    removed: tuple[int, ...]
    zero: int
    unread: int
    constant: int
    kept: int
    reason: str


@dataclass(frozen=True)
class PruneReport:
    """The outcome of the search for dead channels.

    Attributes:
        layers: those with a dead or a constant channel.
        parameters: numbers in the network before and after.
    """

    layers: tuple[PrunedLayers, ...]
    parameters: tuple[int, int]

    @property
    def removed(self) -> int:
        """Channels removed in all."""
        return sum(len(row.removed) for row in self.layers)


@dataclass(frozen=True, eq=False)
class PrunedNetwork:
    """A folded network without its dead channels.

    Args:
        variables: every array it reads, in nested dicts under the original names.
        report: that of the fold, one row for each BN layer.
        apply: (variables, x) -> outputs, for a batch of any size.
    """

    variables: Pytree
    report: FoldReport
    apply: ApplyFn

    def __call__(self, x: Pytree) -> Pytree:
        """The network's outputs."""
        return self.apply(self.variables, x)


@dataclass(frozen=True)
class Pruned:
    """A network without its dead channels, or the very network if there are none, with the report."""

    network: Folded | PrunedNetwork
    report: PruneReport


def prune(folded: Folded, low: np.ndarray, high: np.ndarray) -> Pruned:
    """Remove the channels that pass nothing on for any input within a range.

    Args:
        folded: a network with one input, whose last axis are its channels.
        low: the least value of each input channel [C]; `high`: the largest.

    Raises:
        FoldError: the network has several inputs or outputs.
    """
    context = _context(folded)
    (value,) = context.graph.inputs
    axis = len(context.graph.avals[value].shape) - 1
    bounds = find_bounds(context, {value: Bounds(axis, np.asarray(low, float), np.asarray(high, float))})
    streams = find_streams(context)
    dead = _Dead(context, bounds, streams)
    dead.settle()
    before = _count(folded.variables)
    if not any(mask.any() for mask in dead.removed):
        return Pruned(folded, PruneReport(tuple(dead.rows()), (before, before)))
    network = _without(folded, context, _edits(context, streams, dead.removed))
    return Pruned(network, PruneReport(tuple(dead.rows()), (before, _count(network.variables))))


def _context(folded: Folded) -> Context:
    if len(jax.tree_util.tree_leaves(folded.example)) != 1:
        raise FoldError("channels of a network with several inputs cannot be removed", remedy="fold it without prune")
    shapes = described(folded.variables, "variable")
    graph = trace(folded.apply, shapes, folded.example)
    batch = batch_axes(graph, folded.apply, shapes, folded.example)
    return Context(graph, Constants(graph, concrete(folded.variables)), batch)


def _count(variables: Pytree) -> int:
    return sum(int(np.size(leaf)) for leaf in jax.tree_util.tree_leaves(variables))


class _Dead:
    """The dead channels of each stream, found until no more follow from those found."""

    def __init__(self, context: Context, bounds: Mapping[int, Bounds], streams: list[Stream]) -> None:
        self.context = context
        self.bounds = bounds
        self.streams = streams
        self.removed = [np.zeros(stream.channels, bool) for stream in streams]
        self.made_by = {node.index: number for number, stream in enumerate(streams) for node in stream.producers}

    def settle(self) -> None:
        """Find all dead channels that can be removed: a removed layer's inputs may be unread then."""
        while True:
            found = [self._removable(number) for number in range(len(self.streams))]
            if all((new == old).all() for new, old in zip(found, self.removed, strict=True)):
                return
            self.removed = found

    def rows(self) -> list[PrunedLayers]:
        """One row for each stream with a channel to tell of."""
        found = []
        for number, stream in enumerate(self.streams):
            zero, unread, constant = self._zero(stream), self._unread(stream), self._constant(stream)
            dead, removed = zero | unread, self.removed[number]
            if not dead.any() and not constant.any():
                continue
            left = dead & ~removed
            reason = stream.obstacle or ("one channel has to stay" if left.any() else "")
            found.append(
                PrunedLayers(
                    layers=tuple(dict.fromkeys(layer_names(self.context, stream.producers))),
                    channels=stream.channels,
                    removed=tuple(np.flatnonzero(removed).tolist()),
                    zero=int((removed & zero).sum()),
                    unread=int((removed & ~zero).sum()),
                    constant=int((constant & ~dead).sum()),
                    kept=int(left.sum()),
                    reason=reason if left.any() else "",
                )
            )
        return found

    def _removable(self, number: int) -> np.ndarray:
        stream = self.streams[number]
        if stream.obstacle or not stream.sinks:
            return np.zeros(stream.channels, bool)
        dead: np.ndarray = self._zero(stream) | self._unread(stream)
        if dead.all():
            dead[0] = False  # an operation on no channels is no operation
        return dead

    def _zero(self, stream: Stream) -> np.ndarray:
        """True for the channels that are 0 wherever a layer reads them."""
        return self._everywhere(stream, lambda bounds: bounds.is_zero)

    def _constant(self, stream: Stream) -> np.ndarray:
        return self._everywhere(stream, lambda bounds: bounds.is_constant)

    def _everywhere(self, stream: Stream, test: Callable[[Bounds], np.ndarray]) -> np.ndarray:
        """True for the channels that pass a test wherever a layer reads them."""
        found = np.ones(stream.channels, bool) if stream.sinks else np.zeros(stream.channels, bool)
        for node in stream.sinks:
            bounds, place = self.bounds.get(node.inputs[0]), stream.places[node.inputs[0]]
            if bounds is None or bounds.axis != place.axis:
                return np.zeros(stream.channels, bool)
            found &= test(bounds).reshape(place.repeat, stream.channels).all(axis=0)
        return found

    def _unread(self, stream: Stream) -> np.ndarray:
        """True for the finite channels whose readers give them the weight 0, in all outputs that stay."""
        found = np.ones(stream.channels, bool) if stream.sinks else np.zeros(stream.channels, bool)
        for node in stream.sinks:
            bounds, place = self.bounds.get(node.inputs[0]), stream.places[node.inputs[0]]
            if bounds is None or bounds.axis != place.axis:
                return np.zeros(stream.channels, bool)
            weights = _by_input(self.context, node)[~self.removed[self.made_by[node.index]]]  # [O, I]
            is_finite = np.isfinite(bounds.low) & np.isfinite(bounds.high)
            silent = (weights == 0).all(axis=0) & is_finite
            found &= silent.reshape(place.repeat, stream.channels).all(axis=0)
        return found


def _by_input(context: Context, node: Node) -> np.ndarray:
    """The largest magnitude of the weights of each output and input: [O, I]."""
    array = np.abs(context.constants.array(node.inputs[1]))
    if node.name == "conv_general_dilated":
        kernel = np.transpose(array, node.params["dimension_numbers"].rhs_spec)
        largest: np.ndarray = kernel.reshape(*kernel.shape[:2], -1).max(axis=-1)
        return largest
    (_, (axis,)), _ = node.params["dimension_numbers"]
    return array if axis == 1 else array.T


@dataclass
class _Edits:
    """The changes that remove channels.

    Attributes:
        slices: (operation, operand) -> axis -> the indices that stay.
        sizes: operation -> (axis of its output, its new length), where a parameter holds it.
        groups: operation -> its new number of groups.
    """

    slices: dict[Slot, dict[int, np.ndarray]] = field(default_factory=dict)
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)
    groups: dict[int, int] = field(default_factory=dict)

    def keep(self, slot: Slot, axis: int, indices: np.ndarray) -> None:
        """Keep only these indices of an operand's axis."""
        self.slices.setdefault(slot, {})[axis] = indices


def _edits(context: Context, streams: list[Stream], removed: list[np.ndarray]) -> _Edits:
    edits = _Edits()
    for stream, mask in zip(streams, removed, strict=True):
        if mask.any():
            _add_edits(edits, context, stream, np.flatnonzero(~mask))
    return edits


def _add_edits(edits: _Edits, context: Context, stream: Stream, kept: np.ndarray) -> None:
    for node in stream.producers:
        edits.keep((node.index, 1), _out_axis(node), kept)
    for node in stream.sinks:
        place = stream.places[node.inputs[0]]
        edits.keep((node.index, 1), _in_axis(node), _repeated(kept, place, stream.channels))
    for node in stream.through:
        edits.keep((node.index, 1), node.params["dimension_numbers"].rhs_spec[0], kept)
        edits.groups[node.index] = len(kept)
    makers = {node.index for node in (*stream.producers, *stream.through)}
    producers = context.graph.producers
    for value, place in stream.places.items():
        if producers[value].index not in makers:
            _add_edits_on_the_way(edits, context, producers[value], place, _repeated(kept, place, stream.channels))


def _add_edits_on_the_way(edits: _Edits, context: Context, node: Node, place: Moved, indices: np.ndarray) -> None:
    """Remove the channels from the constants and the sizes of an operation that they pass."""
    if node.name in ("broadcast_in_dim", "reshape"):
        edits.sizes[node.index] = (place.axis, len(indices))
    for operand, source in enumerate(node.inputs):
        shape = context.graph.avals[source].shape
        if source in context.constants and len(shape) > place.axis and shape[place.axis] > 1:
            edits.keep((node.index, operand), place.axis, indices)


def _repeated(kept: np.ndarray, place: Moved, channels: int) -> np.ndarray:
    """The indices of the channels that stay, where all channels follow each other `repeat` times."""
    indices: np.ndarray = (np.arange(place.repeat)[:, None] * channels + kept).reshape(-1)
    return indices


def _out_axis(node: Node) -> int:
    if node.name == "conv_general_dilated":
        return int(node.params["dimension_numbers"].rhs_spec[0])
    return 1 - _in_axis(node)


def _in_axis(node: Node) -> int:
    if node.name == "conv_general_dilated":
        return int(node.params["dimension_numbers"].rhs_spec[1])
    return int(node.params["dimension_numbers"][0][1][0])


@dataclass(frozen=True)
class _Operand:
    """A new constant operand: its variable, and the dtype in which the operation reads it."""

    path: Path
    dtype: DType


def _without(folded: Folded, context: Context, edits: _Edits) -> PrunedNetwork:
    """The network with the edits made."""
    steps, leaves = _needed(context.graph, edits)
    arrays: dict[Path, Constant] = {path: a for path, a in concrete(folded.variables).items() if path in leaves}
    operands: dict[Slot, _Operand] = {}
    for slot, slices in edits.slices.items():
        path, operand = _stored(context, slot, slices, arrays)
        arrays[path] = operand
        value = context.graph.nodes[slot[0]].inputs[slot[1]]
        operands[slot] = _Operand(path, context.graph.avals[value].dtype)
    shapes, structure = described(folded.variables, "variable"), context.graph.structure

    def apply(variables: Pytree, x: jax.Array) -> jax.Array:
        if isinstance(x.shape[0], int) and x.shape[0] == 1:  # one example is traced as other operations than several
            return apply(variables, jnp.concatenate([x, x]))[:1]
        graph = trace(folded.apply, shapes, described(x, "input"))
        if graph.structure != structure:
            raise FoldError(
                "the network runs other operations at this batch size", remedy="fold it without --prune-dead"
            )
        outputs: jax.Array = _run(graph, steps, edits, operands, dict(flatten(variables)), x)
        return outputs

    return PrunedNetwork(nested(arrays), folded.report, apply)


def _needed(graph: Graph, edits: _Edits) -> tuple[tuple[int, ...], set[Path]]:
    """The operations that still run, and the variables that they still read as they are."""
    needed = set(graph.outputs)
    steps = []
    for node in reversed(graph.nodes):
        if node.effectful or not needed.isdisjoint(node.outputs):
            steps.append(node.index)
            needed.update(v for i, v in enumerate(node.inputs) if (node.index, i) not in edits.slices)
    return tuple(reversed(steps)), {path for value, path in graph.leaves.items() if value in needed}


def _stored(
    context: Context, slot: Slot, slices: Mapping[int, np.ndarray], arrays: Mapping[Path, Constant]
) -> tuple[Path, Constant]:
    """(the path of the operand's variable, its array without the removed channels)."""
    value = context.graph.nodes[slot[0]].inputs[slot[1]]
    array = context.constants.array(value)
    for axis in context.batch[value]:
        array = array.take([0], axis=axis)  # the same for every example
    for axis, indices in slices.items():
        array = array.take(indices, axis=axis)
    sources = sorted(context.constants.provenance.get(value, frozenset()))
    path: Path = sources[0] if len(sources) == 1 else ("params", f"constant_{value}", "value")
    name, number = path, 0
    while any(other[: len(name)] == name or name[: len(other)] == other for other in arrays):
        number += 1
        name = (*path[:-1], f"{path[-1]}_{number}")
    return name, jnp.asarray(array, context.graph.avals[value].dtype)


def _run(
    graph: Graph,
    steps: tuple[int, ...],
    edits: _Edits,
    operands: Mapping[Slot, _Operand],
    arrays: Mapping[Path, Constant],
    x: Pytree,
) -> Pytree:
    """The outputs of the network for arrays or tracers."""
    values: dict[int, Constant] = dict(graph.constants)
    values.update({value: arrays[path] for value, path in graph.leaves.items() if path in arrays})
    values.update(zip(graph.inputs, map(jnp.asarray, jax.tree_util.tree_leaves(x)), strict=True))
    for index in steps:
        node = graph.nodes[index]
        given: list[Constant] = []
        for position, value in enumerate(node.inputs):
            operand = operands.get((index, position))
            given.append(values[value] if operand is None else arrays[operand.path].astype(operand.dtype))
        values.update(zip(node.outputs, _changed(node, edits).bind(_fitted(node, given)), strict=True))
    return jax.tree_util.tree_unflatten(graph.out_tree, [values[value] for value in graph.outputs])


def _fitted(node: Node, given: list[Constant]) -> list[Constant]:
    """The operands of an elementwise operation in one shape; a stored one has length 1 along the batch."""
    if node.name in ("conv_general_dilated", "dot_general") or len(given) < 2:
        return given
    shapes = {operand.shape for operand in given if operand.shape}
    if len(shapes) < 2 or len({len(shape) for shape in shapes}) > 1:
        return given
    whole = jnp.broadcast_shapes(*shapes)
    return [jnp.broadcast_to(operand, whole) if operand.shape else operand for operand in given]


def _changed(node: Node, edits: _Edits) -> Node:
    """The operation with the new sizes in its parameters."""
    params = dict(node.params)
    if node.index in edits.groups:
        params["feature_group_count"] = edits.groups[node.index]
    if node.index in edits.sizes:
        axis, size = edits.sizes[node.index]
        name = "new_sizes" if node.name == "reshape" else "shape"
        params[name] = tuple(size if number == axis else length for number, length in enumerate(params[name]))
    return replace(node, params=params)
