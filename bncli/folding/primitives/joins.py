"""Operations that put values side by side or cut them apart: pad, concatenate, split."""

from __future__ import annotations

import numpy as np

from bncli.folding.affine import Affine, Array, compact, spread, varying
from bncli.folding.primitives.primitive import Affines, Move, Op, Primitive, Rules
from bncli.folding.primitives.stuck import Cause, Stuck

# --- pad -----------------------------------------------------------------------------------------------------------


def pad_backward(op: Op, outputs: Affines) -> Move | Stuck:
    """pad(x, 0)·s + t = pad(x·s, 0) + t: the scale moves on, the shift is left behind the border."""
    affine = outputs[0]
    if (stuck := _refuse_pad(op, affine)) is not None:
        return stuck
    if op.known(1) != 0 and not affine.is_identity:
        return Stuck(Cause.PADDED_WITH_NONZERO)
    left = {} if affine.is_scale else {0: Affine.of_shift(affine.shift)}
    return Move(passed={0: Affine.of_scale(affine.scale)}, left=left)


def pad_forward(op: Op, operands: Affines) -> Move | Stuck:
    """pad(x·s + t, p) = pad(x, p)·s + T, with T = t inside and p − p·s on the border."""
    affine = operands[0]
    if (stuck := _refuse_pad(op, affine)) is not None:
        return stuck
    value = float(op.known(1))
    if not np.isfinite(value):
        return Stuck(Cause.PADDED_WITH_INFINITY)
    border = value - value * affine.scale
    axes = frozenset(axis for axis, config in enumerate(op.params["padding_config"]) if config != (0, 0, 0))
    return Move(passed={0: Affine(affine.scale, compact(_padded(affine.shift, border, op, axes)))})


def _refuse_pad(op: Op, affine: Affine) -> Stuck | None:
    if op.dynamic != (0,):
        return Stuck(Cause.PADDED_WITH_COMPUTED)
    padded = {axis for axis, config in enumerate(op.params["padding_config"]) if config != (0, 0, 0)}
    return Stuck(Cause.SCALE_ALONG_PADDING) if varying(affine.scale) & padded else None


def _padded(shift: Array, border: Array, op: Op, axes: frozenset[int]) -> Array:
    """`shift` at the positions of x and `border` at those of the padding; negative widths crop."""
    x = spread(shift, op.shapes[0], axes)
    inside = np.ones([x.shape[axis] if axis in axes else 1 for axis in range(x.ndim)], bool)
    for axis in axes:
        x = _pad_axis(x, axis, op.params["padding_config"][axis])
        inside = _pad_axis(inside, axis, op.params["padding_config"][axis])
    return np.where(inside, x, border)


def _pad_axis(x: np.ndarray, axis: int, config: tuple[int, int, int]) -> np.ndarray:
    low, high, interior = config
    length = (x.shape[axis] - 1) * (interior + 1) + 1
    wide = np.zeros((*x.shape[:axis], max(low, 0) + length + max(high, 0), *x.shape[axis + 1 :]), x.dtype)
    wide[(slice(None),) * axis + (slice(max(low, 0), max(low, 0) + length, interior + 1),)] = x
    return wide[(slice(None),) * axis + (slice(max(-low, 0), wide.shape[axis] - max(-high, 0)),)]


# --- concatenate and split -----------------------------------------------------------------------------------------


def concatenate_backward(op: Op, outputs: Affines) -> Move | Stuck:
    """[a, b]·s + t = [a·s₁ + t₁, b·s₂ + t₂]: each part takes its own segment."""
    affine, axis = outputs[0], op.params["dimension"]
    lengths = [shape[axis] for shape in op.shapes]
    scales, shifts = segments(affine.scale, axis, lengths), segments(affine.shift, axis, lengths)
    parts = [Affine(scale, shift) for scale, shift in zip(scales, shifts, strict=True)]
    passed = {index: parts[index] for index in op.dynamic}
    constant = {index: parts[index] for index in range(len(parts)) if index not in op.dynamic}
    weights = {index: op.known(index) * part.scale + part.shift for index, part in constant.items()}
    return Move(passed=passed, weights=weights)


def concatenate_forward(op: Op, operands: Affines) -> Move | Stuck:
    """[a·s + t, b] = [a, b]·[s, 1] + [t, 0]."""
    axis = op.params["dimension"]
    lengths = [shape[axis] for shape in op.shapes]
    parts = [operands.get(index, Affine.identity(len(op.shape))) for index in range(len(lengths))]
    scale = joined([part.scale for part in parts], axis, lengths)
    shift = joined([part.shift for part in parts], axis, lengths)
    return Move(passed={0: Affine(scale, shift)})


def split_backward(op: Op, outputs: Affines) -> Move | Stuck:
    """[x₁·s₁ + t₁, x₂·s₂ + t₂] = split(x·[s₁, s₂] + [t₁, t₂])."""
    axis, lengths = op.params["axis"], op.params["sizes"]
    parts = [outputs.get(index, Affine.identity(len(op.shape))) for index in range(len(lengths))]
    scale = joined([part.scale for part in parts], axis, lengths)
    shift = joined([part.shift for part in parts], axis, lengths)
    return Move(passed={0: Affine(scale, shift)})


def split_forward(op: Op, operands: Affines) -> Move | Stuck:
    """split(x·s + t) = [x₁·s₁ + t₁, x₂·s₂ + t₂]: each part has its own segment."""
    axis, lengths = op.params["axis"], op.params["sizes"]
    pairs = zip(segments(operands[0].scale, axis, lengths), segments(operands[0].shift, axis, lengths), strict=True)
    return Move(passed={index: Affine(scale, shift) for index, (scale, shift) in enumerate(pairs)})


def segments(array: Array, axis: int, lengths: list[int]) -> list[Array]:
    """The array cut along the axis, or repeated if it is constant along it."""
    if array.shape[axis] == 1:
        return [array] * len(lengths)
    return [compact(part) for part in np.split(array, np.cumsum(lengths)[:-1], axis=axis)]


def joined(arrays: list[Array], axis: int, lengths: list[int]) -> Array:
    """The arrays side by side along the axis, each at its full length there; the inverse of `segments`."""
    if all(array.size == 1 and np.all(array == arrays[0]) for array in arrays):
        return arrays[0]
    rank = arrays[0].ndim
    common = np.broadcast_shapes(*([1 if a == axis else array.shape[a] for a in range(rank)] for array in arrays))
    full = [
        np.broadcast_to(array, (*common[:axis], length, *common[axis + 1 :]))
        for array, length in zip(arrays, lengths, strict=True)
    ]
    return compact(np.concatenate(full, axis=axis))


CONCATENATE = Primitive(
    names=("concatenate",),
    words="a concatenation",
    value=lambda params, operands: np.concatenate(operands, axis=params["dimension"]),
    rules=Rules(concatenate_backward, concatenate_forward),
    reads=frozenset({"dimension"}),
)
PAD = Primitive(
    names=("pad",), words="a padding", rules=Rules(pad_backward, pad_forward), reads=frozenset({"padding_config"})
)
SPLIT = Primitive(
    names=("split",), words="a split", rules=Rules(split_backward, split_forward), reads=frozenset({"axis", "sizes"})
)
