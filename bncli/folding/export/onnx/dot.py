"""Matrix products."""

from __future__ import annotations

from string import ascii_lowercase

import numpy as np

from bncli.folding.export.onnx.builder import Builder
from bncli.folding.trace.graph import Node


def dot_general(builder: Builder, node: Node) -> None:
    """Gemm for a dense layer, MatMul if it has several leading axes, Einsum for other products."""
    (contracted, batch) = node.params["dimension_numbers"]
    right = node.inputs[1]
    is_dense = builder.is_constant(right) and not batch[0] and len(contracted[0]) == 1
    if is_dense and len(builder.shape(right)) == 2:
        _dense(builder, node, contracted[0][0], contracted[1][0])
    else:
        _einsum(builder, node)


def _dense(builder: Builder, node: Node, axis: int, kernel_axis: int) -> None:
    """x [..., K] times kernel [K, features]."""
    left, right = node.inputs
    rank = len(builder.shape(left))
    free = [a for a in range(rank) if a != axis]
    x = builder.whole(left, (*free, axis))
    array = np.broadcast_to(builder.array(right), builder.shape(right))
    kernel = builder.constant(array if kernel_axis == 0 else array.T, right)
    layout = tuple(range(rank))
    name = builder.emit("Gemm" if rank == 2 else "MatMul", x, kernel)
    builder.put(node.outputs[0], name, layout)
    if rank == 2:
        builder.await_bias(name, 1)


def _einsum(builder: Builder, node: Node) -> None:
    """Any product of two operands, in any layouts."""
    (contracted, batch) = node.params["dimension_numbers"]
    letters = iter(ascii_lowercase)
    terms: list[dict[int, str]] = [{}, {}]
    for axes in zip((*batch[0], *contracted[0]), (*batch[1], *contracted[1]), strict=True):
        letter = next(letters)
        terms[0][axes[0]], terms[1][axes[1]] = letter, letter
    shared = "".join(terms[0][axis] for axis in batch[0])
    names, spelled, free = [], [], ""
    for term, value in zip(terms, node.inputs, strict=True):
        rank = len(builder.shape(value))
        layout = builder.values[value].layout if value in builder.values else tuple(range(rank))
        for axis in range(rank):
            if axis not in term:
                term[axis] = next(letters)
                free += term[axis]
        names.append(builder.whole(value, layout))
        spelled.append("".join(term[axis] for axis in layout))
    equation = f"{','.join(spelled)}->{shared}{free}"
    layout = tuple(range(len(shared + free)))
    builder.put(node.outputs[0], builder.emit("Einsum", *names, equation=equation), layout)
