"""Operations that only move elements: an affine commutes with them, its arrays moved in the same way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from math import prod
from operator import mul

import numpy as np

from bncli.folding.affine import Affine, Array, compact, varying
from bncli.folding.primitives.primitive import Affines, Move, Op, Params, Primitive, Rules, Shape
from bncli.folding.primitives.stuck import Cause, Stuck

# (array, op, the number for elements that the operation drops) -> the array on the other side
Carry = Callable[[Array, Op, float], Array | Stuck]


@dataclass(frozen=True)
class Layout:
    """The way of an array beside the data: `down` from operand to output, `up` from output to operand."""

    down: Carry
    up: Carry


def commuting(layout: Layout) -> Rules:
    """The rules of a layout: f(x·s + t) = f(x)·f(s) + f(t)."""

    def backward(op: Op, outputs: Affines) -> Move | Stuck:
        return _carried(layout.up, op, outputs[0])

    def forward(op: Op, operands: Affines) -> Move | Stuck:
        return _carried(layout.down, op, operands[0])

    return Rules(backward, forward)


def _carried(carry: Carry, op: Op, affine: Affine) -> Move | Stuck:
    scale, shift = carry(affine.scale, op, 1.0), carry(affine.shift, op, 0.0)
    if isinstance(scale, Stuck):
        return scale
    return shift if isinstance(shift, Stuck) else Move(passed={0: Affine(compact(scale), compact(shift))})


def _barrier_backward(op: Op, outputs: Affines) -> Move | Stuck:
    """barrier(a, b)·s = barrier(a·s, b): each output is the operand in the same position."""
    if not set(outputs) <= set(op.dynamic):
        return Stuck(Cause.BARRIER_CONSTANT)
    return Move(passed=outputs)


def _barrier_forward(op: Op, operands: Affines) -> Move | Stuck:
    """barrier(a·s + t, b) = barrier(a, b) with its first output times s plus t."""
    return Move(passed=operands)


def _same(array: Array, op: Op, fill: float) -> Array:
    return array


def _transpose_down(array: Array, op: Op, fill: float) -> Array:
    return np.transpose(array, op.params["permutation"])


def _transpose_up(array: Array, op: Op, fill: float) -> Array:
    return np.transpose(array, np.argsort(op.params["permutation"]))


def _rev(array: Array, op: Op, fill: float) -> Array:
    return np.flip(array, tuple(op.params["dimensions"]))


def _squeeze_down(array: Array, op: Op, fill: float) -> Array:
    return np.squeeze(array, tuple(op.params["dimensions"]))


def _squeeze_up(array: Array, op: Op, fill: float) -> Array:
    return np.expand_dims(array, tuple(op.params["dimensions"]))


def _broadcast_down(array: Array, op: Op, fill: float) -> Array:
    shape = [1] * len(op.shape)
    for axis, size in zip(op.params["broadcast_dimensions"], array.shape, strict=True):
        shape[axis] = size
    return array.reshape(shape)


def _broadcast_up(array: Array, op: Op, fill: float) -> Array | Stuck:
    kept = op.params["broadcast_dimensions"]
    made = {a for a in range(len(op.shape)) if a not in kept or op.shapes[0][kept.index(a)] != op.shape[a]}
    if varying(array) & made:
        return Stuck(Cause.BROADCAST_AXIS)
    return array.reshape([array.shape[axis] for axis in kept])


def _slice_down(array: Array, op: Op, fill: float) -> Array:
    return array[_slices(array, op)]


def _slice_up(array: Array, op: Op, fill: float) -> Array:
    varies = varying(array)
    full = np.full([size if axis in varies else 1 for axis, size in enumerate(op.shapes[0])], fill)
    full[_slices(full, op)] = array
    return full


def _slices(array: Array, op: Op) -> tuple[slice, ...]:
    """The slice of each axis; an axis of length 1 stands for a constant and is taken whole."""
    starts, limits = op.params["start_indices"], op.params["limit_indices"]
    strides = op.params["strides"] or (1,) * len(starts)
    return tuple(
        slice(start, limit, stride) if size > 1 else slice(None)
        for size, start, limit, stride in zip(array.shape, starts, limits, strides, strict=True)
    )


def _tile_down(array: Array, op: Op, fill: float) -> Array:
    varies = varying(array)
    return np.tile(array, [reps if axis in varies else 1 for axis, reps in enumerate(op.params["reps"])])


def _tile_up(array: Array, op: Op, fill: float) -> Array | Stuck:
    repeated = {axis for axis, reps in enumerate(op.params["reps"]) if reps > 1}
    return Stuck(Cause.BROADCAST_AXIS) if varying(array) & repeated else array


def _reshape_down(array: Array, op: Op, fill: float) -> Array | Stuck:
    order = reshape_order(op.params, array.ndim)
    shape, batch = _permuted(op.shapes[0], op.batch[0], order)
    return reshaped(np.transpose(array, order), shape, op.shape, batch, op.out_batch)


def _reshape_up(array: Array, op: Op, fill: float) -> Array | Stuck:
    order = reshape_order(op.params, len(op.shapes[0]))
    shape, batch = _permuted(op.shapes[0], op.batch[0], order)
    up = reshaped(array, op.shape, shape, op.out_batch, batch)
    return up if isinstance(up, Stuck) else np.transpose(up, np.argsort(order))


def reshape_order(params: Params, rank: int) -> tuple[int, ...]:
    """The order in which a reshape reads the axes of its operand: `dimensions`, or as they are."""
    return tuple(params["dimensions"]) if params["dimensions"] is not None else tuple(range(rank))


def _permuted(shape: Shape, batch: frozenset[int], order: tuple[int, ...]) -> tuple[Shape, frozenset[int]]:
    """The shape and the batch axes after a transpose."""
    return tuple(shape[axis] for axis in order), frozenset(order.index(axis) for axis in batch)


def reshaped(
    array: Array,
    shape: tuple[int, ...],
    new_shape: tuple[int, ...],
    batch: frozenset[int],
    new_batch: frozenset[int],
) -> Array | Stuck:
    """An array along axes of `shape`, moved to the axes of `new_shape` that hold the same elements.

    The axes fall into groups of equal products, `[B | H W C] -> [B | H·W·C]`. Within a group the array is either
    constant and stays so, or is repeated to the group's full length.
    """
    spread_shape: list[int] = []
    out_shape: list[int] = []
    for ins, outs in factor_groups(shape, new_shape):
        constant = all(array.shape[axis] == 1 for axis in ins)
        if not constant and (batch.intersection(ins) or new_batch.intersection(outs)):
            return Stuck(Cause.MERGED_WITH_BATCH)
        spread_shape += [1 if constant else shape[axis] for axis in ins]
        out_shape += [1 if constant else new_shape[axis] for axis in outs]
    return np.broadcast_to(array, spread_shape).reshape(out_shape)


def factor_groups(shape: tuple[int, ...], new_shape: tuple[int, ...]) -> list[tuple[range, range]]:
    """The finest split of both shapes into runs of axes with equal products."""
    ends = {product: end for end, product in enumerate(accumulate(shape, mul, initial=1))}
    new_ends = {product: end for end, product in enumerate(accumulate(new_shape, mul, initial=1))}
    # Products grow with the axes, so this order needs no comparison: a symbolic `b` and 1 have none.
    cuts = [product for product in ends if product in new_ends] if prod(shape) else []
    pairs = [(0, 0)] + [(ends[cut], new_ends[cut]) for cut in cuts]
    pairs[-1] = (len(shape), len(new_shape))
    groups = [(range(a, b), range(c, d)) for (a, c), (b, d) in pairwise(pairs)]
    return [group for group in groups if group[0] or group[1]] or [(range(len(shape)), range(len(new_shape)))]


# --- the same for whole arrays -------------------------------------------------------------------------------------


def _identity(constants: Sequence[Array], position: int) -> Affine:
    return Affine(np.ones(()), np.zeros(()))


def _broadcast(params: Params, operands: Sequence[Array]) -> Array:
    shape = [1] * len(params["shape"])
    for axis, size in zip(params["broadcast_dimensions"], operands[0].shape, strict=True):
        shape[axis] = size
    return np.broadcast_to(operands[0].reshape(shape), params["shape"])


def _reshape(params: Params, operands: Sequence[Array]) -> Array:
    (operand,) = operands
    return np.transpose(operand, reshape_order(params, operand.ndim)).reshape(params["new_sizes"])


def _unreshape(params: Params, array: Array, shape: Shape) -> Array:
    order = reshape_order(params, len(shape))
    return np.transpose(array.reshape([shape[axis] for axis in order]), np.argsort(order))


def _sliced(params: Params, operands: Sequence[Array]) -> Array:
    starts, limits = params["start_indices"], params["limit_indices"]
    strides = params["strides"] or (1,) * len(starts)
    return operands[0][tuple(map(slice, starts, limits, strides))]


def _rounding_backward(op: Op, outputs: Affines) -> Move | Stuck:
    """round(x)·s + t = round(x·s + t), up to the rounding."""
    return Stuck(Cause.COARSE_ROUNDING) if _is_coarse(op) else Move(passed=outputs)


def _rounding_forward(op: Op, operands: Affines) -> Move | Stuck:
    """round(x·s + t) = round(x)·s + t, up to the rounding."""
    return Stuck(Cause.COARSE_ROUNDING) if _is_coarse(op) else Move(passed=operands)


def _is_coarse(op: Op) -> bool:
    """True if fewer digits are left than in bfloat16, or a smaller range than in float16."""
    return bool(op.params["mantissa_bits"] < 7 or op.params["exponent_bits"] < 5)


SAME = commuting(Layout(_same, _same))
BARRIER = Primitive(
    names=("optimization_barrier",), words="an optimization barrier", rules=Rules(_barrier_backward, _barrier_forward)
)
BROADCAST = Primitive(
    names=("broadcast_in_dim",),
    words="a broadcast",
    value=_broadcast,
    rules=commuting(Layout(_broadcast_down, _broadcast_up)),
    reads=frozenset({"broadcast_dimensions", "shape"}),
    ignores=frozenset({"sharding"}),
)
CAST = Primitive(
    names=("convert_element_type",),
    words="a cast",
    value=lambda params, operands: operands[0],
    inverse=lambda params, array, shape: array,
    affine=_identity,
    rules=SAME,
    ignores=frozenset({"new_dtype", "sharding", "weak_type"}),
)
COPY = replace(CAST, names=("copy", "copy_p", "stop_gradient"), words="a copy", ignores=frozenset())
LABEL = Primitive(
    names=("name", "sharding_constraint"),
    words="a label",
    rules=SAME,
    ignores=frozenset({"context_mesh", "layout", "name", "sharding", "unconstrained_dims"}),
)
REDUCE_PRECISION = Primitive(
    names=("reduce_precision",),
    words="a rounding",
    rules=Rules(_rounding_backward, _rounding_forward),
    reads=frozenset({"exponent_bits", "mantissa_bits"}),
)
RESHAPE = Primitive(
    names=("reshape",),
    words="a reshape",
    value=_reshape,
    inverse=_unreshape,
    rules=commuting(Layout(_reshape_down, _reshape_up)),
    reads=frozenset({"dimensions", "new_sizes"}),
    ignores=frozenset({"sharding"}),
)
REV = Primitive(
    names=("rev",),
    words="a reversal",
    value=lambda params, operands: np.flip(operands[0], tuple(params["dimensions"])),
    inverse=lambda params, array, shape: np.flip(array, tuple(params["dimensions"])),
    rules=commuting(Layout(_rev, _rev)),
    reads=frozenset({"dimensions"}),
)
SLICE = Primitive(
    names=("slice",),
    words="a slice",
    value=_sliced,
    rules=commuting(Layout(_slice_down, _slice_up)),
    reads=frozenset({"limit_indices", "start_indices", "strides"}),
)
SQUEEZE = Primitive(
    names=("squeeze",),
    words="a squeeze",
    value=lambda params, operands: np.squeeze(operands[0], tuple(params["dimensions"])),
    inverse=lambda params, array, shape: array.reshape(shape),
    rules=commuting(Layout(_squeeze_down, _squeeze_up)),
    reads=frozenset({"dimensions"}),
)
TILE = Primitive(
    names=("tile",),
    words="a tiling",
    value=lambda params, operands: np.tile(operands[0], params["reps"]),
    rules=commuting(Layout(_tile_down, _tile_up)),
    reads=frozenset({"reps"}),
)
TRANSPOSE = Primitive(
    names=("transpose",),
    words="a transpose",
    value=lambda params, operands: np.transpose(operands[0], params["permutation"]),
    inverse=lambda params, array, shape: np.transpose(array, np.argsort(params["permutation"])),
    rules=commuting(Layout(_transpose_down, _transpose_up)),
    reads=frozenset({"permutation"}),
)
