"""Indexing: elements and slices of a value at positions in a table."""

from __future__ import annotations

import numpy as np
from jax.lax import GatherScatterMode
from onnx import TensorProto

from bncli.folding.affine import compact, varying
from bncli.folding.export.onnx.builder import Builder, is_symbolic
from bncli.folding.export.onnx.layout import remove, sliced
from bncli.folding.trace.constants import is_float
from bncli.folding.trace.graph import Node


def gather(builder: Builder, node: Node) -> None:
    """Elements at constant or computed positions, by the simplest operator that does.

    One Slice, as for x[:, 1:] with a symbolic batch size; one Gather an axis; or a GatherND.
    """
    indices = node.inputs[1]
    if not builder.is_constant(indices):
        write = _elements if _axis_taken(builder, node) is None else _taken
        write(builder, node)
        return
    places = np.broadcast_to(builder.array(indices), builder.shape(indices))
    if places.ndim == 1:
        _one_part(builder, node, places)
    elif not _grid(builder, node, places):
        _elements(builder, node)


def _taken(builder: Builder, node: Node) -> None:
    """The slices of a value along one axis at positions that depend on the input."""
    value, indices = node.inputs
    found = _axis_taken(builder, node)
    assert found is not None, "`gather` has asked"
    axis, batch = found
    size, rank = builder.shape(value)[axis], len(builder.shape(node.outputs[0]))
    name = builder.whole(value, tuple(range(len(builder.shape(value)))))
    places = builder.whole(indices, tuple(range(len(builder.shape(indices)))))
    places = builder.emit("Squeeze", places, builder.integers(-1))
    inside = _clamped(builder, places, np.array(size - 1), indices)
    taken = builder.emit("Gather", name, inside, axis=axis)
    if _fills(builder, node):
        others = builder.integers(*(place for place in range(rank) if place not in batch))
        is_inside = builder.emit("Unsqueeze", builder.emit("Equal", places, inside), others)
        taken = _filled(builder, node, is_inside, taken)
    builder.put(node.outputs[0], taken, tuple(range(rank)))


def _elements(builder: Builder, node: Node) -> None:
    """Elements by a table of their positions along some axes, each row of a batch by its own part of the table."""
    numbers, (value, indices) = node.params["dimension_numbers"], node.inputs
    axes, batched, shape = tuple(numbers.start_index_map), tuple(numbers.operand_batching_dims), builder.shape(value)
    rest = [axis for axis in range(len(shape)) if axis not in (*axes, *batched)]
    collapsed = tuple(sorted(numbers.collapsed_slice_dims))
    if collapsed != tuple(sorted(axes)) or any(node.params["slice_sizes"][axis] != shape[axis] for axis in rest):
        builder.refuse(node, "it gathers slices by an index table")
    if is_symbolic(tuple(shape[axis] for axis in axes)):
        builder.refuse(node, "it gathers along the batch axis")
    rank = len(builder.shape(indices)) - 1
    own = tuple(numbers.start_indices_batching_dims)
    order = (*own, *(axis for axis in range(rank) if axis not in own))
    places = builder.whole(indices, (*order, rank))
    inside = _clamped(builder, places, np.array([shape[axis] - 1 for axis in axes]), indices)
    data = builder.whole(value, (*batched, *axes, *rest))
    positions = builder.emit("Cast", inside, to=TensorProto.INT64)
    taken = builder.emit("GatherND", data, positions, batch_dims=len(batched))
    if _fills(builder, node):
        are_inside = builder.emit("Cast", builder.emit("Equal", places, inside), to=TensorProto.INT32)
        are_inside = builder.emit("ReduceMin", are_inside, builder.integers(-1), keepdims=0)
        is_inside = builder.emit("Cast", are_inside, to=TensorProto.BOOL)
        others = builder.integers(*range(rank, rank + len(rest)))
        is_inside = builder.emit("Unsqueeze", is_inside, others) if rest else is_inside
        taken = _filled(builder, node, is_inside, taken)
    made = [axis for axis in range(len(builder.shape(node.outputs[0]))) if axis not in numbers.offset_dims]
    builder.put(node.outputs[0], taken, (*(made[axis] for axis in order), *numbers.offset_dims))


def _clamped(builder: Builder, places: str, last: np.ndarray, indices: int) -> str:
    """The positions, those out of range replaced by the nearest."""
    dtype = builder.graph.avals[indices].dtype
    first, end = builder.tensor(np.zeros_like(last, dtype)), builder.tensor(last.astype(dtype))
    return builder.emit("Min", builder.emit("Max", places, first), end)


def _fills(builder: Builder, node: Node) -> bool:
    """True if a number takes the place of an element out of range; else it is the nearest element.

    Raises:
        FoldError: there is no such number.
    """
    if node.params.get("mode") != GatherScatterMode.FILL_OR_DROP:
        return False
    if not is_float(builder.graph.avals[node.outputs[0]].dtype) and node.params.get("fill_value") is None:
        builder.refuse(node, "its indices depend on the input and may be out of range")
    return True


def _filled(builder: Builder, node: Node, is_inside: str, taken: str) -> str:
    """The elements, and the number in the place of those out of range: NaN if JAX names none."""
    filler = node.params.get("fill_value")
    number = np.asarray(np.nan if filler is None else float(filler))
    return builder.emit("Where", is_inside, taken, builder.constant(number, node.outputs[0]))


def _axis_taken(builder: Builder, node: Node) -> tuple[int, tuple[int, ...]] | None:
    """The axis of a value that whole slices are taken along, and the axes of the result that the positions make.

    None if the gather is of another kind.
    """
    numbers, shape = node.params["dimension_numbers"], builder.shape(node.inputs[0])
    axes = tuple(numbers.start_index_map)
    batch = tuple(a for a in range(len(builder.shape(node.outputs[0]))) if a not in numbers.offset_dims)
    whole = all(node.params["slice_sizes"][axis] == size for axis, size in enumerate(shape) if axis not in axes)
    is_take = len(axes) == 1 and whole and tuple(numbers.collapsed_slice_dims) == axes
    if not is_take or numbers.operand_batching_dims or batch != tuple(range(axes[0], axes[0] + len(batch))):
        return None
    return None if is_symbolic((shape[axes[0]],)) else (axes[0], batch)


def _one_part(builder: Builder, node: Node, place: np.ndarray) -> None:
    numbers, shape = node.params["dimension_numbers"], builder.shape(node.inputs[0])
    collapsed, sizes = tuple(numbers.collapsed_slice_dims), node.params["slice_sizes"]
    starts = [0] * len(shape)
    for axis, start in zip(numbers.start_index_map, place, strict=True):
        starts[axis] = int(start)
    limits = [s if is_symbolic((s,)) else start + s for start, s in zip(starts, sizes, strict=True)]
    inside = [is_symbolic((s,)) or 0 <= a <= b <= s for a, b, s in zip(starts, limits, shape, strict=True)]
    if not all(inside):
        builder.refuse(node, "its indices are out of range")
    name, layout = sliced(builder, node, starts, limits, (1,) * len(shape))
    remove(builder, node.outputs[0], name, layout, collapsed)


def _grid(builder: Builder, node: Node, places: np.ndarray) -> bool:
    """x[:, rows][:, :, columns]: one Gather an axis, its indices a vector along one axis of the table.

    False if the gather is of another kind.
    """
    numbers, value = node.params["dimension_numbers"], node.inputs[0]
    axes, shape = tuple(numbers.start_index_map), builder.shape(value)
    rest = [axis for axis in range(len(shape)) if axis not in axes]
    if tuple(numbers.collapsed_slice_dims) != axes or numbers.operand_batching_dims:
        return False
    if any(node.params["slice_sizes"][axis] != shape[axis] for axis in rest):
        return False
    columns = [_along_one_axis(places[..., number]) for number in range(len(axes))]
    if sorted(along for along, _ in columns) != list(range(places.ndim - 1)):
        return False
    layout = builder.layout([value])
    name = builder.whole(value, layout)
    picked = [axis for axis in range(len(builder.shape(node.outputs[0]))) if axis not in numbers.offset_dims]
    target = dict(zip(rest, numbers.offset_dims, strict=True))
    for axis, (along, column) in zip(axes, columns, strict=True):
        if column.min(initial=0) < 0 or column.max(initial=0) >= shape[axis]:
            builder.refuse(node, "its indices are out of range")
        name = builder.emit("Gather", name, builder.tensor(column), axis=layout.index(axis))
        target[axis] = picked[along]
    builder.put(node.outputs[0], name, tuple(target[axis] for axis in layout))
    return True


def _along_one_axis(table: np.ndarray) -> tuple[int, np.ndarray]:
    """The axis along which a table varies, and its values along it; −1 if it varies along several."""
    axes = sorted(varying(compact(table)))
    along = axes[0] if len(axes) == 1 else 0 if not axes and table.ndim == 1 else -1
    return along, table[tuple(slice(None) if axis == along else 0 for axis in range(table.ndim))]
