"""A network as an ONNX model, written from its trace, one rule an operation.

========== =================================================================
builder    the ONNX graph while it is being written: names, layouts, constants
elementwise, conv, dot, layout, pool   primitive -> how ONNX spells it
========== =================================================================

Source of the operators: https://onnx.ai/onnx/operators, opset 18.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import jax
import onnx
from onnx import ModelProto, NodeProto, helper

from bncli.folding.export.onnx import conv, dot, elementwise, layout, pool
from bncli.folding.export.onnx.builder import Builder, Shape, is_symbolic, tensor_type
from bncli.folding.trace.constants import Known
from bncli.folding.trace.graph import ApplyFn, Node, Pytree, trace

OPSET = 18  # the first with one spelling for all reductions
IR_VERSION = 8  # the one that came with it, so that every runtime that knows the opset reads the file
INPUT = "input"

Rule = Callable[[Builder, Node], None]

# primitive -> how it is written; alphabetical.
RULES: Mapping[str, Rule] = {
    "abs": elementwise.named("Abs"),
    "add": elementwise.add,
    "add_any": elementwise.add,
    "and": elementwise.named("And"),
    "argmax": pool.arg_reduction("ArgMax"),
    "argmin": pool.arg_reduction("ArgMin"),
    "broadcast_in_dim": layout.broadcast_in_dim,
    "ceil": elementwise.named("Ceil"),
    "clamp": elementwise.clamp,
    "concatenate": layout.concatenate,
    "conv_general_dilated": conv.convolution,
    "convert_element_type": elementwise.cast,
    "copy": elementwise.alias,
    "copy_p": elementwise.alias,
    "cos": elementwise.named("Cos"),
    "cumsum": pool.cumulative_sum,
    "div": elementwise.named("Div"),
    "dot_general": dot.dot_general,
    "eq": elementwise.named("Equal"),
    "erf": elementwise.named("Erf"),
    "erfc": elementwise.erfc,
    "exp": elementwise.named("Exp"),
    "expm1": elementwise.expm1,
    "floor": elementwise.named("Floor"),
    "gather": layout.gather,
    "ge": elementwise.named("GreaterOrEqual"),
    "gt": elementwise.named("Greater"),
    "integer_pow": elementwise.integer_power,
    "is_finite": elementwise.is_finite,
    "le": elementwise.named("LessOrEqual"),
    "log": elementwise.named("Log"),
    "log1p": elementwise.log1p,
    "logistic": elementwise.named("Sigmoid"),
    "lt": elementwise.named("Less"),
    "max": elementwise.maximum,
    "min": elementwise.minimum,
    "mul": elementwise.named("Mul"),
    "ne": elementwise.not_equal,
    "neg": elementwise.named("Neg"),
    "not": elementwise.named("Not"),
    "optimization_barrier": elementwise.alias,
    "or": elementwise.named("Or"),
    "pad": layout.pad,
    "pow": elementwise.named("Pow"),
    "reduce_max": pool.reduction("ReduceMax", pool="MaxPool"),
    "reduce_min": pool.reduction("ReduceMin"),
    "reduce_prod": pool.reduction("ReduceProd"),
    "reduce_sum": pool.reduction("ReduceSum", pool="AveragePool"),
    "reduce_window_max": pool.window_max,
    "reduce_window_min": pool.window_min,
    "reduce_window_sum": pool.window_sum,
    "reshape": layout.reshape,
    "rev": layout.rev,
    "round": elementwise.round_,
    "rsqrt": elementwise.rsqrt,
    "select_n": elementwise.select,
    "sign": elementwise.named("Sign"),
    "sin": elementwise.named("Sin"),
    "slice": layout.slice_,
    "split": layout.split,
    "sqrt": elementwise.named("Sqrt"),
    "square": elementwise.square,
    "squeeze": layout.squeeze,
    "stop_gradient": elementwise.alias,
    "sub": elementwise.named("Sub"),
    "tanh": elementwise.named("Tanh"),
    "transpose": layout.transpose,
    "xor": elementwise.named("Xor"),
}


def to_onnx(
    apply_fn: ApplyFn,
    variables: Pytree,
    example: jax.ShapeDtypeStruct,
    *,
    metadata: Mapping[str, str] | None = None,
) -> ModelProto:
    """`x -> apply_fn(variables, x)` as an ONNX model with the variables inside, checked by `onnx.checker`.

    Its input and outputs have JAX's axis order, as the function itself; inside, convolutions are NCHW. What is
    bfloat16 in JAX is float32 there.

    Args:
        apply_fn: the network, in inference mode.
        variables: its arrays.
        example: shape and dtype of x, of which the first dimension may be a symbol.
        metadata: text for the model's `metadata_props`.

    Raises:
        FoldError: an operation that ONNX or this package has no spelling for; the message names it.
    """
    graph = trace(apply_fn, variables, example)
    leaves = jax.tree.leaves(variables)
    paths = list(graph.leaves.values())
    builder = Builder(graph, Known(graph, dict(zip(paths, leaves, strict=True))), INPUT)
    for node in graph.live():
        if not _is_constant(builder, node):
            _write(builder, node)
    outputs = [_output(builder, number, value) for number, value in enumerate(graph.outputs)]
    model = _model(builder, outputs, metadata or {})
    onnx.checker.check_model(model, full_check=True)
    return model


def _is_constant(builder: Builder, node: Node) -> bool:
    """Whether the node's numbers can be computed now: it reads no input, and has no axis as long as the batch.

    A broadcast along the batch is left to whoever reads it.
    """
    if not builder.graph.known.issuperset(node.outputs) or not all(map(builder.is_constant, node.inputs)):
        return False
    if node.name == "broadcast_in_dim":
        return True
    return not any(is_symbolic(builder.shape(value)) for value in (*node.inputs, *node.outputs))


def _write(builder: Builder, node: Node) -> None:
    rule = RULES.get(node.name)
    if rule is None or node.effectful:
        builder.refuse(node, "this primitive has no rule")
    rule(builder, node)


def _output(builder: Builder, number: int, value: int) -> onnx.ValueInfoProto:
    """One output of the model, in the traced layout, under a name of its own."""
    shape = builder.shape(value)
    name = f"output_{number}" if len(builder.graph.outputs) > 1 else "output"
    made = builder.whole(value, tuple(range(len(shape))))
    builder.nodes.append(helper.make_node("Identity", [made], [name], name=name))
    return helper.make_tensor_value_info(name, tensor_type(builder.graph.avals[value].dtype), _dims(shape))


def _dims(shape: Shape) -> list[int | str]:
    return [str(dim) if is_symbolic((dim,)) else int(dim) for dim in shape]


def _model(builder: Builder, outputs: Sequence[onnx.ValueInfoProto], metadata: Mapping[str, str]) -> ModelProto:
    aval = builder.graph.avals[builder.graph.input]
    nodes = _renamed(_needed(builder.nodes, {output.name for output in outputs}))
    read = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "bncli",
        [helper.make_tensor_value_info(INPUT, tensor_type(aval.dtype), _dims(aval.shape))],
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
    """The nodes without the Identities that only name an output: what they read takes that name."""
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
