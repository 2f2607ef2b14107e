"""Streams: the values that have their channels in common, from the layers that make them to the layers that read them.

A channel can be removed from a stream only as a whole: from the kernels that make it, from every constant on its way,
and from the kernels that read it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from bncli.folding.primitives import primitive_of
from bncli.folding.prune.axes import IN_PLACE, Moved, moved
from bncli.folding.prune.bounds import Context
from bncli.folding.trace.graph import Node


@dataclass
class Stream:
    """Values with channels in common.

    Attributes:
        channels: C.
        producers: the operations that make the channels.
        places: value -> the place of the channels in it.
        sinks: the operations that read the channels and make others of them.
        through: the depthwise convolutions that it passes.
        obstacle: why no channel can be removed; "" if nothing is in the way.
    """

    channels: int
    producers: list[Node] = field(default_factory=list)
    places: dict[int, Moved] = field(default_factory=dict)
    sinks: list[Node] = field(default_factory=list)
    through: list[Node] = field(default_factory=list)
    obstacle: str = ""

    def absorb(self, other: Stream) -> None:
        """Take over the other stream, whose channels are the same."""
        self.producers += other.producers
        self.places |= other.places
        self.sinks += other.sinks
        self.through += other.through
        self.obstacle = self.obstacle or other.obstacle


def find_streams(context: Context) -> list[Stream]:
    """All streams of a network, in the order of their first layers."""
    finder = _Finder(context)
    for node in context.graph.live():
        if not all(value in context.constants for value in node.inputs):
            finder.visit(node)
    for value in context.graph.outputs:
        finder.block([value], "it is an output of the network")
    return finder.distinct()


def makes_channels(context: Context, node: Node) -> Moved | None:
    """The place of the channels that an operation makes: a convolution without groups, or a product with a matrix."""
    if context.dynamic(node) != [0] or len(node.inputs) != 2:
        return None
    if node.name == "conv_general_dilated":
        params = node.params
        alone = params["feature_group_count"] == 1 and params["batch_group_count"] == 1
        return Moved(params["dimension_numbers"].out_spec[1], 1) if alone else None
    if node.name == "dot_general":
        (contracted, of_weight), (batch, _) = node.params["dimension_numbers"]
        is_matrix = len(context.graph.avals[node.inputs[1]].shape) == 2 and len(of_weight) == 1 and not batch
        return Moved(len(context.graph.avals[node.outputs[0]].shape) - 1, 1) if is_matrix and contracted else None
    return None


def reads_channels(context: Context, node: Node, place: Moved) -> bool:
    """True if an operation that makes channels reads those of its first operand at this place."""
    if makes_channels(context, node) is None:
        return False
    if node.name == "conv_general_dilated":
        return bool(node.params["dimension_numbers"].lhs_spec[1] == place.axis and place.repeat == 1)
    return tuple(node.params["dimension_numbers"][0][0]) == (place.axis,)


def is_depthwise(context: Context, node: Node, place: Moved) -> bool:
    """True for a convolution of each channel by itself, into one."""
    if node.name != "conv_general_dilated" or context.dynamic(node) != [0] or place.repeat != 1:
        return False
    numbers, groups = node.params["dimension_numbers"], node.params["feature_group_count"]
    shape = context.graph.avals[node.inputs[1]].shape
    one_each = shape[numbers.rhs_spec[1]] == 1 and shape[numbers.rhs_spec[0]] == groups
    own_axis = numbers.lhs_spec[1] == place.axis and context.graph.avals[node.inputs[0]].shape[place.axis] == groups
    return bool(one_each and own_axis and node.params["batch_group_count"] == 1)


class _Finder:
    """The streams found so far, and the one of each value."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.of_value: dict[int, Stream] = {}

    def visit(self, node: Node) -> None:
        """Let the streams of the operands end in this operation, or go on through it; begin a new one."""
        tracked = [value for value in node.inputs if value in self.of_value]
        first = node.inputs[0]
        if first in self.of_value and len(tracked) == 1:
            stream, place = self.of_value[first], self.of_value[first].places[first]
            if reads_channels(self.context, node, place):
                stream.sinks.append(node)
                tracked = []
            elif is_depthwise(self.context, node, place):
                stream.through.append(node)
                self._go_on(stream, node, Moved(node.params["dimension_numbers"].out_spec[1], 1))
                return
        made = makes_channels(self.context, node)
        if made is not None and not tracked:
            size = self.context.graph.avals[node.outputs[0]].shape[made.axis]
            self._go_on(Stream(size, [node]), node, made)
        elif tracked:
            self._continue(node, tracked)

    def _continue(self, node: Node, tracked: list[int]) -> None:
        """Join the streams that meet in an operation, and go on behind it."""
        place = self._place_behind(node, tracked)
        if place is None:
            self.block(tracked, f"{primitive_of(node.name).words or node.name} reads it")
            return
        stream = self.of_value[tracked[0]]
        for value in tracked[1:]:
            self._join(stream, self.of_value[value])
        self._go_on(stream, node, place)

    def _place_behind(self, node: Node, tracked: list[int]) -> Moved | None:
        """The place of the channels in the output of an operation; None if they do not pass it."""
        dynamic = self.context.dynamic(node)
        if len(node.outputs) != 1 or {node.inputs[operand] for operand in dynamic} != set(tracked):
            return None
        places = {self.of_value[value].places[value] for value in tracked}
        sizes = {self.of_value[value].channels for value in tracked}
        if len(places) > 1 or len(sizes) > 1:
            return None
        if node.name not in IN_PLACE and dynamic != [0]:
            return None
        if node.name in IN_PLACE and not self._fit(node):
            return None
        return moved(self.context.graph, self.context.batch, node, places.pop())

    def _fit(self, node: Node) -> bool:
        """True if each operand is a scalar, or has the rank of the output."""
        avals = self.context.graph.avals
        return all(len(avals[value].shape) in (0, len(avals[node.outputs[0]].shape)) for value in node.inputs)

    def _join(self, stream: Stream, other: Stream) -> None:
        if other is stream:
            return
        stream.absorb(other)
        for value, known in self.of_value.items():
            if known is other:
                self.of_value[value] = stream

    def _go_on(self, stream: Stream, node: Node, place: Moved) -> None:
        stream.places[node.outputs[0]] = place
        self.of_value[node.outputs[0]] = stream

    def block(self, values: Iterable[int], reason: str) -> None:
        """Note an obstacle on the streams of these values."""
        for value in values:
            if value in self.of_value:
                stream = self.of_value[value]
                stream.obstacle = stream.obstacle or reason

    def distinct(self) -> list[Stream]:
        """The streams, each once."""
        found: dict[int, Stream] = {id(stream): stream for stream in self.of_value.values()}
        return list(found.values())


def layer_names(context: Context, nodes: Iterable[Node]) -> Iterator[str]:
    """The layer of each operation, by the variables that it reads."""
    for node in nodes:
        paths = sorted(context.constants.provenance.get(node.inputs[1], frozenset()))
        yield "/".join(paths[0][1:-1]) if paths and len(paths[0]) > 2 else f"{node.name}_{node.index}"
