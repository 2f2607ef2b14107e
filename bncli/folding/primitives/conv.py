"""Convolutions: they absorb an affine from either side.

Letters: N batch, C input features, O output features, G feature groups; `dimension_numbers` says which
axes are spatial.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from bncli.folding.affine import Affine, Array, compact, spread, varying
from bncli.folding.primitives.primitive import Affines, Move, Op, Params, Primitive, Rules
from bncli.folding.primitives.stuck import Cause, Stuck


def conv_backward(op: Op, outputs: Affines) -> Move | Stuck:
    """conv(x, k)·s + t = conv(x, k·s) + t, with s along the kernel's output axis."""
    affine, numbers = outputs[0], op.params["dimension_numbers"]
    if (stuck := _refuse(op)) is not None:
        return stuck
    out_axis = numbers.out_spec[1]
    if varying(affine.scale) - {out_axis}:
        return Stuck(Cause.SCALE_BY_POSITION)
    scale = _along(affine.scale, numbers.rhs_spec[0], len(op.shapes[1]))
    return Move(weights={1: op.known(1) * scale}, bias=Affine.of_shift(affine.shift))


def conv_forward(op: Op, operands: Affines) -> Move | Stuck:
    """conv(x·s + t, k) = conv(x, k·s) + conv(t, k), with s along the kernel's input axis, group by group.

    conv(t, k) uses the unscaled k. It is one number per channel if no padded zero enters a window. Otherwise it is
    a map: constant in the interior, different at the borders.
    """
    affine, numbers = operands[0], op.params["dimension_numbers"]
    if (stuck := _refuse(op)) is not None:
        return stuck
    if varying(affine.scale) - {numbers.lhs_spec[1]}:
        return Stuck(Cause.SCALE_BY_POSITION)
    kernel = op.known(1)
    scaled = kernel * _input_scale(op, affine.scale)
    return Move(weights={1: scaled}, bias=Affine.of_shift(compact(shift_through(op, affine.shift, kernel))))


def shift_through(op: Op, shift: Array, kernel: Array) -> Array:
    """conv(t, k) for one example, in the layout of the output."""
    numbers = op.params["dimension_numbers"]
    if not shift.any():
        return np.zeros((1,) * len(op.shape))
    spatial = frozenset(numbers.lhs_spec[2:])
    full = spread(shift, op.shapes[0], spatial | {numbers.lhs_spec[1]})
    x = np.transpose(full, (numbers.lhs_spec[0], *numbers.lhs_spec[2:], numbers.lhs_spec[1]))[0]  # [spatial…, C]
    k = np.transpose(kernel, (*numbers.rhs_spec[2:], numbers.rhs_spec[1], numbers.rhs_spec[0]))  # [window…, C/G, O]
    out = _correlate(_pad_and_dilate(x, op.params), k, op)[None]  # [1, spatial…, O]
    order = (numbers.out_spec[0], *numbers.out_spec[2:], numbers.out_spec[1])
    return np.transpose(out, np.argsort(order))


def _refuse(op: Op) -> Stuck | None:
    if op.dynamic != (0,):
        return Stuck(Cause.COMPUTED_KERNEL)
    return Stuck(Cause.BATCH_GROUPS) if op.params["batch_group_count"] != 1 else None


def _along(vector: Array, axis: int, rank: int) -> Array:
    """The vector along one axis of an array of that rank."""
    shape = [1] * rank
    shape[axis] = vector.size
    return vector.reshape(shape)


def _input_scale(op: Op, scale: Array) -> Array:
    """s for every element of the kernel: output feature o of group g reads input features g·C/G … (g+1)·C/G."""
    numbers, groups = op.params["dimension_numbers"], op.params["feature_group_count"]
    in_features, out_features = op.shapes[1][numbers.rhs_spec[1]], op.shapes[1][numbers.rhs_spec[0]]
    by_group = np.broadcast_to(scale.reshape(-1), (groups * in_features,)).reshape(groups, in_features)
    table = np.repeat(by_group, out_features // groups, axis=0)  # [O, C/G]
    shape = [1] * len(op.shapes[1])
    shape[numbers.rhs_spec[0]], shape[numbers.rhs_spec[1]] = out_features, in_features
    return (table if numbers.rhs_spec[0] < numbers.rhs_spec[1] else table.T).reshape(shape)


def _pad_and_dilate(x: Array, params: Params) -> Array:
    """x with the zeros of `lhs_dilation` between its elements and of `padding` around them; negative padding crops."""
    for axis, (dilation, (low, high)) in enumerate(zip(params["lhs_dilation"], params["padding"], strict=True)):
        length = (x.shape[axis] - 1) * dilation + 1
        dilated = np.zeros((*x.shape[:axis], length, *x.shape[axis + 1 :]))
        dilated[(slice(None),) * axis + (slice(None, None, dilation),)] = x
        widths = [(0, 0)] * x.ndim
        widths[axis] = (max(low, 0), max(high, 0))
        x = np.pad(dilated, widths)
        x = x[(slice(None),) * axis + (slice(max(-low, 0), x.shape[axis] - max(-high, 0)),)]
    return x


def _correlate(x: Array, kernel: Array, op: Op) -> Array:
    """Σ over window positions of x[position·stride + offset·dilation] · k[offset]; x is [spatial…, C], padded."""
    numbers, groups = op.params["dimension_numbers"], op.params["feature_group_count"]
    sizes = tuple(op.shape[axis] for axis in numbers.out_spec[2:])
    out_features = kernel.shape[-1]
    total = np.zeros((*sizes, groups, out_features // groups))
    grouped = kernel.reshape(*kernel.shape[:-1], groups, out_features // groups)  # [window…, C/G, G, O/G]
    strides, dilations = op.params["window_strides"], op.params["rhs_dilation"]
    for offset in product(*map(range, kernel.shape[:-2])):
        starts = [o * dilation for o, dilation in zip(offset, dilations, strict=True)]
        window = tuple(
            slice(start, start + (size - 1) * stride + 1, stride)
            for start, size, stride in zip(starts, sizes, strides, strict=True)
        )
        patch = x[window].reshape(*sizes, groups, -1)  # [spatial…, G, C/G]
        total += np.einsum("...gc,cgo->...go", patch, grouped[offset], optimize=True)
    return total.reshape(*sizes, out_features)


CONV = Primitive(
    names=("conv_general_dilated",),
    words="a convolution",
    rules=Rules(conv_backward, conv_forward),
    reads=frozenset(
        {
            "batch_group_count",
            "dimension_numbers",
            "feature_group_count",
            "lhs_dilation",
            "padding",
            "rhs_dilation",
            "window_strides",
        }
    ),
    ignores=frozenset({"out_sharding", "precision", "preferred_element_type"}),
)
