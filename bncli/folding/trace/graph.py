"""A network as a short list of operations: what `jax.make_jaxpr` says, in this package's own words.

The only module that knows how JAX spells a trace: call primitives are inlined, variables keep their names, and
everything downstream reads plain frozen dataclasses. Letters: B batch, H W spatial, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.extend import core as jex

Path = tuple[str, ...]
Pytree: TypeAlias = Any  # of arrays, or of what stands for them
Tensor: TypeAlias = Any  # an array or a tracer
DType: TypeAlias = Any
JaxObject: TypeAlias = Any  # a jaxpr, equation or atom: their classes differ between versions of JAX
ApplyFn = Callable[[Pytree, Tensor], Pytree]

# call primitive -> the parameter that holds its body; a body is inlined, so a fold sees through it.
CALLS = {
    "checkpoint": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "remat2": "jaxpr",
}


@dataclass(frozen=True)
class Aval:
    """The shape and dtype of one value."""

    shape: tuple[Any, ...]
    dtype: DType

    def __str__(self) -> str:
        return f"{np.dtype(self.dtype).name if _is_numpy(self.dtype) else self.dtype}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Node:
    """One operation. Values are numbers: inputs and outputs index `Graph.avals`.

    Args:
        scope: the modules it stands in, `ResNet/Block_1`; call: the functions, `elu/_where`.
    """

    index: int
    primitive: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    params: Mapping[str, Any]
    scope: str
    call: str
    effectful: bool

    @property
    def name(self) -> str:
        return self.primitive.name

    def bind(self, operands: Sequence[Tensor]) -> list[Tensor]:
        """The operation applied to arrays or tracers, always as a list."""
        bound = self.primitive.bind(*operands, **self.primitive.get_bind_params(self.params))
        return list(bound) if self.primitive.multiple_results else [bound]


@dataclass(frozen=True)
class Graph:
    """Every operation of one trace, in order; a value is known when no path leads to it from the network's input."""

    nodes: tuple[Node, ...]
    avals: tuple[Aval, ...]
    leaves: Mapping[int, Path]
    constants: Mapping[int, Any]
    input: int
    outputs: tuple[int, ...]
    out_tree: Any
    known: frozenset[int] = field(repr=False)

    @property
    def structure(self) -> tuple[Any, ...]:
        """What must not change with the batch size: which operation reads which values."""
        return (*((node.name, node.inputs, node.outputs) for node in self.nodes), self.outputs)

    def numbers(self, constants: Iterable[int]) -> dict[int, bytes]:
        """The contents of some constants: a division by the number of examples shows in them, not in the structure."""
        return {value: np.asarray(self.constants[value]).tobytes() for value in constants}

    @property
    def producers(self) -> dict[int, Node]:
        """Value -> the node that makes it."""
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
        """The graph for people and golden files: one operation a line, named values, no addresses."""
        names = {value: "/".join(path) for value, path in self.leaves.items()}
        names[self.input] = "x"
        names |= {value: _constant_text(constant) for value, constant in self.constants.items()}
        lines = [f"x: {self.avals[self.input]}"]
        made = [value for node in self.live() for value in node.outputs]
        names |= {value: f"v{number}" for number, value in enumerate(made)}
        for node in self.live():
            outputs = ", ".join(f"{names[value]}: {self.avals[value]}" for value in node.outputs)
            lines.append(f"{outputs} = {node.name} {', '.join(names[value] for value in node.inputs)}")
        lines.append(f"return {', '.join(names[value] for value in self.outputs)}")
        return "\n".join(lines) + "\n"


def trace(apply_fn: ApplyFn, variables: Pytree, x: Tensor) -> Graph:
    """The graph of `apply_fn(variables, x)`; both arguments may be arrays or `jax.ShapeDtypeStruct`s."""
    closed, out_shape = jax.make_jaxpr(apply_fn, return_shape=True)(variables, x)
    jaxpr, constants = _open(closed)
    builder = _Builder()
    paths = [leaf_path(path) for path, _ in jax.tree_util.tree_flatten_with_path(variables)[0]]
    arguments = [builder.value(var.aval) for var in jaxpr.invars]
    builder.leaves.update(zip(arguments, paths, strict=False))
    outputs = builder.inline(jaxpr, constants, arguments, _Place())
    return builder.finish(arguments[-1], outputs, jax.tree_util.tree_structure(out_shape))


def leaf_path(key_path: tuple[Any, ...]) -> Path:
    """A pytree key path as plain names: `('params', 'Conv_0', 'kernel')`."""
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in key_path)


@dataclass(frozen=True)
class _Place:
    """Where an equation stands: in which named scopes, in which named calls."""

    scope: str = ""
    call: str = ""

    def of(self, eqn: JaxObject) -> _Place:
        return _Place(_join(self.scope, str(eqn.source_info.name_stack)), self.call)

    def inside(self, eqn: JaxObject) -> _Place:
        """The place of a call's body."""
        name = eqn.params.get("name")
        return _Place(self.scope, _join(self.call, name if isinstance(name, str) else ""))


class _Builder:
    """Collects nodes while it walks a jaxpr and the bodies of its calls."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.avals: list[Aval] = []
        self.leaves: dict[int, Path] = {}
        self.constants: dict[int, Any] = {}

    def value(self, aval: JaxObject) -> int:
        self.avals.append(Aval(tuple(aval.shape), aval.dtype) if hasattr(aval, "shape") else Aval((), np.dtype("V")))
        return len(self.avals) - 1

    def constant(self, array: Tensor, aval: JaxObject) -> int:
        value = self.value(aval)
        self.constants[value] = np.asarray(array, aval.dtype) if _is_numpy(aval.dtype) else array
        return value

    def inline(
        self, jaxpr: JaxObject, constants: Sequence[Tensor], arguments: Sequence[int], place: _Place
    ) -> list[int]:
        """Append the jaxpr's operations; return the values of its outputs."""
        env = dict(zip(jaxpr.invars, arguments, strict=True))
        env |= {var: self.constant(array, var.aval) for var, array in zip(jaxpr.constvars, constants, strict=True)}
        for eqn in jaxpr.eqns:
            inputs = [self.read(env, atom) for atom in eqn.invars]
            env.update(zip(eqn.outvars, self.append(eqn, inputs, place.of(eqn)), strict=True))
        return [self.read(env, atom) for atom in jaxpr.outvars]

    def read(self, env: Mapping[Any, int], atom: JaxObject) -> int:
        return self.constant(atom.val, atom.aval) if isinstance(atom, jex.Literal) else env[atom]

    def append(self, eqn: JaxObject, inputs: list[int], place: _Place) -> list[int]:
        """One equation as a node, or, for a call, as the nodes of its body."""
        if eqn.primitive.name in CALLS:
            return self.inline(*_open(eqn.params[CALLS[eqn.primitive.name]]), inputs, place.inside(eqn))
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

    def finish(self, x: int, outputs: list[int], out_tree: JaxObject) -> Graph:
        return Graph(
            nodes=tuple(self.nodes),
            avals=tuple(self.avals),
            leaves=self.leaves,
            constants=self.constants,
            input=x,
            outputs=tuple(outputs),
            out_tree=out_tree,
            known=frozenset(self.known()),
        )

    def known(self) -> Iterator[int]:
        """The values that the network's input cannot reach."""
        known = {*self.leaves, *self.constants}
        yield from known
        for node in self.nodes:
            if not node.effectful and known.issuperset(node.inputs):
                known.update(node.outputs)
                yield from node.outputs


def _open(jaxpr: JaxObject) -> tuple[Any, Sequence[Any]]:
    """A jaxpr beside its constants, whichever of JAX's two spellings it came in."""
    return getattr(jaxpr, "jaxpr", jaxpr), getattr(jaxpr, "consts", ())


def _constant_text(constant: Tensor) -> str:
    return f"constant{list(np.shape(constant))}" if np.ndim(constant) else str(np.asarray(constant))


def _join(scope: str, inner: str) -> str:
    return f"{scope}/{inner}" if scope and inner else scope or inner


def _is_numpy(dtype: DType) -> bool:
    """Whether NumPy can hold it: PRNG keys have a dtype of their own."""
    return not jax.dtypes.issubdtype(dtype, jax.dtypes.extended)
