"""A network as an ONNX model, written from its trace by one rule an operation.

========== =================================================================
builder    the ONNX graph under construction: names, layouts, constants
elementwise, conv, dot, gather, layout, pool   rules: primitive -> ONNX operators
========== =================================================================

Source of the operators: https://onnx.ai/onnx/operators, opset 18.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace

import jax
import onnx
from onnx import ModelProto, NodeProto, helper

from bncli.folding.export.onnx import conv, dot, elementwise, gather, layout, pool
from bncli.folding.export.onnx.builder import Builder, Shape, is_symbolic, tensor_type
from bncli.folding.primitives.primitive import IGNORABLE
from bncli.folding.trace.constants import SIZE, Constants
from bncli.folding.trace.graph import ApplyFn, Aval, Graph, Node, Pytree, trace

OPSET = 18  # the first in which all reductions take their axes alike
IR_VERSION = 8  # released with this opset, so every runtime that supports the opset reads the file
INPUT = "input"

Rule = Callable[[Builder, Node], None]
CONVOLUTION = frozenset(
    {
        "batch_group_count",
        "dimension_numbers",
        "feature_group_count",
        "lhs_dilation",
        "padding",
        "rhs_dilation",
        "window_strides",
    }
)
WINDOW = frozenset({"base_dilation", "padding", "window_dilation", "window_dimensions", "window_strides"})
# Parameters that no rule needs: those on which no number depends, the dtype of a result, which the rules read from the
# result itself, and what a gather does out of bounds, where its rule refuses it.
UNWRITTEN = frozenset(
    {*IGNORABLE, "fill_value", "index_dtype", "indices_are_sorted", "mode", "out_dtype", "unique_indices"}
)
# Parameters that may give a result another dtype than the operands have.
RESULT_DTYPES = frozenset({"out_dtype", "preferred_element_type"})


@dataclass(frozen=True)
class Spelling:
    """A rule and the parameters that it reads; it sees no others."""

    rule: Rule
    reads: Set[str] = frozenset()


# primitive -> the rule that writes it; alphabetical.
RULES: Mapping[str, Spelling] = {
    "abs": Spelling(elementwise.named("Abs")),
    "add": Spelling(elementwise.add),
    "add_any": Spelling(elementwise.add),
    "and": Spelling(elementwise.named("And")),
    "argmax": Spelling(pool.arg_reduction("ArgMax"), {"axes"}),
    "argmin": Spelling(pool.arg_reduction("ArgMin"), {"axes"}),
    "broadcast_in_dim": Spelling(layout.broadcast_in_dim, {"broadcast_dimensions", "shape"}),
    "ceil": Spelling(elementwise.named("Ceil")),
    "clamp": Spelling(elementwise.clamp),
    "concatenate": Spelling(layout.concatenate, {"dimension"}),
    "conv_general_dilated": Spelling(
        conv.convolution,
        CONVOLUTION,
    ),
    "convert_element_type": Spelling(elementwise.cast, {"new_dtype"}),
    "copy": Spelling(elementwise.alias),
    "copy_p": Spelling(elementwise.alias),
    "cos": Spelling(elementwise.named("Cos")),
    "cumsum": Spelling(pool.cumulative_sum, {"axis", "reverse"}),
    "div": Spelling(elementwise.named("Div")),
    "dot_general": Spelling(dot.dot_general, {"dimension_numbers"}),
    "eq": Spelling(elementwise.named("Equal")),
    "erf": Spelling(elementwise.named("Erf")),
    "erfc": Spelling(elementwise.erfc),
    "exp": Spelling(elementwise.named("Exp")),
    "expm1": Spelling(elementwise.expm1),
    "floor": Spelling(elementwise.named("Floor")),
    "gather": Spelling(gather.gather, {"dimension_numbers", "fill_value", "mode", "slice_sizes"}),
    "ge": Spelling(elementwise.named("GreaterOrEqual")),
    "gt": Spelling(elementwise.named("Greater")),
    "integer_pow": Spelling(elementwise.integer_power, {"y"}),
    "is_finite": Spelling(elementwise.is_finite),
    "le": Spelling(elementwise.named("LessOrEqual")),
    "log": Spelling(elementwise.named("Log")),
    "log1p": Spelling(elementwise.log1p),
    "logistic": Spelling(elementwise.named("Sigmoid")),
    "lt": Spelling(elementwise.named("Less")),
    "max": Spelling(elementwise.maximum),
    "min": Spelling(elementwise.minimum),
    "mul": Spelling(elementwise.named("Mul")),
    "ne": Spelling(elementwise.not_equal),
    "neg": Spelling(elementwise.named("Neg")),
    "not": Spelling(elementwise.named("Not")),
    "optimization_barrier": Spelling(elementwise.alias),
    "or": Spelling(elementwise.named("Or")),
    "pad": Spelling(layout.pad, {"padding_config"}),
    "pow": Spelling(elementwise.named("Pow")),
    "reduce_max": Spelling(pool.reduction("ReduceMax", pool="MaxPool"), {"axes"}),
    "reduce_min": Spelling(pool.reduction("ReduceMin"), {"axes"}),
    "reduce_prod": Spelling(pool.reduction("ReduceProd"), {"axes"}),
    "reduce_sum": Spelling(pool.reduction("ReduceSum", pool="AveragePool"), {"axes"}),
    "reduce_window_max": Spelling(pool.window_max, WINDOW),
    "reduce_window_min": Spelling(pool.window_min, WINDOW),
    "reduce_window_sum": Spelling(pool.window_sum, WINDOW),
    "reshape": Spelling(layout.reshape, {"dimensions", "new_sizes"}),
    "rev": Spelling(layout.rev, {"dimensions"}),
    "round": Spelling(elementwise.round_, {"rounding_method"}),
    "rsqrt": Spelling(elementwise.rsqrt),
    "select_n": Spelling(elementwise.select),
    "sign": Spelling(elementwise.named("Sign")),
    "sin": Spelling(elementwise.named("Sin")),
    "slice": Spelling(layout.slice_, {"limit_indices", "start_indices", "strides"}),
    "split": Spelling(layout.split, {"axis", "sizes"}),
    "sqrt": Spelling(elementwise.named("Sqrt")),
    "square": Spelling(elementwise.square),
    "squeeze": Spelling(layout.squeeze, {"dimensions"}),
    "stop_gradient": Spelling(elementwise.alias),
    "sub": Spelling(elementwise.named("Sub")),
    "tanh": Spelling(elementwise.named("Tanh")),
    "tile": Spelling(layout.tile, {"reps"}),
    "top_k": Spelling(pool.top_k, {"axis", "is_stable", "k", "operand"}),
    "transpose": Spelling(layout.transpose, {"permutation"}),
    "xor": Spelling(elementwise.named("Xor")),
}


def to_onnx(
    apply_fn: ApplyFn,
    variables: Pytree,
    example: Pytree,
    *,
    metadata: Mapping[str, str] | None = None,
) -> ModelProto:
    """`x -> apply_fn(variables, x)` as an ONNX model with the variables inside, checked by `onnx.checker`.

    Its input and outputs keep JAX's axis order; inside, convolutions are NCHW. bfloat16 becomes float32. A scan is
    written iteration by iteration, and a cond as a choice between the outputs of its branches.

    Args:
        apply_fn: the network, in inference mode.
        variables: its arrays.
        example: shape and dtype of x, or a pytree of several; the first dimension may be symbolic.
        metadata: texts for the model's `metadata_props`.

    Raises:
        FoldError: ONNX or this package cannot express an operation; the message names it.
    """
    graph = trace(apply_fn, variables, example, unroll=True)
    leaves = jax.tree.leaves(variables)
    paths = list(graph.leaves.values())
    builder = Builder(graph, Constants(graph, dict(zip(paths, leaves, strict=True))), _input_names(graph))
    for node in graph.live():
        if not _is_constant(builder, node):
            _write(builder, node)
    outputs = [_output(builder, number, value) for number, value in enumerate(graph.outputs)]
    model = _model(builder, outputs, metadata or {})
    onnx.checker.check_model(model, full_check=True)
    return model


def _input_names(graph: Graph) -> dict[int, str]:
    """The inputs' names: `input`, or `input_0`, `input_1` in the order of the pytree."""
    if len(graph.inputs) == 1:
        return dict.fromkeys(graph.inputs, INPUT)
    return {value: f"{INPUT}_{number}" for number, value in enumerate(graph.inputs)}


def _is_constant(builder: Builder, node: Node) -> bool:
    """True if the node's values can be computed now: it does not depend on the input or the batch size.

    A broadcast along the batch is constant too: its readers broadcast it.
    """
    is_known = builder.graph.known.issuperset(node.outputs) and all(map(builder.is_constant, node.inputs))
    if not is_known or node.name == SIZE:
        return False
    if node.name == "broadcast_in_dim":
        return True
    return not any(is_symbolic(builder.shape(value)) for value in (*node.inputs, *node.outputs))


def _write(builder: Builder, node: Node) -> None:
    """Write the operation, unless it has a parameter that its rule does not read."""
    spelling = RULES.get(node.name)
    if spelling is None or node.effectful:
        builder.refuse(node, "there is no rule for this primitive")
    unread = sorted(set(node.params) - spelling.reads - UNWRITTEN)
    if unread:
        builder.refuse(node, f"its parameter {unread[0]!r} has no rule")
    if RESULT_DTYPES.intersection(node.params) and len(_types(builder, node)) > 1:
        builder.refuse(node, "its result has another dtype than its operands")
    spelling.rule(
        builder, replace(node, params={name: node.params[name] for name in spelling.reads & set(node.params)})
    )


def _types(builder: Builder, node: Node) -> set[int]:
    return {tensor_type(builder.graph.avals[value].dtype) for value in (*node.inputs, *node.outputs)}


def _output(builder: Builder, number: int, value: int) -> onnx.ValueInfoProto:
    """One output of the model, in the traced layout, under its own name."""
    shape = builder.shape(value)
    name = f"output_{number}" if len(builder.graph.outputs) > 1 else "output"
    made = builder.whole(value, tuple(range(len(shape))))
    builder.nodes.append(helper.make_node("Identity", [made], [name], name=name))
    return _declared(name, builder.graph.avals[value])


def _declared(name: str, aval: Aval) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, tensor_type(aval.dtype), _dims(aval.shape))


def _dims(shape: Shape) -> list[int | str]:
    return [str(dim) if is_symbolic((dim,)) else int(dim) for dim in shape]


def _model(builder: Builder, outputs: Sequence[onnx.ValueInfoProto], metadata: Mapping[str, str]) -> ModelProto:
    nodes = _renamed(_needed(builder.nodes, {output.name for output in outputs}))
    read = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "bncli",
        [_declared(name, builder.graph.avals[value]) for value, name in builder.input_names.items()],
        outputs,
        initializer=[tensor for name, tensor in builder.constants.items() if name in read],
    )
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, producer_name="bncli", opset_imports=opsets, ir_version=IR_VERSION)
    helper.set_model_props(model, dict(metadata))
    return model


def _needed(nodes: Sequence[NodeProto], outputs: set[str]) -> list[NodeProto]:
    """The nodes that the outputs depend on."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    return kept[::-1]


def _renamed(nodes: list[NodeProto]) -> list[NodeProto]:
    """The nodes without Identities that only rename: what they read takes the new name."""
    makers = {node.output[0] for node in nodes}
    names: dict[str, str] = {}
    for node in nodes:
        if node.op_type == "Identity" and node.input[0] in makers and node.input[0] not in names:
            names[node.input[0]] = node.output[0]
    kept = [node for node in nodes if node.op_type != "Identity" or names.get(node.input[0]) != node.output[0]]
    for node in kept:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    return kept
