"""The way of a channel axis through operations that move numbers or combine positions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bncli.folding.trace.graph import Graph, Node

# Elementwise operations, which leave every axis in its place.
_ARITHMETIC = ("abs", "add", "add_any", "div", "erf", "exp", "logistic", "max", "min", "mul", "neg", "sub", "tanh")
IN_PLACE = frozenset((*_ARITHMETIC, "convert_element_type", "copy", "copy_p", "stop_gradient"))
REDUCTIONS = frozenset({"reduce_max", "reduce_sum"})


@dataclass(frozen=True)
class Moved:
    """The place of the channels in a value.

    Args:
        axis: the axis along which they lie.
        repeat: how often they follow each other there: H·W times behind a flatten of [B, H, W, C].
    """

    axis: int
    repeat: int


def moved(graph: Graph, batch: list[frozenset[int]], node: Node, place: Moved) -> Moved | None:
    """The place of the first operand's channels in the output; None if they do not stay together."""
    if node.name in IN_PLACE:
        return place
    if node.name in REDUCTIONS and batch[node.inputs[0]] & set(node.params["axes"]):
        return None
    way = _WAYS.get(node.name)
    return way(graph, node, place) if way is not None else None


def _without_axes(place: Moved, dropped: Sequence[int]) -> Moved | None:
    if place.axis in dropped:
        return None
    return Moved(place.axis - sum(axis < place.axis for axis in dropped), place.repeat)


def _through_reduction(_: Graph, node: Node, place: Moved) -> Moved | None:
    return _without_axes(place, node.params["axes"])


def _through_squeeze(_: Graph, node: Node, place: Moved) -> Moved | None:
    return _without_axes(place, node.params["dimensions"])


def _through_transpose(_: Graph, node: Node, place: Moved) -> Moved | None:
    return Moved(tuple(node.params["permutation"]).index(place.axis), place.repeat)


def _through_pad(_: Graph, node: Node, place: Moved) -> Moved | None:
    return place if tuple(node.params["padding_config"][place.axis]) == (0, 0, 0) else None


def _through_window(_: Graph, node: Node, place: Moved) -> Moved | None:
    """A window over other axes, which is never all padding."""
    window, padding = node.params["window_dimensions"], node.params["padding"]
    apart = (
        window[place.axis] == 1
        and tuple(padding[place.axis]) == (0, 0)
        and node.params["window_strides"][place.axis] == 1
    )
    plain = all(dilation == 1 for name in ("base_dilation", "window_dilation") for dilation in node.params[name])
    never_empty = all(low < size and high < size for size, (low, high) in zip(window, padding, strict=True) if size > 1)
    only_inside = all(tuple(pair) == (0, 0) for size, pair in zip(window, padding, strict=True) if size == 1)
    return place if apart and plain and never_empty and only_inside else None


def _through_broadcast(graph: Graph, node: Node, place: Moved) -> Moved | None:
    """New axes, or axes of length 1 made longer; the channels themselves keep their number."""
    axis = node.params["broadcast_dimensions"][place.axis]
    same = graph.avals[node.inputs[0]].shape[place.axis] == graph.avals[node.outputs[0]].shape[axis]
    return Moved(axis, place.repeat) if same else None


def _through_reshape(graph: Graph, node: Node, place: Moved) -> Moved | None:
    """A flatten of the axes up to the channels, which come last, or a change in axes of length 1."""
    if node.params.get("dimensions") is not None:
        return None
    before, after = graph.avals[node.inputs[0]].shape, graph.avals[node.outputs[0]].shape
    kept = [(axis, size) for axis, size in enumerate(before) if size != 1 or axis == place.axis]
    target = [axis for axis, size in enumerate(after) if size != 1]
    if [size for _, size in kept] == [after[axis] for axis in target]:
        return Moved(target[[axis for axis, _ in kept].index(place.axis)], place.repeat)
    is_last = place.axis == len(before) - 1
    if is_last and len(before) > 2 and len(after) == 2 and before[0] == after[0]:
        repeat = 1
        for size in before[1:-1]:
            repeat *= size
        return Moved(1, repeat * place.repeat)
    return None


_WAYS: Mapping[str, Callable[[Graph, Node, Moved], Moved | None]] = {
    "broadcast_in_dim": _through_broadcast,
    "pad": _through_pad,
    "reduce_max": _through_reduction,
    "reduce_sum": _through_reduction,
    "reduce_window_max": _through_window,
    "reduce_window_sum": _through_window,
    "reshape": _through_reshape,
    "squeeze": _through_squeeze,
    "transpose": _through_transpose,
}
