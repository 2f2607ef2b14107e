"""Operations that only move elements: an affine commutes with them, its arrays moved in the same way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import prod
from operator import mul

import numpy as np

from bncli.folding.affine import Affine, Array, compact, varying
from bncli.folding.primitives.rule import Affines, Move, Op, RulePair, Stuck

# (array, op, what fills elements that the operation drops) -> the array on the other side
Carry = Callable[[Array, Op, float], Array | Stuck]


@dataclass(frozen=True)
class Layout:
    """How an array moves with the data: `down` from operand to output, `up` from output to operand."""

    down: Carry
    up: Carry


def commuting(layout: Layout) -> RulePair:
    """The rules of a layout: f(x·s + t) = f(x)·f(s) + f(t)."""

    def backward(op: Op, outputs: Affines) -> Move | Stuck:
        return _carried(layout.up, op, outputs[0])

    def forward(op: Op, operands: Affines) -> Move | Stuck:
        return _carried(layout.down, op, operands[0])

    return RulePair(backward, forward)


def _carried(carry: Carry, op: Op, affine: Affine) -> Move | Stuck:
    scale, shift = carry(affine.scale, op, 1.0), carry(affine.shift, op, 0.0)
    if isinstance(scale, Stuck):
        return scale
    return shift if isinstance(shift, Stuck) else Move(passed={0: Affine(compact(scale), compact(shift))})


def _barrier_backward(op: Op, outputs: Affines) -> Move | Stuck:
    """barrier(a, b)·s = barrier(a·s, b): every output is the operand of its position."""
    if not set(outputs) <= set(op.dynamic):
        return Stuck("it is a constant behind an optimization barrier")
    return Move(passed=outputs)


def _barrier_forward(op: Op, operands: Affines) -> Move | Stuck:
    """barrier(a·s + t, b) = barrier(a, b) with its first output ·s + t."""
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
        return Stuck("it differs along an axis that a broadcast makes")
    return array.reshape([array.shape[axis] for axis in kept])


def _slice_down(array: Array, op: Op, fill: float) -> Array:
    return array[_slices(array, op)]


def _slice_up(array: Array, op: Op, fill: float) -> Array:
    varies = varying(array)
    full = np.full([size if axis in varies else 1 for axis, size in enumerate(op.shapes[0])], fill)
    full[_slices(full, op)] = array
    return full


def _slices(array: Array, op: Op) -> tuple[slice, ...]:
    """The slice of each axis; an axis of length 1 is constant along, so it is taken whole."""
    starts, limits = op.params["start_indices"], op.params["limit_indices"]
    strides = op.params["strides"] or (1,) * len(starts)
    return tuple(
        slice(start, limit, stride) if size > 1 else slice(None)
        for size, start, limit, stride in zip(array.shape, starts, limits, strides, strict=True)
    )


def _reshape_down(array: Array, op: Op, fill: float) -> Array | Stuck:
    return reshaped(array, op.shapes[0], op.shape, op.batch[0], op.out_batch)


def _reshape_up(array: Array, op: Op, fill: float) -> Array | Stuck:
    return reshaped(array, op.shape, op.shapes[0], op.out_batch, op.batch[0])


def reshaped(
    array: Array,
    shape: tuple[int, ...],
    new_shape: tuple[int, ...],
    batch: frozenset[int],
    new_batch: frozenset[int],
) -> Array | Stuck:
    """An array that lies along axes of `shape`, laid along the axes of `new_shape` that hold the same elements.

    The axes fall into groups of equal products, `[B | H W C] -> [B | H·W·C]`. Within a group the array is either
    constant, and stays so, or repeated to the group's full length.
    """
    spread_shape: list[int] = []
    out_shape: list[int] = []
    for ins, outs in factor_groups(shape, new_shape):
        constant = all(array.shape[axis] == 1 for axis in ins)
        if not constant and (batch.intersection(ins) or new_batch.intersection(outs)):
            return Stuck("its channels are merged with the batch by a reshape")
        spread_shape += [1 if constant else shape[axis] for axis in ins]
        out_shape += [1 if constant else new_shape[axis] for axis in outs]
    return np.broadcast_to(array, spread_shape).reshape(out_shape)


def factor_groups(shape: tuple[int, ...], new_shape: tuple[int, ...]) -> list[tuple[range, range]]:
    """The finest split of both shapes into runs of axes with equal products."""
    ends = {product: end for end, product in enumerate(accumulate(shape, mul, initial=1))}
    new_ends = {product: end for end, product in enumerate(accumulate(new_shape, mul, initial=1))}
    # In the order of the axes, which is that of the products; asking which of two is less, `b` or 1, has no answer.
    cuts = [product for product in ends if product in new_ends] if prod(shape) else []
    pairs = [(0, 0)] + [(ends[cut], new_ends[cut]) for cut in cuts]
    pairs[-1] = (len(shape), len(new_shape))
    groups = [(range(a, b), range(c, d)) for (a, c), (b, d) in pairwise(pairs)]
    return [group for group in groups if group[0] or group[1]] or [(range(len(shape)), range(len(new_shape)))]


BARRIER = RulePair(_barrier_backward, _barrier_forward)
SAME = commuting(Layout(_same, _same))
BROADCAST = commuting(Layout(_broadcast_down, _broadcast_up))
RESHAPE = commuting(Layout(_reshape_down, _reshape_up))
REV = commuting(Layout(_rev, _rev))
SLICE = commuting(Layout(_slice_down, _slice_up))
SQUEEZE = commuting(Layout(_squeeze_down, _squeeze_up))
TRANSPOSE = commuting(Layout(_transpose_down, _transpose_up))
