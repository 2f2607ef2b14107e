"""Pools and reductions: the maximum, the minimum, the sum of some positions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from math import prod

import jax.export
import numpy as np

from bncli.folding.affine import Affine, Array, compact, spread, varying
from bncli.folding.primitives.primitive import Affines, Move, Op, Primitive, Rules, Value
from bncli.folding.primitives.stuck import Cause, Stuck

POSITIONAL_SCALE = Stuck(Cause.SCALE_IN_WINDOW)
POSITIONAL_SHIFT = Stuck(Cause.SHIFT_IN_WINDOW)
OVER_BATCH = Stuck(Cause.POOLED_OVER_BATCH)
WINDOW = frozenset({"base_dilation", "padding", "window_dilation", "window_dimensions", "window_strides"})

AxesOf = Callable[[Op], frozenset[int]]


def window_axes(op: Op) -> frozenset[int]:
    """The axes along which the window is longer than 1, or padded, strided or dilated."""
    names = ("window_dimensions", "window_strides", "base_dilation", "window_dilation")
    idle = zip(*(op.params[name] for name in names), op.params["padding"], strict=True)
    return frozenset(axis for axis, settings in enumerate(idle) if settings != (1, 1, 1, 1, (0, 0)))


def reduced_axes(op: Op) -> frozenset[int]:
    """The axes that a reduction removes."""
    return frozenset(op.params["axes"])


# --- max and min ---------------------------------------------------------------------------------------------------


def extreme_rules(axes_of: AxesOf, *, removes: bool) -> Rules:
    """The rules of a max or min over some axes; `removes` if the output lacks these axes."""

    def backward(op: Op, outputs: Affines) -> Move | Stuck:
        """max(x)·s + t = σ·max(x·|s| + σ·t), σ the sign of s: σ is left behind where some s < 0."""
        affine = outputs[0]
        if not removes and varying(affine.scale) & axes_of(op):
            return POSITIONAL_SCALE
        if not removes and varying(affine.shift) & axes_of(op):
            return POSITIONAL_SHIFT
        sign = np.where(affine.scale < 0, -1.0, 1.0)
        inner = Affine(np.abs(affine.scale), sign * affine.shift)
        return Move(passed={0: _expand(inner, op, removes, axes_of)}, left=_flip(sign))

    def forward(op: Op, operands: Affines) -> Move | Stuck:
        """max(x·s + t) = max(x·σ)·|s| + t, σ the sign of s: σ is left in front where some s < 0."""
        affine = operands[0]
        if varying(affine.scale) & axes_of(op):
            return POSITIONAL_SCALE
        if varying(affine.shift) & axes_of(op):
            return POSITIONAL_SHIFT
        sign = np.where(affine.scale < 0, -1.0, 1.0)
        outer = Affine(np.abs(affine.scale), affine.shift)
        return Move(passed={0: _drop(outer, op, removes, axes_of)}, left=_flip(sign))

    return Rules(backward, forward)


def _flip(sign: Array) -> dict[int, Affine]:
    return {} if np.all(sign == 1) else {0: Affine.of_scale(sign)}


# --- sums ----------------------------------------------------------------------------------------------------------


def reduce_sum_backward(op: Op, outputs: Affines) -> Move | Stuck:
    """(Σ x)·s + t = Σ (x·s + t/n), n the number of summands; t is left behind if n is a symbol."""
    axes = reduced_axes(op)
    if op.batch[0] & axes:
        return OVER_BATCH
    count, affine = prod(op.shapes[0][axis] for axis in axes), outputs[0]
    if jax.export.is_symbolic_dim(count):
        left = {} if affine.is_scale else {0: Affine.of_shift(affine.shift)}
        return Move(passed={0: _expand(Affine.of_scale(affine.scale), op, True, reduced_axes)}, left=left)
    return Move(passed={0: _expand(Affine(affine.scale, affine.shift / count), op, True, reduced_axes)})


def reduce_sum_forward(op: Op, operands: Affines) -> Move | Stuck:
    """Σ (x·s + t) = (Σ x)·s + Σ t."""
    axes, affine = reduced_axes(op), operands[0]
    if op.batch[0] & axes:
        return OVER_BATCH
    if varying(affine.scale) & axes:
        return POSITIONAL_SCALE
    shift = affine.shift if affine.is_scale else spread(affine.shift, op.shapes[0], axes)
    total = shift.sum(axis=tuple(axes))
    return Move(passed={0: Affine(affine.scale.squeeze(tuple(axes)), compact(total))})


def window_sum_backward(op: Op, outputs: Affines) -> Move | Stuck:
    """(Σ x)·s + t = Σ (x·s + u) where a constant u has Σ u = t in every window; else t is left behind the sum.

    A padded window counts zeros, so there Σ u is not the same in every window.
    """
    affine, axes = outputs[0], window_axes(op)
    if varying(affine.scale) & axes:
        return POSITIONAL_SCALE
    counts = window_sum(np.ones((1,) * len(op.shape)), op)
    first = tuple(slice(0, 1) if axis in axes else slice(None) for axis in range(counts.ndim))
    candidate = affine.shift[first] / counts[first] if counts[first].all() else affine.shift[first]
    if np.allclose(candidate * counts, affine.shift, rtol=1e-12, atol=0.0):
        return Move(passed={0: Affine(affine.scale, candidate)})
    return Move(passed={0: Affine.of_scale(affine.scale)}, left={0: Affine.of_shift(affine.shift)})


def window_sum_forward(op: Op, operands: Affines) -> Move | Stuck:
    """Σ (x·s + t) = (Σ x)·s + Σ t; where windows are padded, Σ t is a map."""
    affine = operands[0]
    if varying(affine.scale) & window_axes(op):
        return POSITIONAL_SCALE
    return Move(passed={0: Affine(affine.scale, window_sum(affine.shift, op))})


def window_sum(array: Array, op: Op) -> Array:
    """The sums of the array over every window of the operation, of length 1 along axes where they are all equal."""
    axes = window_axes(op)
    x = _padded(spread(array, op.shapes[0], axes), op)
    sizes = [op.shape[axis] if axis in axes else 1 for axis in range(x.ndim)]
    total = np.zeros([max(size, x.shape[axis]) if axis not in axes else size for axis, size in enumerate(sizes)])
    for offset in product(*map(range, op.params["window_dimensions"])):
        total = total + x[_window(op, offset, axes)]
    return compact(total)


def _window(op: Op, offset: tuple[int, ...], axes: frozenset[int]) -> tuple[slice, ...]:
    """The elements at this offset of the window, one for each output position."""
    strides, dilations = op.params["window_strides"], op.params["window_dilation"]
    starts = [o * dilation for o, dilation in zip(offset, dilations, strict=True)]
    return tuple(
        slice(start, start + (op.shape[axis] - 1) * stride + 1, stride) if axis in axes else slice(None)
        for axis, (start, stride) in enumerate(zip(starts, strides, strict=True))
    )


def _padded(x: Array, op: Op) -> Array:
    """x with the zeros of `base_dilation` between its elements and of `padding` around them."""
    for axis in window_axes(op):
        dilation, (low, high) = op.params["base_dilation"][axis], op.params["padding"][axis]
        length = (x.shape[axis] - 1) * dilation + 1
        wide = np.zeros((*x.shape[:axis], low + length + high, *x.shape[axis + 1 :]))
        wide[(slice(None),) * axis + (slice(low, low + length, dilation),)] = x
        x = wide
    return x


def _expand(affine: Affine, op: Op, removes: bool, axes_of: AxesOf) -> Affine:
    axes = tuple(sorted(axes_of(op))) if removes else ()
    return Affine(np.expand_dims(affine.scale, axes), np.expand_dims(affine.shift, axes))


def _drop(affine: Affine, op: Op, removes: bool, axes_of: AxesOf) -> Affine:
    axes = tuple(axes_of(op)) if removes else ()
    return Affine(affine.scale.squeeze(axes), affine.shift.squeeze(axes))


def _reduction(function: Callable[..., Array]) -> Value:
    return lambda params, operands: np.asarray(function(operands[0], axis=tuple(params["axes"])))


REDUCE_MAX = Primitive(
    names=("reduce_max",),
    words="a max over positions",
    value=_reduction(np.max),
    rules=extreme_rules(reduced_axes, removes=True),
    reads=frozenset({"axes"}),
    ignores=frozenset({"out_sharding"}),
)
REDUCE_MIN = replace(REDUCE_MAX, names=("reduce_min",), words="a min over positions", value=_reduction(np.min))
REDUCE_SUM = Primitive(
    names=("reduce_sum",),
    words="a mean or sum over positions",
    value=_reduction(np.sum),
    rules=Rules(reduce_sum_backward, reduce_sum_forward),
    reads=frozenset({"axes"}),
    ignores=frozenset({"out_sharding"}),
)
WINDOW_EXTREME = Primitive(
    names=("reduce_window_max", "reduce_window_min"),
    words="a max-pool",
    rules=extreme_rules(window_axes, removes=False),
    reads=WINDOW,
)
WINDOW_SUM = Primitive(
    names=("reduce_window_sum",),
    words="an average pool",
    rules=Rules(window_sum_backward, window_sum_forward),
    reads=WINDOW,
)
