"""A network as a short list of operations, from `jax.make_jaxpr`.

The only module that knows how JAX spells a trace. Calls are inlined, variables keep their names, and everything
downstream reads frozen dataclasses. Letters: B batch, H W spatial, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core as jex

from bncli.folding.primitives import primitive_of
from bncli.folding.primitives.primitive import Params, Shape

Path: TypeAlias = tuple[str, ...]
Pytree: TypeAlias = Any  # nested containers of arrays, or of what describes them
Tensor: TypeAlias = jax.Array  # an array or a tracer
Constant: TypeAlias = "np.ndarray | jax.Array"  # an array or a tracer; a PRNG key is no NumPy array
DType: TypeAlias = "np.dtype[np.generic]"
ApplyFn: TypeAlias = Callable[[Pytree, Pytree], Pytree]  # (variables, inputs) -> outputs


# Iterations of a scan that are written out; a longer one stays a loop, because the graph would grow with it.
MAX_ITERATIONS = 256


class Described(Protocol):
    """Anything with a shape and a dtype: an array, a tracer, a `jax.ShapeDtypeStruct`."""

    @property
    def shape(self) -> Shape:
        """Its shape."""

    @property
    def dtype(self) -> DType:
        """Its dtype."""


@dataclass(frozen=True)
class Aval:
    """The shape and dtype of one value."""

    shape: Shape
    dtype: DType

    def __str__(self) -> str:
        return f"{self.dtype.name}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Node:
    """One operation. Values are numbers: inputs and outputs index `Graph.avals`.

    Args:
        scope: the modules it is in, `ResNet/Block_1`; call: the functions it is in, `elu/_where`.
        effectful: True if it must run even if no output depends on it.
    """

    index: int
    primitive: jex.Primitive
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    params: Params
    scope: str
    call: str
    effectful: bool

    @property
    def name(self) -> str:
        """The primitive's name."""
        return str(self.primitive.name)

    def bind(self, operands: Sequence[Constant]) -> list[Tensor]:
        """The outputs for arrays or tracers, always as a list."""
        primitive: Any = self.primitive  # its methods are untyped
        bound = primitive.bind(*operands, **primitive.get_bind_params(dict(self.params)))
        return list(bound) if self.primitive.multiple_results else [bound]


Structure: TypeAlias = tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]


@dataclass(frozen=True)
class Graph:
    """Every operation of one trace, in order.

    Args:
        leaves: value -> the variable it is; constants: value -> the array it is.
        inputs: the network's inputs by path; one array has the path `()`.
        known: the values that do not depend on the network's input.
    """

    nodes: tuple[Node, ...]
    avals: tuple[Aval, ...]
    leaves: Mapping[int, Path]
    constants: Mapping[int, Constant]
    inputs: Mapping[int, Path]
    outputs: tuple[int, ...]
    out_tree: jax.tree_util.PyTreeDef
    known: frozenset[int] = field(repr=False)

    @property
    def structure(self) -> Structure:
        """The operations and the values they read: another batch size must not change them."""
        return (*((node.name, node.inputs, node.outputs) for node in self.nodes), ("return", self.outputs, ()))

    def numbers(self, constants: Iterable[int]) -> dict[int, bytes]:
        """The contents of some constants. A division by the number of examples shows only in them."""
        return {value: np.asarray(self.constants[value]).tobytes() for value in constants}

    @property
    def producers(self) -> dict[int, Node]:
        """The node that makes each value."""
        return {value: node for node in self.nodes for value in node.outputs}

    def live(self) -> list[Node]:
        """The nodes that the outputs depend on, in order."""
        needed = set(self.outputs)
        kept = []
        for node in reversed(self.nodes):
            if node.effectful or needed.intersection(node.outputs):
                needed.update(node.inputs)
                kept.append(node)
        return kept[::-1]

    def text(self) -> str:
        """The graph for people and golden files: one operation per line, named values, no addresses."""
        names = {value: "/".join(path) for value, path in self.leaves.items()}
        names |= {value: "/".join(("x", *path)) for value, path in self.inputs.items()}
        names |= {value: _constant_text(constant) for value, constant in self.constants.items()}
        lines = [f"{names[value]}: {self.avals[value]}" for value in self.inputs]
        made = [value for node in self.live() for value in node.outputs]
        names |= {value: f"v{number}" for number, value in enumerate(made)}
        for node in self.live():
            outputs = ", ".join(f"{names[value]}: {self.avals[value]}" for value in node.outputs)
            lines.append(f"{outputs} = {node.name} {', '.join(names[value] for value in node.inputs)}")
        lines.append(f"return {', '.join(names[value] for value in self.outputs)}")
        return "\n".join(lines) + "\n"


def trace(apply_fn: ApplyFn, variables: Pytree, x: Pytree, *, unroll: bool = False) -> Graph:
    """The graph of `apply_fn(variables, x)`; both are pytrees of arrays or `jax.ShapeDtypeStruct`s.

    Args:
        unroll: write each iteration of a scan in its place, and both branches of a cond with a choice between them.
    """
    closed, out_shape = jax.make_jaxpr(apply_fn, return_shape=True)(variables, x)
    jaxpr, constants = _open(closed)
    builder = _Builder(unroll=unroll)
    leaves, inputs = ([path for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]] for tree in (variables, x))
    arguments = [builder.value(var.aval) for var in jaxpr.invars]
    builder.leaves.update(zip(arguments, map(leaf_path, leaves), strict=False))
    outputs = builder.inline(jaxpr, constants, arguments, _Place())
    named = dict(zip(arguments[len(leaves) :], map(_names, inputs), strict=True))
    return builder.finish(named, outputs, jax.tree_util.tree_structure(out_shape))


def body_of(node: Node, leaves: Mapping[int, Path], outputs: Sequence[int]) -> Graph:
    """The body of a scan as a network. Its first values are the operands of the scan, in order.

    Args:
        leaves: operand -> the variable that it is in the body; the other operands are inputs.
        outputs: the outputs of the scan that are read, by position.
    """
    jaxpr, constants = _open(node.params["jaxpr"])
    builder = _Builder(unroll=False)
    operands = [builder.value(var.aval) for var in jaxpr.invars]
    builder.leaves.update(leaves)
    made = builder.inline(jaxpr, constants, operands, _Place(node.scope, node.call))
    inputs = {operand: (str(operand),) for operand in operands if operand not in leaves}
    wanted = [made[position] for position in outputs]
    return builder.finish(inputs, wanted, jax.tree_util.tree_structure(wanted))


def scan_operands(node: Node) -> list[list[int]]:
    """The positions of a scan's operands: what all iterations share, the initial carry, what has a row for each."""
    return _scan_operands(node.params, range(len(node.inputs)))


def leaf_path(key_path: Sequence[object]) -> Path:
    """A pytree key path as plain names: `('params', 'Conv_0', 'kernel')`; a tree that is one array has one as well."""
    return _names(key_path) or ("variables",)


def _names(key_path: Sequence[object]) -> Path:
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in key_path)


@dataclass(frozen=True)
class _Place:
    """The place of an equation: the named scopes and the named calls around it."""

    scope: str = ""
    call: str = ""

    def of(self, eqn: jex.JaxprEqn) -> _Place:
        """The place of an equation of this body."""
        return _Place(_join(self.scope, str(eqn.source_info.name_stack)), self.call)

    def inside(self, eqn: jex.JaxprEqn) -> _Place:
        """The place of a call's body."""
        name = eqn.params.get("name")
        return _Place(self.scope, _join(self.call, name if isinstance(name, str) else ""))


Environment: TypeAlias = dict[jex.Var, int]
# (equation, its inputs, its place) -> the values of its outputs
Special: TypeAlias = "Callable[[jex.JaxprEqn, list[int], _Place], list[int]]"


class _Builder:
    """The nodes collected so far from a jaxpr and the bodies of its calls.

    Args:
        unroll: as in `trace`.
    """

    def __init__(self, *, unroll: bool) -> None:
        self._special: Mapping[str, Special] = {
            "stack": self.stack,
            "unstack": self.unstack,
            **({"cond": self.both_branches, "scan": self.iterations} if unroll else {}),
        }
        self.nodes: list[Node] = []
        self.avals: list[Aval] = []
        self.leaves: dict[int, Path] = {}
        self.constants: dict[int, Constant] = {}

    def value(self, aval: jax.core.AbstractValue) -> int:
        """A new value of this shape and dtype; tokens have neither."""
        shape, dtype = getattr(aval, "shape", ()), getattr(aval, "dtype", np.dtype("V"))
        self.avals.append(Aval(tuple(shape), dtype))
        return len(self.avals) - 1

    def constant(self, array: jax.typing.ArrayLike, aval: jax.core.AbstractValue) -> int:
        """A new value with these numbers."""
        value = self.value(aval)
        dtype = self.avals[value].dtype
        self.constants[value] = np.asarray(array, dtype) if _is_numpy(dtype) else jnp.asarray(array)
        return value

    def inline(
        self, jaxpr: jex.Jaxpr, constants: Sequence[jax.typing.ArrayLike], arguments: Sequence[int], place: _Place
    ) -> list[int]:
        """Append the jaxpr's operations; return the values of its outputs."""
        env: Environment = dict(zip(jaxpr.invars, arguments, strict=True))
        env |= {var: self.constant(array, var.aval) for var, array in zip(jaxpr.constvars, constants, strict=True)}
        for eqn in jaxpr.eqns:
            inputs = [self.read(env, atom) for atom in eqn.invars]
            env.update(zip(eqn.outvars, self.append(eqn, inputs, place.of(eqn)), strict=True))
        return [self.read(env, atom) for atom in jaxpr.outvars]

    def read(self, env: Environment, atom: jex.Var | jex.Literal) -> int:
        """The value of a variable or a literal."""
        return self.constant(atom.val, atom.aval) if isinstance(atom, jex.Literal) else env[atom]

    def append(self, eqn: jex.JaxprEqn, inputs: list[int], place: _Place) -> list[int]:
        """Append an equation as a node, or, for a call, the nodes of its body; return the values of its outputs."""
        if body := primitive_of(eqn.primitive.name).body:
            return self.inline(*_open(eqn.params[body]), inputs, place.inside(eqn))
        special = self._special.get(eqn.primitive.name)
        if special is not None and not eqn.effects and eqn.params.get("length", 0) <= MAX_ITERATIONS:
            return special(eqn, inputs, place)
        outputs = [self.value(var.aval) for var in eqn.outvars]
        node = Node(
            index=len(self.nodes),
            primitive=eqn.primitive,
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            params=eqn.params,
            scope=place.scope,
            call=place.call,
            effectful=bool(eqn.effects),
        )
        self.nodes.append(node)
        return outputs

    def expand(self, function: Callable[..., Pytree], values: Sequence[int], place: _Place) -> list[int]:
        """Append the operations of a function of these values; return its outputs."""
        avals = [jax.ShapeDtypeStruct(self.avals[value].shape, self.avals[value].dtype) for value in values]
        return self.inline(*_open(jax.make_jaxpr(function)(*avals)), values, place)

    def stack(self, eqn: jex.JaxprEqn, inputs: list[int], place: _Place) -> list[int]:
        """Values side by side along a new axis, which older releases of JAX write as a concatenation."""
        axis = eqn.params["axis"]
        return self.expand(lambda *xs: lax.concatenate([lax.expand_dims(x, (axis,)) for x in xs], axis), inputs, place)

    def unstack(self, eqn: jex.JaxprEqn, inputs: list[int], place: _Place) -> list[int]:
        """The parts of a value along an axis that is removed."""
        axis, count = eqn.params["axis"], len(eqn.outvars)
        return self.expand(
            lambda x: [lax.index_in_dim(x, index, axis, keepdims=False) for index in range(count)], inputs, place
        )

    def iterations(self, eqn: jex.JaxprEqn, inputs: list[int], place: _Place) -> list[int]:
        """The iterations of a scan one after the other: (carry, x[i]) -> (carry, y[i])."""
        params = eqn.params
        constants, carry, xs = _scan_operands(params, inputs)
        rows: dict[int, list[int]] = {}
        for index in sorted(range(params["length"]), reverse=params["reverse"]):
            x = [self.expand(_element(index), [value], place)[0] for value in xs]
            outputs = self.inline(*_open(params["jaxpr"]), [*constants, *carry, *x], place)
            carry, rows[index] = outputs[: len(carry)], outputs[len(carry) :]
        columns = zip(*(rows[index] for index in sorted(rows)), strict=True)
        return [*carry, *(self.expand(lambda *ys: jnp.stack(ys), column, place)[0] for column in columns)]

    def both_branches(self, eqn: jex.JaxprEqn, inputs: list[int], place: _Place) -> list[int]:
        """The branches of a cond, and for each output the one that the first operand chooses."""
        choice, *operands = inputs
        branches = [self.inline(*_open(branch), operands, place) for branch in eqn.params["branches"]]
        return [self.expand(_chosen, [choice, *cases], place)[0] for cases in zip(*branches, strict=True)]

    def finish(self, inputs: Mapping[int, Path], outputs: list[int], out_tree: jax.tree_util.PyTreeDef) -> Graph:
        """The graph of everything appended."""
        return Graph(
            nodes=tuple(self.nodes),
            avals=tuple(self.avals),
            leaves=self.leaves,
            constants=self.constants,
            inputs=inputs,
            outputs=tuple(outputs),
            out_tree=out_tree,
            known=frozenset(self.known()),
        )

    def known(self) -> Iterator[int]:
        """The values that do not depend on the network's input."""
        known = {*self.leaves, *self.constants}
        yield from known
        for node in self.nodes:
            if not node.effectful and known.issuperset(node.inputs):
                known.update(node.outputs)
                yield from node.outputs


def _scan_operands(params: Params, inputs: Sequence[int]) -> list[list[int]]:
    """The constants, the initial carry and the arrays of a scan, from either of JAX's two spellings."""
    if "num_consts" not in params:
        return [list(part) for part in params["ft_in"].update(inputs).unpack()]
    first, last = params["num_consts"], params["num_consts"] + params["num_carry"]
    return [list(inputs[:first]), list(inputs[first:last]), list(inputs[last:])]


def _element(index: int) -> Callable[[Tensor], Tensor]:
    return lambda x: lax.index_in_dim(x, index, keepdims=False)


def _chosen(choice: Tensor, *cases: Tensor) -> Tensor:
    """The case that the number chooses, the nearest one for a number out of range."""
    bounded = lax.clamp(0, choice.astype(jnp.int32), len(cases) - 1)
    made = cases[0]
    for number, case in enumerate(cases[1:], start=1):
        made = lax.select(jnp.broadcast_to(bounded == number, case.shape), case, made)
    return made


def _open(jaxpr: jex.Jaxpr) -> tuple[jex.Jaxpr, Sequence[jax.typing.ArrayLike]]:
    """A jaxpr and its constants, from either of JAX's two spellings."""
    return getattr(jaxpr, "jaxpr", jaxpr), getattr(jaxpr, "consts", ())


def _constant_text(constant: Constant) -> str:
    return f"constant{list(np.shape(constant))}" if np.ndim(constant) else str(np.asarray(constant))


def _join(scope: str, inner: str) -> str:
    return f"{scope}/{inner}" if scope and inner else scope or inner


def _is_numpy(dtype: DType) -> bool:
    """True if NumPy can hold it: PRNG keys have a dtype of their own."""
    return not jnp.issubdtype(dtype, jax.dtypes.extended)
