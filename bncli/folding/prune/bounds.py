"""The range of every channel of every value, for all inputs within a range: interval arithmetic in float64.

Ranges hold for the network's own arithmetic too: sums are widened by its rounding error, n·ε·Σ|w·x| for n terms (Higham
2002, Accuracy and Stability of Numerical Algorithms, section 3.1). A value whose operation has no rule has no range.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np

from bncli.folding.affine import Array
from bncli.folding.prune.axes import Moved, moved
from bncli.folding.trace.constants import Constants, is_float
from bncli.folding.trace.graph import DType, Graph, Node

_float_info: Callable[[DType], jnp.finfo] = jnp.finfo  # JAX leaves its constructor untyped


@dataclass(frozen=True)
class Bounds:
    """The range of a value by channel.

    Args:
        axis: the axis of the channels.
        low: the least value of each; `high`: the largest; float64, as long as the axis.
    """

    axis: int
    low: Array
    high: Array

    @property
    def is_zero(self) -> np.ndarray:
        """True for each channel that is always 0."""
        zero: np.ndarray = (self.low == 0) & (self.high == 0)
        return zero

    @property
    def is_constant(self) -> np.ndarray:
        """True for each channel that has always the same value, up to rounding."""
        span, size = self.high - self.low, np.maximum(np.abs(self.low), np.abs(self.high))
        with np.errstate(invalid="ignore"):
            constant: np.ndarray = span <= 1e-5 * size
        return constant


@dataclass(frozen=True)
class Context:
    """A traced network: its graph, its constants, and the batch axes of each value."""

    graph: Graph
    constants: Constants
    batch: list[frozenset[int]]

    def rounding(self, value: int) -> float:
        """The relative rounding error of one operation in the dtype of a value."""
        dtype = self.graph.avals[value].dtype
        return float(_float_info(dtype).eps) if is_float(dtype) else 0.0

    def dynamic(self, node: Node) -> list[int]:
        """The operands that depend on the network's input."""
        return [operand for operand, value in enumerate(node.inputs) if value not in self.constants]


Rule = Callable[[Context, Node, Mapping[int, Bounds]], Bounds | None]


def find_bounds(context: Context, inputs: Mapping[int, Bounds]) -> dict[int, Bounds]:
    """Value -> its range, for every value whose range is known.

    Args:
        context: the network.
        inputs: the ranges of its inputs.
    """
    found = dict(inputs)
    for node in context.graph.live():
        if node.name not in RULES or all(value in context.constants for value in node.inputs):
            continue
        with np.errstate(all="ignore"):
            bounds = RULES[node.name](context, node, found)
        if bounds is not None and not (np.isnan(bounds.low).any() or np.isnan(bounds.high).any()):
            found[node.outputs[0]] = bounds
    return found


def _product(weights: Array, values: Array) -> Array:
    """weights · values elementwise, where 0 · ∞ is 0: a weight of 0 reads no value, and all values are finite."""
    result: Array = np.where(weights == 0, 0.0, weights * values)
    return result


def _weighted(weights: Array, low: Array, high: Array, *, terms: int, eps: float) -> tuple[Array, Array]:
    """The range of Σ w·x over the last axis, for weights split into positive and negative parts [2, O, I]."""
    positive, negative = weights
    least = (_product(positive, low) + _product(negative, high)).sum(axis=-1)
    most = (_product(positive, high) + _product(negative, low)).sum(axis=-1)
    size = _product(positive - negative, np.maximum(np.abs(low), np.abs(high))).sum(axis=-1)
    error = terms * eps * size
    return least - error, most + error


def _conv(context: Context, node: Node, found: Mapping[int, Bounds]) -> Bounds | None:
    """Σ over window and input channels; where zeros are padded, 0 belongs to the range of the input."""
    numbers = node.params["dimension_numbers"]
    x = found.get(node.inputs[0])
    if (
        x is None
        or x.axis != numbers.lhs_spec[1]
        or node.inputs[1] not in context.constants
        or node.params["batch_group_count"] != 1
    ):
        return None
    kernel = np.transpose(context.constants.array(node.inputs[1]), numbers.rhs_spec)  # [O, I/G, window…]
    outputs, per_group, groups = kernel.shape[0], kernel.shape[1], node.params["feature_group_count"]
    flat = kernel.reshape(outputs, per_group, -1)
    weights = np.stack([np.maximum(flat, 0).sum(axis=-1), np.minimum(flat, 0).sum(axis=-1)])  # [2, O, I/G]
    low, high = x.low, x.high
    padded = any(side > 0 for pair in node.params["padding"] for side in pair)
    if padded or any(dilation > 1 for dilation in node.params["lhs_dilation"]):
        low, high = np.minimum(low, 0), np.maximum(high, 0)
    by_output = (np.repeat(side.reshape(groups, per_group), outputs // groups, axis=0) for side in (low, high))
    low, high = _weighted(weights, *by_output, terms=flat[0].size + 1, eps=context.rounding(node.outputs[0]))
    return Bounds(numbers.out_spec[1], low, high)


def _dot(context: Context, node: Node, found: Mapping[int, Bounds]) -> Bounds | None:
    """x·W for x [..., I] and W with one contracted and one free axis."""
    (contracted, weight_contracted), (batch, _) = node.params["dimension_numbers"]
    x = found.get(node.inputs[0])
    weight = node.inputs[1]
    if x is None or weight not in context.constants or batch or tuple(contracted) != (x.axis,):
        return None
    matrix = context.constants.array(weight)
    if matrix.ndim != 2 or len(weight_contracted) != 1:
        return None
    matrix = matrix if weight_contracted[0] == 1 else matrix.T  # [O, I]
    weights = np.stack([np.maximum(matrix, 0), np.minimum(matrix, 0)])
    eps = context.rounding(node.outputs[0])
    low, high = _weighted(weights, x.low, x.high, terms=matrix.shape[1] + 1, eps=eps)
    return Bounds(len(context.graph.avals[node.outputs[0]].shape) - 1, low, high)


def _operand(context: Context, node: Node, operand: int, like: Bounds, found: Mapping[int, Bounds]) -> Bounds | None:
    """The range of another operand, by the channels of `like`."""
    value = node.inputs[operand]
    if value not in context.constants:
        other = found.get(value)
        return other if other is not None and other.axis == like.axis else None
    array = context.constants.array(value)
    rank = len(context.graph.avals[node.outputs[0]].shape)
    if array.ndim == 0 or array.size == 0:
        return replace(like, low=np.full_like(like.low, array), high=np.full_like(like.high, array))
    if array.ndim != rank:
        return None
    others = tuple(axis for axis in range(rank) if axis != like.axis)
    low, high = array.min(axis=others), array.max(axis=others)
    return replace(like, low=np.broadcast_to(low, like.low.shape), high=np.broadcast_to(high, like.high.shape))


Interval = tuple[Array, Array]


def _binary(function: Callable[[Interval, Interval], Interval], *, rounds: bool = True) -> Rule:
    """The rule of an operation on two operands, from the function of their ranges."""

    def rule(context: Context, node: Node, found: Mapping[int, Bounds]) -> Bounds | None:
        known = [found.get(value) for value in node.inputs]
        like = next((bounds for bounds in known if bounds is not None), None)
        if like is None:
            return None
        sides = [_operand(context, node, operand, like, found) for operand in (0, 1)]
        if sides[0] is None or sides[1] is None:
            return None
        low, high = function((sides[0].low, sides[0].high), (sides[1].low, sides[1].high))
        eps = context.rounding(node.outputs[0]) if rounds else 0.0
        return Bounds(like.axis, low - eps * np.abs(low), high + eps * np.abs(high))

    return rule


def _mul(a: Interval, b: Interval) -> Interval:
    corners = np.stack([_product(x, y) if np.isfinite(x).all() else _product(y, x) for x in a for y in b])
    return corners.min(axis=0), corners.max(axis=0)


def _div(a: Interval, b: Interval) -> Interval:
    spans_zero = (b[0] <= 0) & (b[1] >= 0)
    inverse = (np.where(spans_zero, -np.inf, 1 / b[1]), np.where(spans_zero, np.inf, 1 / b[0]))
    return _mul(a, inverse)


def _moving(context: Context, node: Node, found: Mapping[int, Bounds]) -> Bounds | None:
    """An operation that moves numbers only: the channels go along."""
    bounds = found.get(node.inputs[0])
    if bounds is None:
        return None
    place = moved(context.graph, context.batch, node, Moved(bounds.axis, 1))
    if place is None:
        return None
    return Bounds(place.axis, np.tile(bounds.low, place.repeat), np.tile(bounds.high, place.repeat))


def _cast(context: Context, node: Node, found: Mapping[int, Bounds]) -> Bounds | None:
    bounds = found.get(node.inputs[0])
    if bounds is None or not is_float(context.graph.avals[node.outputs[0]].dtype):
        return None
    eps = context.rounding(node.outputs[0])
    return replace(bounds, low=bounds.low - eps * np.abs(bounds.low), high=bounds.high + eps * np.abs(bounds.high))


def _sum(context: Context, node: Node, found: Mapping[int, Bounds]) -> Bounds | None:
    """A sum of n numbers lies between n times their least and n times their largest."""
    bounds = _moving(context, node, found)
    if bounds is None:
        return None
    if node.name == "reduce_sum":
        shape = context.graph.avals[node.inputs[0]].shape
        count, padded = int(np.prod([shape[axis] for axis in node.params["axes"]])), False
    else:
        count = int(np.prod(node.params["window_dimensions"]))
        padded = any(side > 0 for pair in node.params["padding"] for side in pair)
    low, high = count * bounds.low, count * bounds.high
    if padded:
        low, high = np.minimum(low, 0), np.maximum(high, 0)
    error = count * context.rounding(node.outputs[0]) * np.maximum(np.abs(low), np.abs(high))
    return replace(bounds, low=low - error, high=high + error)


def _pad(context: Context, node: Node, found: Mapping[int, Bounds]) -> Bounds | None:
    bounds = _moving(context, node, found)
    if bounds is None or node.inputs[1] not in context.constants:
        return None
    value = float(context.constants.array(node.inputs[1]))
    return replace(bounds, low=np.minimum(bounds.low, value), high=np.maximum(bounds.high, value))


def _neg(context: Context, node: Node, found: Mapping[int, Bounds]) -> Bounds | None:
    bounds = found.get(node.inputs[0])
    return None if bounds is None else replace(bounds, low=-bounds.high, high=-bounds.low)


# primitive -> its rule; alphabetical.
RULES: Mapping[str, Rule] = {
    "add": _binary(lambda a, b: (a[0] + b[0], a[1] + b[1])),
    "add_any": _binary(lambda a, b: (a[0] + b[0], a[1] + b[1])),
    "broadcast_in_dim": _moving,
    "conv_general_dilated": _conv,
    "convert_element_type": _cast,
    "copy": _moving,
    "copy_p": _moving,
    "div": _binary(_div),
    "dot_general": _dot,
    "max": _binary(lambda a, b: (np.maximum(a[0], b[0]), np.maximum(a[1], b[1])), rounds=False),
    "min": _binary(lambda a, b: (np.minimum(a[0], b[0]), np.minimum(a[1], b[1])), rounds=False),
    "mul": _binary(_mul),
    "neg": _neg,
    "pad": _pad,
    "reduce_max": _moving,
    "reduce_sum": _sum,
    "reduce_window_max": _moving,
    "reduce_window_sum": _sum,
    "reshape": _moving,
    "squeeze": _moving,
    "stop_gradient": _moving,
    "sub": _binary(lambda a, b: (a[0] - b[1], a[1] - b[0])),
    "transpose": _moving,
}
