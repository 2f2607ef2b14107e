"""BN layers of an ONNX model: its BatchNormalization nodes, with the arrays that they are given.

https://onnx.ai/onnx/operators/onnx__BatchNormalization.html: inputs X, scale, B, mean, var; ``momentum`` is the weight
of the old value. The onnx package parses the model in a separate process. External data are read by
``onnx_constants``, from the model's own directory only (https://onnx.ai/onnx/repo-docs/ExternalData.html).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import TYPE_CHECKING

from bncli.errors import CheckpointError
from bncli.inspection.readers.arrays import Path, split_name
from bncli.inspection.readers.assembly import assemble, looks_folded, nothing_found
from bncli.inspection.readers.contents import Contents, folded_note, named
from bncli.inspection.readers.conventions import CONVENTIONS, ONNX
from bncli.inspection.readers.grouping import Found
from bncli.inspection.readers.onnx_constants import DEFAULT_DOMAIN, Constants, NotConstant, graphs
from bncli.inspection.readers.settings import Asked, non_negative
from bncli.process.files import open_regular

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

NEEDS_EXTRA = "pip install 'bncli[onnx]'"
_REMEDY = "Export the model anew."
# The operator's defaults, for attributes that a node lacks.
EPSILON, MOMENTUM = 1e-5, 0.9
# The first opset whose attribute training_mode says the mode; in older ones, the number of outputs does.
OPSET_OF_TRAINING_MODE = 14


def require_library() -> None:
    """Raise CheckpointError if onnx is not installed."""
    try:
        import onnx  # noqa: F401 - loaded before ``apart`` sets its limits
    except ImportError:
        raise CheckpointError("reading an ONNX model needs onnx, which is not installed", remedy=NEEDS_EXTRA) from None


def read(path: FilePath, asked: Asked) -> Contents:
    """Read the BN layers of an ONNX model in the order of its nodes, which is an order of the forward pass.

    Raises:
        CheckpointError: a layer's arrays do not match the model's declarations.
        Exception: protobuf's, if the file is damaged.
    """
    import onnx

    with open_regular(path) as file:
        model = onnx.load(file, format="protobuf", load_external_data=False)
    own = _own(model)
    opened = _Model.of(_without_functions(model), path.absolute().parent)
    found, notes = opened.batch_norms()
    if found:
        return assemble(_distinct(found), {}, file_format="onnx", asked=asked, notes=notes)
    return own or opened.without_layers(notes)


def _without_functions(model: ModelProto) -> ModelProto:
    """The model with its local functions inlined."""
    if not model.functions:
        return model
    import onnx.inliner

    return onnx.inliner.inline_local_functions(model)


@dataclass(frozen=True)
class _Model:
    """The graphs of a model, each with its constants, and the model's opset."""

    graphs: tuple[tuple[GraphProto, Constants], ...]
    opset: int

    @classmethod
    def of(cls, model: ModelProto, directory: FilePath) -> _Model:
        """The model's own graph and those in its nodes."""
        opsets = {entry.version for entry in model.opset_import if entry.domain in DEFAULT_DOMAIN}
        return cls(tuple(graphs(model.graph, Constants({}, {}, directory))), max(opsets, default=1))

    def batch_norms(self) -> tuple[list[Found], tuple[str, ...]]:
        """The BN layers whose arrays are constants, and a note on those that are left out."""
        found: list[Found] = []
        left_out: dict[str, list[str]] = {}
        for graph, constants in self.graphs:
            readers = _readers(graph)
            for node in graph.node:
                if node.op_type == "BatchNormalization" and node.domain in DEFAULT_DOMAIN:
                    try:
                        found.append(_layer(node, constants, readers, opset=self.opset))
                    except NotConstant as reason:
                        left_out.setdefault(str(reason), []).append(_name(node))
        return found, tuple(_left_out(names, reason) for reason, names in left_out.items())

    def without_layers(self, notes: Sequence[str]) -> Contents:
        """A model in which no BN layer was found, with what was not read."""
        custom = sorted(
            {f"{node.domain}.{node.op_type}" for node in self._nodes() if node.domain not in DEFAULT_DOMAIN}
        )
        unread = [*notes, *([f"not examined, operators of other domains: {named(custom)}"] if custom else [])]
        convolutions = [node for node in self._nodes() if node.op_type == "Conv"]
        biased = sum(len(node.input) > 2 for node in convolutions)
        return nothing_found("onnx", unread=unread, folded=looks_folded(biased, len(convolutions)))

    def _nodes(self) -> Iterable[NodeProto]:
        return (node for graph, _ in self.graphs for node in graph.node)


def _left_out(names: Sequence[str], reason: str) -> str:
    count = f"{len(names)} BN layer{'s' * (len(names) != 1)}"
    return f"{count} left out, because an array of it is not stored but {reason}: {named(names)}"


def _readers(graph: GraphProto) -> dict[str, list[str]]:
    """Name of a value -> the operators that read it."""
    readers: dict[str, list[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    return readers


def _layer(node: NodeProto, constants: Constants, readers: dict[str, list[str]], *, opset: int) -> Found:
    if len(node.input) < 5 or not node.output:
        raise CheckpointError(f"{_described(node)} has {len(node.input)} inputs of 5", remedy=_REMEDY)
    scale, bias, mean, var = map(constants.stored, node.input[1:5])
    attributes = {attribute.name: attribute.f for attribute in node.attribute}
    return Found(
        place=(),
        name=(_name(node),),
        convention=ONNX,
        mean=mean,
        var=var,
        scale=scale,
        bias=bias,
        epsilon=non_negative(attributes.get("epsilon", EPSILON), f"epsilon of {_described(node)}"),
        momentum=non_negative(attributes.get("momentum", MOMENTUM), f"momentum of {_described(node)}"),
        relu_follows=readers.get(node.output[0]) == ["Relu"],
        train_mode=_is_in_train_mode(node, opset),
    )


def _is_in_train_mode(node: NodeProto, opset: int) -> bool:
    """True if the node normalises by its batch: the attribute says so, or before opset 14 its further outputs."""
    if opset >= OPSET_OF_TRAINING_MODE:
        return any(attribute.name == "training_mode" and attribute.i != 0 for attribute in node.attribute)
    return any(node.output[1:])


def _described(node: NodeProto) -> str:
    return f"the BatchNormalization node {(node.name or '/'.join(node.output))[:80]!r}"


def _name(node: NodeProto) -> str:
    """The layer's name in the original framework, from its mean's; else the node's name, or its output's."""
    path = split_name(node.input[3]) if len(node.input) > 3 else ()
    for convention in CONVENTIONS:
        length = len(convention.mean)
        if len(path) > length and path[-length:] == convention.mean:
            return convention.separator.join(path[:-length])
    return str(node.name or node.output[0])


def _distinct(found: Sequence[Found]) -> list[Found]:
    """The layers, numbered if several have the same name."""
    total, seen = Counter(layer.name for layer in found), Counter[Path]()
    distinct = []
    for layer in found:
        seen[layer.name] += 1
        suffix = f"#{seen[layer.name]}" if total[layer.name] > 1 else ""
        distinct.append(replace(layer, name=(f"{layer.name[0]}{suffix}",)))
    return distinct


def _own(model: ModelProto) -> Contents | None:
    """The note of a model that bncli folded; None for other models."""
    from bncli.config.document import ONNX_KEY, from_json

    text = next((entry.value for entry in model.metadata_props if entry.key == ONNX_KEY), None)
    folded_from = None if text is None else from_json(text, path=FilePath("its metadata")).folded_from
    return None if folded_from is None else Contents("onnx", (), (folded_note(folded_from),), folded_from)
