"""BN layers in an ONNX model: its BatchNormalization nodes, with the arrays that they are given.

https://onnx.ai/onnx/operators/onnx__BatchNormalization.html: inputs X, scale, B, mean, var; ``momentum`` is the weight
of the old value. Parsed by the onnx package in a process of its own; external data are read here, from the model's own
directory alone (https://onnx.ai/onnx/repo-docs/ExternalData.html).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path as FilePath
from typing import Any

import numpy as np

from bncli.errors import CheckpointError
from bncli.inspection.readers.arrays import Path, Stored, bfloat16_bits, split_name
from bncli.inspection.readers.assembly import NO_LAYER, assemble, looks_folded
from bncli.inspection.readers.contents import Contents, folded_note
from bncli.inspection.readers.conventions import CONVENTIONS, ONNX
from bncli.inspection.readers.grouping import Found
from bncli.inspection.readers.settings import Asked, non_negative

NEEDS_EXTRA = "pip install 'bncli[onnx]'"
_REMEDY = "Export the model anew."
# The operator's defaults, where a node does not say it.
EPSILON, MOMENTUM = 1e-5, 0.9
# ONNX's number -> (dtype, the protobuf field that holds values where raw_data does not).
_DTYPES = {
    1: ("float32", "float_data"),
    10: ("float16", "int32_data"),
    11: ("float64", "double_data"),
    16: ("bfloat16", "int32_data"),
}
_EXTERNAL = 1


def require_library() -> None:
    """Raises CheckpointError where onnx is not installed."""
    try:
        import onnx  # noqa: F401 - loaded here, before the limits of ``apart``
    except ImportError:
        raise CheckpointError("an ONNX model needs onnx, which is not here", remedy=NEEDS_EXTRA) from None


def read(path: FilePath, asked: Asked) -> Contents:
    """The BN layers of an ONNX model in the order of its nodes, which is one of the forward pass.

    Raises:
        CheckpointError: a layer's arrays are not in the model, or not as it says.
        Exception: of protobuf, where the file is damaged.
    """
    import onnx

    model = onnx.load(str(path), format="protobuf", load_external_data=False)
    graphs = [_Graph(graph, path.absolute().parent) for graph in _graphs(model.graph)]
    found = [layer for graph in graphs for layer in _batch_norms(graph)]
    if found:
        return assemble(_distinct(found), {}, file_format="onnx", asked=asked)
    convolutions = [node for graph in graphs for node in graph.proto.node if node.op_type == "Conv"]
    biased = sum(len(node.input) > 2 for node in convolutions)
    return _own(model) or Contents("onnx", (), (NO_LAYER, *looks_folded(biased, len(convolutions))))


@dataclass(frozen=True, eq=False)
class _Graph:
    """A graph of the model, and where its external data may lie."""

    proto: Any
    directory: FilePath

    @cached_property
    def constants(self) -> dict[str, Any]:
        """Name -> tensor: what the graph has of its own, and what only passes one on."""
        known = {tensor.name: tensor for tensor in self.proto.initializer}
        for node in self.proto.node:
            if node.op_type == "Constant" and node.output:
                known.update((node.output[0], item.t) for item in node.attribute if item.name == "value")
            elif node.op_type == "Identity" and node.output and node.input and node.input[0] in known:
                known[node.output[0]] = known[node.input[0]]
        return known

    @cached_property
    def readers(self) -> dict[str, list[str]]:
        """Name of a value -> the operators that read it."""
        readers: dict[str, list[str]] = {}
        for node in self.proto.node:
            for name in node.input:
                readers.setdefault(name, []).append(node.op_type)
        return readers


def _graphs(graph: Any) -> Iterator[Any]:  # noqa: ANN401 - protobuf's
    """The graph, and those in its If and Loop nodes; protobuf bounds the depth."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)


def _batch_norms(graph: _Graph) -> Iterator[Found]:
    for node in graph.proto.node:
        if node.op_type == "BatchNormalization" and node.domain in ("", "ai.onnx"):
            yield _layer(graph, node)


def _layer(graph: _Graph, node: Any) -> Found:  # noqa: ANN401 - protobuf's
    if len(node.input) < 5 or not node.output:
        raise CheckpointError(f"{_told(node)} has {len(node.input)} inputs of 5", remedy=_REMEDY)
    scale, bias, mean, var = (_array(graph, node, name) for name in node.input[1:5])
    attributes = {attribute.name: attribute.f for attribute in node.attribute}
    return Found(
        place=(),
        name=(_name(node),),
        convention=ONNX,
        mean=mean,
        var=var,
        scale=scale,
        bias=bias,
        epsilon=non_negative(attributes.get("epsilon", EPSILON), f"epsilon of {_told(node)}"),
        momentum=non_negative(attributes.get("momentum", MOMENTUM), f"momentum of {_told(node)}"),
        relu_follows=graph.readers.get(node.output[0]) == ["Relu"],
    )


def _told(node: Any) -> str:  # noqa: ANN401 - protobuf's
    return f"the BatchNormalization node {(node.name or '/'.join(node.output))[:80]!r}"


def _name(node: Any) -> str:  # noqa: ANN401 - protobuf's
    """The layer's name in the framework it came from, by its mean's; else the node's, or its output's."""
    path = split_name(node.input[3])
    for convention in CONVENTIONS:
        length = len(convention.mean)
        if len(path) > length and path[-length:] == convention.mean:
            return convention.separator.join(path[:-length])
    return str(node.name or node.output[0])


def _distinct(found: list[Found]) -> list[Found]:
    """The layers, those whose name another has as well with a number."""
    total, seen = Counter(layer.name for layer in found), Counter[Path]()
    distinct = []
    for layer in found:
        seen[layer.name] += 1
        suffix = f"#{seen[layer.name]}" if total[layer.name] > 1 else ""
        distinct.append(Found(**{**vars(layer), "name": (f"{layer.name[0]}{suffix}",)}))
    return distinct


def _array(graph: _Graph, node: Any, name: str) -> Stored:  # noqa: ANN401 - protobuf's
    tensor = graph.constants.get(name)
    if tensor is None:
        raise CheckpointError(
            f"{_told(node)} is given {name[:80]!r}, which is computed and not stored", remedy="Export it in eval mode."
        )
    dtype, field = _DTYPES.get(tensor.data_type, (f"of ONNX's data type {tensor.data_type}", ""))
    shape = tuple(tensor.dims)
    return Stored(shape, dtype, partial(_values, tensor, dtype, field, shape, graph.directory))


def _values(tensor: Any, dtype: str, field: str, shape: tuple[int, ...], directory: FilePath) -> np.ndarray:  # noqa: ANN401
    """The tensor's values.

    Raises:
        CheckpointError: there are not as many as its shape says.
    """
    bits = np.dtype("<u2") if dtype == "bfloat16" else np.dtype(dtype).newbyteorder("<")
    if tensor.data_location == _EXTERNAL:
        values = np.frombuffer(_external(tensor, directory, math.prod(shape) * bits.itemsize), bits)
    elif tensor.raw_data:
        values = np.frombuffer(tensor.raw_data, bits)
    else:
        values = np.array(getattr(tensor, field))
        values = values.astype("<u2").view(bits) if field == "int32_data" else values
    if values.size != math.prod(shape):
        raise CheckpointError(
            f"{tensor.name[:80]!r} has {values.size} values, and shape {list(shape)}", remedy="Restore it from a copy."
        )
    return (bfloat16_bits(values) if dtype == "bfloat16" else values).reshape(shape)


def _external(tensor: Any, directory: FilePath, length: int) -> bytes:  # noqa: ANN401 - protobuf's
    """The bytes of a tensor in a file of its own.

    Raises:
        CheckpointError: the file lies outside of the model's directory, or is too short.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = directory / entries.get("location", "")
    offset = int(entries.get("offset", 0))
    if not location.resolve().is_relative_to(directory.resolve()) or location.is_symlink():
        raise CheckpointError(
            f"{tensor.name[:80]!r} lies in {entries.get('location', '')[:80]!r}, outside of the model's directory, and "
            "is not read",
            remedy="Put the file beside the model, or save the model in one file.",
        )
    if not location.is_file() or not 0 <= offset <= location.stat().st_size - length:
        raise CheckpointError(f"{location} is missing or too short", remedy="Copy it along with the model.")
    with location.open("rb") as file:
        file.seek(offset)
        content: bytes = file.read(length)
        return content


def _own(model: Any) -> Contents | None:  # noqa: ANN401 - protobuf's
    """The record that bncli writes into a folded model; None for models of other programs."""
    from bncli.config.document import ONNX_KEY, from_json

    text = next((entry.value for entry in model.metadata_props if entry.key == ONNX_KEY), None)
    folded_from = None if text is None else from_json(text, path=FilePath("its metadata")).folded_from
    return None if folded_from is None else Contents("onnx", (), (folded_note(folded_from),), folded_from)
