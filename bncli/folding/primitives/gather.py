"""Indexing: slices of a value at positions in a table, which may be computed from the input.

JAX writes `x[:, 1:]` as a gather where the batch size is a symbol, `x[:, [2, 0]]` always, and looks embeddings up in
the same way. Letters: the operand's axis a is whole if every slice takes all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jax.lax import GatherScatterMode

from bncli.folding.affine import Affine, Array, compact, varying
from bncli.folding.primitives.primitive import Affines, Move, Op, Primitive, Rules
from bncli.folding.primitives.stuck import Cause, Stuck


@dataclass(frozen=True)
class _Positions:
    """The positions of an operand that its output is made of.

    Args:
        whole: axis of the operand that each slice takes all of -> the output's axis.
        along: any other axis of the operand -> the positions along it, with as many axes as the output; None if they
            are computed from the input, or beyond its end, or along the batch.
    """

    whole: Mapping[int, int]
    along: Mapping[int, np.ndarray | None]


def gather_backward(op: Op, outputs: Affines) -> Move | Stuck:
    """x[i]·s + t = (x·S + T)[i], where S[i] = s and T[i] = t; of a constant table the numbers themselves change."""
    positions, affine = _positions(op), outputs[0]
    if isinstance(positions, Stuck):
        return positions
    scale, shift = (_up(array, op, positions, fill) for array, fill in ((affine.scale, 1.0), (affine.shift, 0.0)))
    if isinstance(scale, Stuck) or isinstance(shift, Stuck):
        return scale if isinstance(scale, Stuck) else Stuck(Cause.BROADCAST_AXIS)
    if 0 not in op.dynamic:
        return Move(weights={0: op.known(0) * scale + shift})
    return Move(passed={0: Affine(compact(scale), compact(shift))})


def gather_forward(op: Op, operands: Affines) -> Move | Stuck:
    """(x·s + t)[i] = x[i]·s[i] + t[i]."""
    positions = _positions(op)
    if isinstance(positions, Stuck):
        return positions
    scale, shift = _down(operands[0].scale, op, positions), _down(operands[0].shift, op, positions)
    if isinstance(scale, Stuck) or isinstance(shift, Stuck):
        return Stuck(Cause.INDEXED_AXIS)
    return Move(passed={0: Affine(compact(scale), compact(shift))})


def _positions(op: Op) -> _Positions | Stuck:
    """The positions; Stuck where a position out of range gives a number that is no element of the operand."""
    numbers, sizes, shape = op.params["dimension_numbers"], op.params["slice_sizes"], op.shapes[0]
    if numbers.operand_batching_dims:
        return Stuck(Cause.INDEXED)
    kept = [axis for axis in range(len(shape)) if axis not in numbers.collapsed_slice_dims]
    places = dict(zip(kept, numbers.offset_dims, strict=True))
    starts = _starts(op)
    whole = {a: place for a, place in places.items() if a not in numbers.start_index_map and sizes[a] == shape[a]}
    along: dict[int, np.ndarray | None] = {}
    for axis in range(len(shape)):
        if axis not in whole:
            along[axis] = None if starts is None else _along(op, starts, axis, places.get(axis))
    are_elements = all(indices is not None for indices in along.values()) or _gives_elements(op)
    return _Positions(whole, along) if are_elements else Stuck(Cause.INDEXED)


def _starts(op: Op) -> np.ndarray | None:
    """The table of positions; None if it is computed from the input, or has one for each example."""
    return None if 1 in op.dynamic or op.batch[1] else op.known(1).astype(np.int64)


def _gives_elements(op: Op) -> bool:
    """True if a position out of range gives the nearest element, or NaN, which stays NaN."""
    filler = op.params["fill_value"]
    return op.params["mode"] != GatherScatterMode.FILL_OR_DROP or filler is None or bool(np.isnan(filler))


def _along(op: Op, starts: np.ndarray, axis: int, place: int | None) -> np.ndarray | None:
    """The positions along one axis of the operand, in the layout of the output; None for a batch axis or beyond it."""
    if axis in op.batch[0]:
        return None
    numbers, rank = op.params["dimension_numbers"], len(op.shape)
    batch = [a for a in range(rank) if a not in numbers.offset_dims]
    first = np.zeros((1,) * rank, np.int64)
    if axis in numbers.start_index_map:
        table = starts[..., numbers.start_index_map.index(axis)]
        lengths = dict(zip(batch, table.shape, strict=True))
        first = table.reshape([lengths.get(a, 1) for a in range(rank)])
    steps = np.arange(op.params["slice_sizes"][axis]).reshape([-1 if a == place else 1 for a in range(rank)])
    indices = first + steps
    return indices if np.all((indices >= 0) & (indices < op.shapes[0][axis])) else None


def _down(array: Array, op: Op, positions: _Positions) -> Array | Stuck:
    """The array beside the output, of length 1 where it is constant."""
    rank = len(op.shape)
    indices = [np.zeros((1,) * rank, np.int64)] * array.ndim
    for axis in varying(array):
        found = _indices(axis, op, positions)
        if found is None:
            return Stuck(Cause.INDEXED_AXIS)
        indices[axis] = found
    return array[tuple(indices)]


def _up(array: Array, op: Op, positions: _Positions, fill: float) -> Array | Stuck:
    """The array beside the operand, `fill` at the positions that nothing takes."""
    varies, rank = varying(array), len(op.shapes[0])
    indices = [np.zeros((1,) * array.ndim, np.int64)] * rank
    for axis in range(rank):
        if positions.whole.get(axis) not in varies and axis in positions.whole:
            continue
        found = _indices(axis, op, positions)
        if found is None:  # at computed positions: nothing may differ along the axes that they make
            continue
        if varying(found) & varies:
            indices[axis] = found
    made = np.full([op.shapes[0][a] if varying(index) else 1 for a, index in enumerate(indices)], fill)
    *spread, full = np.broadcast_arrays(*indices, array)
    made[tuple(spread)] = full
    return made if np.array_equal(made[tuple(spread)], full) else Stuck(Cause.BROADCAST_AXIS)


def _indices(axis: int, op: Op, positions: _Positions) -> np.ndarray | None:
    """The positions along an axis in the layout of the output; None if they are computed from the input."""
    if axis not in positions.whole:
        return positions.along[axis]
    place, size = positions.whole[axis], op.shapes[0][axis]
    return np.arange(size).reshape([size if a == place else 1 for a in range(len(op.shape))])


GATHER = Primitive(
    names=("gather",),
    words="an indexing (gather)",
    rules=Rules(gather_backward, gather_forward),
    reads=frozenset({"dimension_numbers", "fill_value", "mode", "slice_sizes"}),
    ignores=frozenset({"indices_are_sorted", "unique_indices"}),
)
