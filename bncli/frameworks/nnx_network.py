"""A Flax NNX module to train: its variables as plain arrays, and its calls as pure functions.

``params`` holds each ``nnx.Param``, and ``batch_stats`` each other variable but the streams of random numbers. These
are set anew in each call, from the key of the step, so they need not be saved.

Each call merges a copy of the module from its graph. The classes of the copy's modules are replaced by subclasses that
report their calls, and that give BN layers the mask.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, cached_property
from typing import ClassVar, TypeAlias, cast

import jax
import jax.numpy as jnp
from flax import nnx

from bncli.errors import ModelError
from bncli.folding.folded import nested
from bncli.folding.trace.graph import Pytree
from bncli.frameworks.adapted import Array, ArrayPath, at
from bncli.frameworks.calls import LayerCall, NormCall, current_trace, first_array, is_observed, report
from bncli.frameworks.construction import Construction
from bncli.frameworks.network import TRAIN_ARGUMENTS, ImageShape, Network, Variables

Key: TypeAlias = tuple[Pytree, ...]  # the path of a variable in its module
Call: TypeAlias = Callable[..., jax.Array]
Leaf: TypeAlias = Pytree  # a variable of NNX or, where a module holds one without, an array

REMEDY = "The model must be called as model(x) with x [B, H, W, C], and return logits [B, K]."
_PATH = "_bncli_path"


@dataclass(frozen=True)
class NnxNetwork(Network):
    """An NNX module with the way to call it.

    Attributes:
        construction: makes the module of ``rngs``.
    """

    framework: ClassVar[str] = "nnx"
    construction: Construction

    def init(self, key: jax.Array, image_shape: ImageShape) -> Variables:
        """As in Network."""
        images = jnp.zeros((2, *image_shape), jnp.float32)

        def make() -> Variables:
            return _arrays_of(nnx.to_flat_state(nnx.split(self._built(key))[1]))

        variables: Variables = jax.jit(make)()
        self._check_trains(variables, images, key, name=self.construction.name, remedy=REMEDY)
        return variables

    def train_logits(
        self, variables: Variables, images: jax.Array, *, mask: jax.Array | None, dropout_key: jax.Array
    ) -> tuple[jax.Array, Variables]:
        """As in Network."""
        run = _Run(train=True, mask=mask, frozen=self.frozen)
        logits, module = self._applied(variables, images, run, dropout_key)
        after = _arrays_of(nnx.to_flat_state(nnx.split(module)[1]))
        return logits, after.get("batch_stats", {})

    def logits(self, variables: Variables, images: jax.Array) -> jax.Array:
        """As in Network."""
        return self._applied(variables, images, _Run(train=False), None)[0]

    def logits_by_batch_stats(self, variables: Variables, images: jax.Array, *, mask: jax.Array | None) -> jax.Array:
        """As in Network."""
        run = _Run(train=True, mask=mask, frozen=self.frozen, dropout=False)
        return self._applied(variables, images, run, jax.random.key(0))[0]

    def restored(self, variables: Variables) -> nnx.Module:
        """The module in eval mode, with streams of random numbers of seed 0."""
        module = self._merged(variables, None)
        module.eval()
        return module

    def saved_paths(self, image_shape: ImageShape) -> Mapping[ArrayPath, ArrayPath | None]:
        """As in Network: a state of ``nnx.split`` goes by the attributes of the modules."""
        return {tuple(map(str, place)): _path_of(place, leaf) for place, leaf in self._abstract[1].items()}

    def _built(self, key: jax.Array) -> nnx.Module:
        more = {"rngs": nnx.Rngs(key)} if "rngs" in self.construction.parameters else {}
        try:
            module = self.construction(**more)
        except Exception as error:
            raise self.construction.failed(error) from error
        if not isinstance(module, nnx.Module):
            raise ModelError(f"{self.construction.name} makes a {type(module).__name__}, not an NNX module")
        return module

    @cached_property
    def _abstract(self) -> tuple[nnx.GraphDef[nnx.Module], dict[Key, Leaf]]:
        """The graph of the module, and its variables without values."""
        graphdef, state = nnx.split(nnx.eval_shape(lambda: self._built(jax.random.key(0))))
        return graphdef, dict(nnx.to_flat_state(state))

    def _merged(self, variables: Variables, key: jax.Array | None) -> nnx.Module:
        """A module of its own with these arrays; its streams of random numbers start from the key, or from seed 0."""
        graphdef, leaves = self._abstract
        given = [
            (place, _with_value(leaf, _value(variables, place, leaf, _Stream(key, number))))
            for number, (place, leaf) in enumerate(leaves.items())
        ]
        module: nnx.Module = nnx.merge(graphdef, nnx.from_flat_state(given))
        return module

    def _applied(
        self, variables: Variables, images: jax.Array, run: _Run, key: jax.Array | None
    ) -> tuple[jax.Array, nnx.Module]:
        module = self._merged(variables, key)
        module.train() if run.train else module.eval()
        keywords = _mode_of(module, train=run.train)
        _watch(module)
        with _running(run):
            outputs = cast("Call", module)(images, **keywords)
        return outputs.astype(jnp.float32), module


@dataclass(frozen=True)
class _Run:
    """One call of a network.

    Attributes:
        train: True for train mode.
        mask: bool [B], for the BN layers; None if there is no padding.
        frozen: paths of the BN layers that use their running statistics.
        dropout: False makes each dropout layer the identity.
        trace: JAX's trace of the call.
    """

    train: bool
    mask: jax.Array | None = None
    frozen: frozenset[str] = frozenset()
    dropout: bool = True
    trace: object = None


_RUN: ContextVar[_Run | None] = ContextVar("run", default=None)


@contextmanager
def _running(run: _Run) -> Iterator[None]:
    token = _RUN.set(_Run(run.train, run.mask, run.frozen, run.dropout, current_trace()))
    try:
        yield
    finally:
        _RUN.reset(token)


def _mode_of(module: nnx.Module, *, train: bool) -> dict[str, bool]:
    """The argument for the mode, if the module's call has one."""
    parameters = inspect.signature(type(module).__call__).parameters
    return {name: value is train for name, value in TRAIN_ARGUMENTS.items() if name in parameters}


def _arrays_of(state: nnx.FlatState[Leaf]) -> dict[str, Variables]:
    """The arrays of a flat state by collection, in nested dicts; without streams of random numbers."""
    arrays: dict[ArrayPath, Array] = {}
    for key, leaf in dict(state).items():
        path = _path_of(key, leaf)
        if path is not None:
            arrays[path] = leaf.get_value() if isinstance(leaf, nnx.Variable) else leaf
    tree: dict[str, Variables] = nested(arrays)
    return {"params": {}, **tree}


def _path_of(key: Key, leaf: Leaf) -> ArrayPath | None:
    """The path of a variable; None for a stream of random numbers."""
    if isinstance(leaf, nnx.RngState):
        return None
    return ("params" if isinstance(leaf, nnx.Param) else "batch_stats", *map(str, key))


@dataclass(frozen=True)
class _Stream:
    """The start of a stream of random numbers.

    Attributes:
        key: of the step; None for eval mode, which draws none.
        number: of the stream.
    """

    key: jax.Array | None
    number: int

    def start(self, spec: jax.ShapeDtypeStruct) -> jax.Array:
        """The key or the count that the stream begins with."""
        if not jnp.issubdtype(spec.dtype, jax.dtypes.prng_key):
            return jnp.zeros(spec.shape, spec.dtype)
        if self.key is not None:
            key = jax.random.fold_in(self.key, self.number)
            return jax.random.split(key, spec.shape) if spec.shape else key
        with jax.ensure_compile_time_eval():  # a constant: a fold compares the operations of several traces
            return jnp.broadcast_to(jax.random.key(0), spec.shape)


def _value(variables: Variables, key: Key, leaf: Leaf, stream: _Stream) -> Array:
    """The value of a variable: its array, or the start of a stream of random numbers."""
    path = _path_of(key, leaf)
    if path is not None:
        return at(variables, path)
    assert isinstance(leaf, nnx.Variable)
    return stream.start(leaf.get_value())


def _with_value(leaf: Leaf, value: Array) -> Leaf:
    return leaf.replace(value) if isinstance(leaf, nnx.Variable) else value


def _watch(module: nnx.Module) -> None:
    """Make each module inside report its calls, under its path."""
    for key, inner in list(nnx.iter_modules(module)):
        if callable(inner):
            setattr(inner, _PATH, "/".join(map(str, key)))
            object.__setattr__(inner, "__class__", _watched(type(inner)))


@cache
def _watched(base: type[nnx.Module]) -> type[nnx.Module]:
    """A subclass that reports its calls, and does in each what the present run asks for."""

    def call(self: nnx.Module, *args: object, **kwargs: object) -> object:
        run = _RUN.get()
        inputs = args[0] if args else kwargs.get("x")
        if run is None:
            return base.__call__(self, *args, **kwargs)
        if isinstance(self, nnx.Dropout) and not run.dropout:
            return inputs
        changed = _norm_keywords(self, inputs, run) if isinstance(self, nnx.BatchNorm) else {}
        given = args[:1] if changed.keys() & {"use_running_average"} else args  # which may hold the mode too
        outputs = base.__call__(self, *given, **{**kwargs, **changed})
        if is_observed():
            report(_call(self, inputs, outputs), is_hidden=current_trace() != run.trace)
        return outputs

    return type(base.__name__, (base,), {"__call__": call, "__module__": base.__module__})


def _norm_keywords(norm: nnx.BatchNorm, x: object, run: _Run) -> dict[str, object]:
    """The arguments of a BN layer's call that take precedence over the user's."""
    if getattr(norm, _PATH) in run.frozen:
        return {"use_running_average": True}
    # Under vmap or after a reshape, BN may see another leading axis; the mask does not apply to that.
    if run.mask is None or not isinstance(x, jax.Array) or x.shape[0] != run.mask.shape[0]:
        return {}
    return {"mask": run.mask.reshape(-1, *[1] * (x.ndim - 1))}


def _call(module: nnx.Module, inputs: object, outputs: object) -> LayerCall:
    path: str = getattr(module, _PATH)
    norm = None
    if isinstance(module, nnx.BatchNorm):
        norm = NormCall(path, float(module.epsilon), float(module.momentum), module.axis)
    is_linear = isinstance(module, nnx.Conv | nnx.ConvTranspose | nnx.Linear)
    return LayerCall(path, inputs, first_array(outputs), norm, is_linear)
