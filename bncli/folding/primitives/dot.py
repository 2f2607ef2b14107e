"""Matrix products: they absorb an affine along the weight's axes and let one through along the other operand's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bncli.folding.affine import Affine, Array, compact, spread, varying
from bncli.folding.primitives.primitive import Affines, Move, Op, Primitive, Rules
from bncli.folding.primitives.stuck import Cause, Stuck


@dataclass(frozen=True)
class _Axes:
    """The axes of x (the dynamic operand) and w (the constant one), and their places in the output."""

    x: int
    w: int
    contracted: tuple[tuple[int, ...], tuple[int, ...]]  # of x, of w
    batch: tuple[tuple[int, ...], tuple[int, ...]]  # of x, of w; the output's first axes
    free: tuple[tuple[int, ...], tuple[int, ...]]  # of x, of w
    out_free: tuple[tuple[int, ...], tuple[int, ...]]  # of the output, from x, from w

    @classmethod
    def of(cls, op: Op) -> _Axes:
        (x,) = op.dynamic
        contracting, batch = op.params["dimension_numbers"]
        sides = (x, 1 - x)
        free = [
            tuple(a for a in range(len(op.shapes[side])) if a not in (*contracting[side], *batch[side]))
            for side in (0, 1)
        ]
        starts = (len(batch[0]), len(batch[0]) + len(free[0]))
        out_free = [tuple(range(starts[side], starts[side] + len(free[side]))) for side in (0, 1)]
        return cls(
            x=x,
            w=1 - x,
            contracted=(tuple(contracting[x]), tuple(contracting[1 - x])),
            batch=(tuple(batch[x]), tuple(batch[1 - x])),
            free=(free[x], free[1 - x]),
            out_free=(out_free[sides[0]], out_free[sides[1]]),
        )


def dot_backward(op: Op, outputs: Affines) -> Move | Stuck:
    """(x·W)·s + t = x·(W·s) + t, with s along W's free axes.

    Along x's free axes s passes through: (W·x)·s = W·(x·s); t passes where a constant u has W·u = t.
    """
    if len(op.dynamic) != 1:
        return Stuck(Cause.TWO_COMPUTED_FACTORS)
    axes, affine = _Axes.of(op), outputs[0]
    varies = varying(affine.scale)
    if varies.isdisjoint(axes.out_free[0]):
        scale = _moved(affine.scale, _out_to_w(axes), len(op.shapes[axes.w]))
        return Move(weights={axes.w: op.known(axes.w) * scale}, bias=Affine.of_shift(affine.shift))
    if varies <= frozenset(axes.out_free[0]):
        scale = _moved(affine.scale, _out_to_x(axes), len(op.shapes[axes.x]))
        return _pass_up(op, axes, scale, affine.shift)
    return Stuck(Cause.SCALE_ALONG_BOTH_FACTORS)


def dot_forward(op: Op, operands: Affines) -> Move | Stuck:
    """(x·s + t)·W = x·(s·W) + t·W, with s along the contracted axes; the shift uses the unscaled W.

    Along x's free axes s passes through: W·(x·s) = (W·x)·s.
    """
    if len(op.dynamic) != 1:
        return Stuck(Cause.TWO_COMPUTED_FACTORS)
    axes = _Axes.of(op)
    affine, weight = operands[axes.x], op.known(axes.w)
    shift = compact(_shift_through(op, axes, affine.shift, weight))
    varies = varying(affine.scale)
    if varies.isdisjoint(axes.free[0]):
        scale = _moved(affine.scale, _x_to_w(axes), weight.ndim)
        return Move(weights={axes.w: weight * scale}, bias=Affine.of_shift(shift))
    if varies <= frozenset(axes.free[0]):
        scale = _moved(affine.scale, {a: b for b, a in _out_to_x(axes).items()}, len(op.shape))
        return Move(passed={0: Affine(scale, shift)})
    return Stuck(Cause.SCALE_ALONG_BOTH_FACTORS)


def _pass_up(op: Op, axes: _Axes, scale: Array, shift: Array) -> Move:
    """Ask x for the scale, and for the shift too if a constant reproduces it; else leave the shift behind."""
    wanted = _moved(shift, _out_to_x(axes), scale.ndim) if varying(shift) <= frozenset(axes.out_free[0]) else None
    if wanted is not None:
        reached = compact(_shift_through(op, axes, wanted, op.known(axes.w)))
        if np.allclose(reached, shift, rtol=1e-12, atol=1e-12 * np.abs(shift).max(initial=0.0)):
            return Move(passed={axes.x: Affine(scale, wanted)})
    return Move(passed={axes.x: Affine.of_scale(scale)}, left={0: Affine.of_shift(shift)})


def _shift_through(op: Op, axes: _Axes, shift: Array, weight: Array) -> Array:
    """t·W, in the layout of the output; axes of length 1 where t is constant along a free axis."""
    full = spread(shift, op.shapes[axes.x], frozenset(axes.contracted[0] + axes.batch[0]))
    letters = iter(range(full.ndim + weight.ndim))
    x = [next(letters) for _ in range(full.ndim)]
    w = [next(letters) for _ in range(weight.ndim)]
    for mine, theirs in zip(axes.contracted[0] + axes.batch[0], axes.contracted[1] + axes.batch[1], strict=True):
        w[theirs] = x[mine]
    out = [0] * len(op.shape)
    for position, axis in enumerate(axes.batch[0]):
        out[position] = x[axis]
    for side, names in enumerate((x, w)):
        for position, axis in zip(axes.out_free[side], axes.free[side], strict=True):
            out[position] = names[axis]
    return np.asarray(np.einsum(full, x, weight, w, out))


def _out_to_w(axes: _Axes) -> dict[int, int]:
    """Output axis -> axis of w."""
    return dict(enumerate(axes.batch[1])) | dict(zip(axes.out_free[1], axes.free[1], strict=True))


def _out_to_x(axes: _Axes) -> dict[int, int]:
    """Output axis -> axis of x."""
    return dict(enumerate(axes.batch[0])) | dict(zip(axes.out_free[0], axes.free[0], strict=True))


def _x_to_w(axes: _Axes) -> dict[int, int]:
    """Axis of x -> the axis of w it meets."""
    return dict(zip(axes.contracted[0] + axes.batch[0], axes.contracted[1] + axes.batch[1], strict=True))


def _moved(array: Array, mapping: dict[int, int], rank: int) -> Array:
    """The array with each axis at its new place; the axes left out have length 1."""
    kept = sorted((axis for axis in mapping if array.shape[axis] > 1), key=mapping.__getitem__)
    shape = [1] * rank
    for axis in kept:
        shape[mapping[axis]] = array.shape[axis]
    rest = [axis for axis in range(array.ndim) if axis not in kept]
    return np.transpose(array, (*kept, *rest)).reshape(shape)


DOT = Primitive(
    names=("dot_general",),
    words="a matrix product",
    rules=Rules(dot_backward, dot_forward),
    reads=frozenset({"dimension_numbers"}),
    ignores=frozenset({"out_sharding", "precision", "preferred_element_type"}),
)
