"""Operations that move values: shapes, axes, slices, padding."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from bncli.folding.export.onnx.builder import Builder, Dim, Layout, Shape, is_symbolic
from bncli.folding.primitives.layout import reshape_order
from bncli.folding.trace.graph import Node

TO_THE_END = np.iinfo(np.int64).max
TO_THE_START = np.iinfo(np.int64).min


def transpose(builder: Builder, node: Node) -> None:
    """Only the order of the axes changes; a Transpose is written if a reader needs it."""
    permutation = node.params["permutation"]
    value = builder.values[node.inputs[0]]
    layout = tuple(permutation.index(axis) for axis in value.layout)
    builder.put(node.outputs[0], value.name, layout, tuple(value.shape[axis] for axis in permutation))


def broadcast_in_dim(builder: Builder, node: Node) -> None:
    """New leading axes of length 1; the readers broadcast the value."""
    value, axes = builder.values[node.inputs[0]], node.params["broadcast_dimensions"]
    rank = len(node.params["shape"])
    new = tuple(axis for axis in range(rank) if axis not in axes)
    name = builder.emit("Unsqueeze", value.name, builder.integers(*range(len(new)))) if new else value.name
    shape: list[Dim] = [1] * rank
    for axis, dim in zip(axes, value.shape, strict=True):
        shape[axis] = dim
    builder.put(node.outputs[0], name, (*new, *(axes[axis] for axis in value.layout)), tuple(shape))


def squeeze(builder: Builder, node: Node) -> None:
    """Remove axes of length 1."""
    value = builder.values[node.inputs[0]]
    remove(builder, node.outputs[0], value.name, value.layout, node.params["dimensions"], value.shape)


def remove(
    builder: Builder, output: int, name: str, layout: Layout, axes: Sequence[int], shape: Shape | None = None
) -> None:
    """Put `name` without these axes, each of length 1, as the output."""
    if axes:
        name = builder.emit("Squeeze", name, builder.integers(*sorted(layout.index(axis) for axis in axes)))
    kept = None if shape is None else tuple(dim for axis, dim in enumerate(shape) if axis not in axes)
    builder.put(output, name, without(layout, axes), kept)


def without(layout: Layout, axes: Sequence[int]) -> Layout:
    """The layout that is left after removing some axes."""
    left = [axis for axis in range(len(layout)) if axis not in axes]
    return tuple(left.index(axis) for axis in layout if axis not in axes)


def reshape(builder: Builder, node: Node) -> None:
    """Each group of axes that stays together is split or merged in place; otherwise in the traced layout.

    A reshape with `dimensions` transposes its operand first, which only renames the axes of the layout.
    """
    source, output = node.inputs[0], node.outputs[0]
    read = reshape_order(node.params, len(builder.shape(source)))
    before, after = tuple(builder.shape(source)[axis] for axis in read), builder.shape(output)
    groups = axis_groups(before, after)
    layout = tuple(read.index(axis) for axis in builder.values[source].layout)
    order = None if groups is None else _order(groups, layout)
    if groups is None or order is None:
        layout, out_layout = tuple(range(len(before))), tuple(range(len(after)))
    else:
        out_layout = tuple(axis for group in order for axis in groups[group][1])
    target = [-1 if is_symbolic((dim,)) else dim for dim in (after[axis] for axis in out_layout)]
    if target.count(-1) > 1:
        builder.refuse(node, f"two axes of {after} are symbolic")
    name = builder.whole(source, tuple(read[axis] for axis in layout))
    builder.put(output, builder.emit("Reshape", name, builder.integers(*target)), out_layout)


def axis_groups(before: Shape, after: Shape) -> list[tuple[tuple[int, ...], tuple[int, ...]]] | None:
    """The smallest groups of axes, in order, with the same elements before and after; None for empty arrays."""
    if 0 in before:
        return None
    groups, i, j = [], 0, 0
    while i < len(before) or j < len(after):
        first, last = [i], [j]
        i, j = i + 1, j + 1
        while first[-1] >= len(before) or last[-1] >= len(after) or _size(before, first) != _size(after, last):
            if i < len(before) and (j >= len(after) or _smaller(_size(before, first), _size(after, last))):
                first.append(i)
                i += 1
            elif j < len(after):
                last.append(j)
                j += 1
            else:
                break
        groups.append((tuple(a for a in first if a < len(before)), tuple(a for a in last if a < len(after))))
    return groups


def _size(shape: Shape, axes: Sequence[int]) -> Dim:
    return prod([shape[axis] for axis in axes if axis < len(shape)], start=1)


def _smaller(a: Dim, b: Dim) -> bool:
    try:
        return bool(a < b)
    except Exception:  # symbols that cannot be compared
        return False


def _order(groups: Sequence[tuple[tuple[int, ...], tuple[int, ...]]], layout: Layout) -> list[int] | None:
    """The order of the groups in the layout; None if one is torn apart or reordered."""
    order = []
    place = 0
    starts = {group[0][0]: number for number, group in enumerate(groups) if group[0]}
    while place < len(layout):
        number = starts.get(layout[place])
        if number is None or layout[place : place + len(groups[number][0])] != groups[number][0]:
            return None
        order.append(number)
        place += len(groups[number][0])
    return order + [number for number, group in enumerate(groups) if not group[0]]


def concatenate(builder: Builder, node: Node) -> None:
    """Join values along an axis."""
    layout = builder.layout(node.inputs)
    names = [builder.whole(value, layout) for value in node.inputs]
    name = builder.emit("Concat", *names, axis=layout.index(node.params["dimension"]))
    builder.put(node.outputs[0], name, layout)


def slice_(builder: Builder, node: Node) -> None:
    """Cut from start to limit, in strides."""
    starts, limits = node.params["start_indices"], node.params["limit_indices"]
    strides = node.params["strides"] or (1,) * len(starts)
    name, layout = sliced(builder, node, starts, limits, strides)
    builder.put(node.outputs[0], name, layout)


def rev(builder: Builder, node: Node) -> None:
    """Reverse the order along some axes."""
    layout = builder.values[node.inputs[0]].layout
    axes = node.params["dimensions"]
    parts = ((-1,) * len(axes), (TO_THE_START,) * len(axes), [layout.index(axis) for axis in axes], (-1,) * len(axes))
    name = builder.whole(node.inputs[0], layout)
    builder.put(node.outputs[0], builder.emit("Slice", name, *(builder.integers(*part) for part in parts)), layout)


def tile(builder: Builder, node: Node) -> None:
    """Repeat the value along its axes."""
    layout = builder.layout(node.inputs)
    repeats = builder.integers(*(node.params["reps"][axis] for axis in layout))
    builder.put(node.outputs[0], builder.emit("Tile", builder.whole(node.inputs[0], layout), repeats), layout)


def split(builder: Builder, node: Node) -> None:
    """Cut into parts along one axis."""
    axis, start = node.params["axis"], 0
    shape = builder.shape(node.inputs[0])
    for output, size in zip(node.outputs, map(int, node.params["sizes"]), strict=True):
        starts, limits = [0] * len(shape), list(shape)
        starts[axis], limits[axis] = start, start + size
        name, layout = sliced(builder, node, starts, limits, (1,) * len(shape))
        builder.put(output, name, layout)
        start += size


def sliced(
    builder: Builder, node: Node, starts: Sequence[int], limits: Sequence[Dim], strides: Sequence[int]
) -> tuple[str, Layout]:
    """Name and layout of the node's first operand, sliced along the axes where the slice is not everything."""
    value = node.inputs[0]
    layout, shape = builder.values[value].layout, builder.shape(value)
    ranges = list(zip(starts, limits, strides, shape, strict=True))
    cut = [axis for axis, (start, limit, stride, dim) in enumerate(ranges) if (start, limit, stride) != (0, dim, 1)]
    name = builder.whole(value, layout)
    if not cut:
        return name, layout
    if any(is_symbolic((limits[axis],)) for axis in cut):
        builder.refuse(node, "it slices the batch axis")
    parts = (
        [starts[a] for a in cut],
        [limits[a] for a in cut],
        [layout.index(a) for a in cut],
        [strides[a] for a in cut],
    )
    return builder.emit("Slice", name, *(builder.integers(*part) for part in parts)), layout


def pad(builder: Builder, node: Node) -> None:
    """Pad with a constant; negative padding cuts."""
    value, filler = node.inputs
    low, high, interior = zip(*node.params["padding_config"], strict=True)
    if any(interior) or builder.scalar(filler) is None:
        builder.refuse(node, "it pads between elements" if any(interior) else "its padding value is not constant")
    layout = builder.layout([value])
    pads = builder.integers(*(low[axis] for axis in layout), *(high[axis] for axis in layout))
    constant = builder.constant(builder.array(filler).reshape(()), filler)
    builder.put(node.outputs[0], builder.emit("Pad", builder.whole(value, layout), pads, constant), layout)
