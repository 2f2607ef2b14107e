"""The parameters of JAX's primitives: which function of the folder's table reads each one, or why none has to.

The corpus is the programs of `test_primitives` and the networks of `nets`. Every function of a record is called on
every operation of the programs, with parameters that note who reads them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from bncli.folding.affine import Affine
from bncli.folding.primitives import primitive_of
from bncli.folding.primitives.primitive import IGNORABLE, Op, Primitive
from bncli.folding.trace.constants import Constants
from bncli.folding.trace.graph import Graph, Node, trace
from folding.nets import NETS
from folding.nets import X as IMAGES
from folding.primitives.test_primitives import CORPUS, X, equations

FUNCTIONS = ("value", "inverse", "backward", "forward")

UNREAD = "read by nothing: nothing passes"
_POINTWISE = "an affine of the output is applied to each number of it, whatever went into that number"
_SHAPES = "the shapes of operand and output say it"
# (primitive, parameter) -> the functions of its record that do not read it, and the reason.
NOT_NEEDED = {
    ("broadcast_in_dim", "shape"): ({"backward", "forward"}, _SHAPES),
    ("conv_general_dilated", "feature_group_count"): ({"backward"}, _POINTWISE),
    ("conv_general_dilated", "lhs_dilation"): ({"backward"}, _POINTWISE),
    ("conv_general_dilated", "padding"): ({"backward"}, _POINTWISE),
    ("conv_general_dilated", "rhs_dilation"): ({"backward"}, _POINTWISE),
    ("conv_general_dilated", "window_strides"): ({"backward"}, _POINTWISE),
    ("reshape", "new_sizes"): ({"inverse", "backward", "forward"}, _SHAPES),
    ("squeeze", "dimensions"): ({"inverse"}, _SHAPES),
}


class Noting(dict):
    """Parameters that note which of them are read."""

    def __init__(self, params):
        super().__init__(params)
        self.noted: set[str] = set()

    def __getitem__(self, name):
        self.noted.add(name)
        return super().__getitem__(name)

    def get(self, name, default=None):
        """The parameter, noted."""
        self.noted.add(name)
        return super().get(name, default)


@dataclass
class Row:
    """One parameter of one primitive.

    Args:
        readers: the functions of its record that read it; `functions`: those that there are.
        reason: the reason why none has to read it; '' if one does.
    """

    primitive: str
    parameter: str
    functions: set[str] = field(default_factory=set)
    readers: set[str] = field(default_factory=set)
    reason: str = ""

    @property
    def text(self) -> str:
        """The functions that read it, or the reason why none does."""
        if self.reason:
            return self.reason
        readers, unread = (", ".join(sorted(f, key=FUNCTIONS.index)) for f in (self.readers, self.unread))
        _, why = NOT_NEEDED.get((self.primitive, self.parameter), (set(), "?"))
        return f"read by {readers}" + (f"; not needed by {unread}: {why}" if unread else "")

    @property
    def unread(self) -> set[str]:
        """The functions that do not read it."""
        return self.functions - self.readers


def met() -> dict[tuple[str, str], Row]:
    """A row for each parameter of each primitive in the corpus, without readers."""
    rows: dict[tuple[str, str], Row] = {}
    programs = [jax.make_jaxpr(function)(X) for function in CORPUS.values()]
    for model, _, _ in NETS.values():
        variables = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
        programs.append(jax.make_jaxpr(model.apply)(variables, IMAGES))
    for program in programs:
        for eqn in equations(program.jaxpr):
            name = eqn.primitive.name
            for parameter in eqn.params:
                rows.setdefault((name, parameter), Row(name, parameter, reason=reason(primitive_of(name), parameter)))
    return dict(sorted(rows.items()))


def reason(record: Primitive, parameter: str) -> str:
    """The reason why no function of the record has to read the parameter; '' if there is none."""
    if record.body:
        return "the body of the call is traced in its place"
    if record.value is record.affine is record.rules is None:
        return "no rule: nothing passes" if record.names else "not in the table: nothing passes"
    if parameter in record.ignores:
        return f"changes no number that is folded: {IGNORABLE[parameter]}"
    if parameter in record.defaults:
        return f"nothing passes unless it is {record.defaults[parameter]}"
    if parameter not in record.reads:
        return UNREAD
    return ""


def read() -> dict[tuple[str, str], Row]:
    """The rows of `met`, with the functions that read each parameter."""
    rows = met()
    for graph, node, values in operations():
        record = primitive_of(node.name)
        for function, noted in calls(record, graph, node, values):
            for parameter in record.reads & set(node.params):
                row = rows[node.name, parameter]
                row.functions.add(function)
                if parameter in noted:
                    row.readers.add(function)
    return rows


def operations() -> Iterator[tuple[Graph, Node, dict[int, np.ndarray]]]:
    """Every operation of the programs on floats, positions in a table apart, with all values of its program."""
    for function in CORPUS.values():
        graph = trace(lambda v, x, function=function: function(x), {}, X)
        values = {**dict.fromkeys(graph.inputs, X), **graph.constants}
        for node in graph.nodes:
            values.update(zip(node.outputs, node.bind([values[value] for value in node.inputs]), strict=True))
            given = [value for value in node.inputs if value not in graph.known or node.name != "gather"]
            touched = [graph.avals[value].dtype for value in (*given, *node.outputs)]
            if all(jnp.issubdtype(dtype, jnp.floating) for dtype in touched):
                yield graph, node, values


def calls(record: Primitive, graph: Graph, node: Node, values) -> Iterator[tuple[str, set[str]]]:
    """Each function of the record called on the operation: its name, and the parameters that it read."""
    operands = [np.asarray(values[value], np.float64) for value in node.inputs]
    result = np.asarray(values[node.outputs[0]], np.float64)
    if record.value is not None:
        params = Noting(record.seen(node.params))
        record.value(params, operands)
        yield "value", params.noted
    if record.inverse is not None:
        params = Noting(record.seen(node.params))
        record.inverse(params, result, operands[0].shape)
        yield "inverse", params.noted
    if record.rules is not None and not graph.known.issuperset(node.outputs):
        dynamic = tuple(i for i, value in enumerate(node.inputs) if value not in graph.known)
        for function, rule, value in (
            ("backward", record.rules.backward, node.outputs[0]),
            ("forward", record.rules.forward, node.inputs[dynamic[0]]),
        ):
            for affine in affines(graph.avals[value].shape):
                op = an_op(record, graph, node, dynamic)
                rule(op, {0 if function == "backward" else dynamic[0]: affine})
                yield function, op.params.noted


def an_op(record: Primitive, graph: Graph, node: Node, dynamic: tuple[int, ...]) -> Op:
    """The operation as its rules see it, at one batch size."""
    constants = Constants(graph, {})
    return Op(
        params=Noting(record.seen(node.params)),
        shapes=tuple(graph.avals[value].shape for value in node.inputs),
        out_shapes=tuple(graph.avals[value].shape for value in node.outputs),
        batch=(frozenset(),) * len(node.inputs),
        out_batch=frozenset(),
        dynamic=dynamic,
        known=lambda operand: constants.array(node.inputs[operand]),
    )


def affines(shape) -> Iterator[Affine]:
    """One that is constant, and for each axis a scale and a shift along it."""
    rank = len(shape)
    yield Affine(np.full((1,) * rank, 2.0), np.full((1,) * rank, 3.0))
    for axis, size in enumerate(shape):
        along = np.arange(1.0, size + 1).reshape([size if a == axis else 1 for a in range(rank)])
        yield Affine.of_scale(along)
        yield Affine(np.full((1,) * rank, 2.0), along)
        yield Affine(along, along)


def table() -> str:
    """The rows as a Markdown table."""
    lines = ["| primitive | parameter | where it is read, or why not |", "|---|---|---|"]
    lines += [f"| `{row.primitive}` | `{row.parameter}` | {row.text} |" for row in read().values()]
    return "\n".join(lines) + "\n"
