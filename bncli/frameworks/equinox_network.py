"""An Equinox model to train: its arrays as ``params``, its state as ``batch_stats``, and its calls on batches.

A model takes one example [C, H, W], and a batch by ``jax.vmap``. In each call its ``BatchNorm`` layers are replaced by
``Norm``, which computes the same, leaves padding out of the statistics, and keeps the mean and variance that eval mode
uses: those of ``mode="batch"`` divided by 1 − mⁿ after n updates.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from bncli.errors import ModelError
from bncli.folding.folded import flatten
from bncli.folding.trace.graph import Pytree, leaf_path
from bncli.frameworks.adapted import ArrayPath, at, filed
from bncli.frameworks.calls import LayerCall, NormCall, is_observed, report
from bncli.frameworks.construction import Construction
from bncli.frameworks.equinox_layers import (
    Mode,
    Norm,
    RecordedLayer,
    cast,
    debiasing,
    indices_of,
    is_norm,
    prepared,
    recording,
)
from bncli.frameworks.network import ImageShape, KernelAxes, Network, Variables

Structure: TypeAlias = jax.tree_util.PyTreeDef
REMEDY = (
    "The model must be called as model(x, state) or model(x) with one image x [C, H, W], and return its logits [K], "
    "with the state if it takes one."
)
# Leaves that are written beside arrays.
NUMBERS = (bool, int, float, complex, np.generic)
COUNTER, FIRST_TIME = "counter", "first_time"


@dataclass(frozen=True)
class EquinoxNetwork(Network):
    """An Equinox model with the way to call it.

    Attributes:
        construction: makes the model of ``key``.
        dtype: of the computation; parameters are kept in float32.
    """

    framework: ClassVar[str] = "equinox"
    kernel_axes: ClassVar[KernelAxes] = KernelAxes(inputs=1, outputs=0)
    construction: Construction
    dtype: np.dtype

    def init(self, key: jax.Array, image_shape: ImageShape) -> Variables:
        """As in Network."""
        images = jnp.zeros((2, *image_shape), jnp.float32)

        def make() -> Variables:
            model, state = self._built(key)
            leaves = [leaf for leaf in jax.tree.leaves((model, state)) if eqx.is_array(leaf)]
            return self._layout.filed(leaves)

        variables: Variables = jax.jit(make)()
        self._check_trains(variables, images, key, name=self.construction.name, remedy=REMEDY)
        return variables

    def train_logits(
        self, variables: Variables, images: jax.Array, *, mask: jax.Array | None, dropout_key: jax.Array
    ) -> tuple[jax.Array, Variables]:
        """As in Network."""
        return self._applied(variables, images, Mode(train=True, frozen=self.frozen), mask, dropout_key)

    def logits(self, variables: Variables, images: jax.Array) -> jax.Array:
        """As in Network."""
        return self._applied(variables, images, Mode(train=False), None, None)[0]

    def logits_by_batch_stats(self, variables: Variables, images: jax.Array, *, mask: jax.Array | None) -> jax.Array:
        """As in Network."""
        mode = Mode(train=True, frozen=self.frozen, dropout=False)
        return self._applied(variables, images, mode, mask, jax.random.key(0))[0]

    def restored(self, variables: Variables) -> tuple[eqx.Module, eqx.nn.State]:
        """(the model in inference mode, its state)."""
        model, state = self._layout.restored(variables)
        for norm in self._layout.norms.values():
            state = _with_hidden(norm, state)
        inference: eqx.Module = eqx.nn.inference_mode(model)
        return inference, state

    def saved_paths(self, image_shape: ImageShape) -> Mapping[ArrayPath, ArrayPath | None]:
        """As in Network: `eqx.tree_serialise_leaves` writes the arrays and numbers of (model, state) in their order."""
        arrays = iter(self._layout.paths)
        written = [leaf for leaf in self._layout.leaves if _is_array(leaf) or isinstance(leaf, NUMBERS)]
        return {(str(number),): next(arrays) if _is_array(leaf) else None for number, leaf in enumerate(written)}

    def from_saved(self, variables: Variables) -> Variables:
        """As in Network: hidden averages become those that eval mode uses."""
        _, state = self._layout.restored(variables)
        for norm in self._layout.norms.values():
            state = _without_hidden(norm, state)
        return self._layout.with_state(variables, state)

    @property
    def debiases(self) -> bool:
        """As in Network."""
        return True

    def excess(self, variables: Variables) -> Mapping[str, float]:
        """As in Network: mⁿ/(1 − mⁿ) of each layer of ``mode="batch"``, whose hidden variance starts at 1."""
        found: dict[str, float] = {}
        for name, norm in self._layout.norms.items():
            if norm.mode == "batch":
                kept = norm.momentum ** int(at(variables, ("batch_stats", name, COUNTER)))
                found[name] = kept / (1 - kept) if kept < 1 else 0.0
        return found

    def _built(self, key: jax.Array) -> tuple[eqx.Module, eqx.nn.State]:
        more = {"key": key} if "key" in self.construction.parameters else {}
        try:
            model, state = eqx.nn.make_with_state(self.construction)(**more)
        except Exception as error:
            raise self.construction.failed(error) from error
        if not isinstance(model, eqx.Module):
            raise ModelError(f"{self.construction.name} makes a {type(model).__name__}, not an Equinox model")
        return model, state

    @cached_property
    def _layout(self) -> _Layout:
        key = jax.eval_shape(lambda: jax.random.key(0))  # a real one would be an operation of a trace under way
        return _Layout.of(*eqx.filter_eval_shape(self._built, key))

    def _applied(
        self, variables: Variables, images: jax.Array, mode: Mode, mask: jax.Array | None, key: jax.Array | None
    ) -> tuple[jax.Array, Variables]:
        model, state = self._layout.restored(variables)
        ready = prepared(cast(model, self.dtype), "", mode, observed=is_observed())
        dtype = images.dtype if self.dtype == jnp.float32 else self.dtype
        call = _Call(ready, state, dtype, frozenset(inspect.signature(type(model).__call__).parameters))
        logits, after, recorded = call(jnp.moveaxis(images, -1, 1), mask, key)
        for name, layer in recorded:
            report(LayerCall(name, layer.inputs, layer.outputs, layer.norm, layer.is_linear), is_hidden=layer.hidden)
        updated = self._layout.with_state(variables, after)
        return logits.astype(jnp.float32), updated.get("batch_stats", {})


@dataclass(frozen=True)
class _Layout:
    """The places of a model's arrays.

    Attributes:
        leaves: of the model and its state, arrays without values.
        structure: of both.
        paths: of the arrays among the leaves, in ``params`` or ``batch_stats``.
        norms: the BN layers by name.
        num_model: number of arrays of the model; the others are the state's.
    """

    leaves: tuple[Pytree, ...]
    structure: Structure
    paths: tuple[ArrayPath, ...]
    norms: Mapping[str, eqx.nn.BatchNorm]
    num_model: int

    @classmethod
    def of(cls, model: eqx.Module, state: eqx.nn.State) -> _Layout:
        """The layout of a model and its state, both without values."""
        found = jax.tree_util.tree_flatten_with_path(model, is_leaf=is_norm)[0]
        norms = {"/".join(leaf_path(path)) if path else "": node for path, node in found if is_norm(node)}
        own = jax.tree_util.tree_flatten_with_path(model)[0]
        paths = [_model_path(path, leaf, norms) for path, leaf in own if _is_array(leaf)]
        numbers = {id(leaf): number for number, leaf in enumerate(jax.tree.leaves(state))}
        named = {numbers[id(leaf)]: path for name, norm in norms.items() for path, leaf in _state_of(name, norm, state)}
        others = [named.get(number, ("batch_stats", "state", str(number))) for number in range(len(numbers))]
        leaves, structure = jax.tree.flatten((model, state))
        return cls(tuple(leaves), structure, (*paths, *others), norms, len(paths))

    def filed(self, arrays: list[jax.Array]) -> dict[str, Variables]:
        """These arrays of the model and its state in nested dicts."""
        tree: dict[str, Variables] = filed(dict(zip(self.paths, arrays, strict=True)))
        return {"params": {}, **tree}

    def restored(self, variables: Variables) -> tuple[eqx.Module, eqx.nn.State]:
        """The model and its state with these arrays."""
        arrays = (at(variables, path) for path in self.paths)
        leaves = [next(arrays) if _is_array(leaf) else leaf for leaf in self.leaves]
        model, state = jax.tree.unflatten(self.structure, leaves)
        return model, state

    def with_state(self, variables: Variables, state: eqx.nn.State) -> dict[str, Variables]:
        """The variables with the arrays of a state."""
        new = dict(zip(self.paths[self.num_model :], jax.tree.leaves(state), strict=True))
        return filed({**dict(flatten(variables)), **new})


def _is_array(leaf: object) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct) or eqx.is_array(leaf)


def _model_path(key: Pytree, leaf: Pytree, norms: Mapping[str, eqx.nn.BatchNorm]) -> ArrayPath:
    """``params`` of floats, which gradients reach, and ``batch_stats`` of other arrays."""
    *module, name = leaf_path(key)
    name = "scale" if "/".join(module) in norms and name == "weight" else name
    return ("params" if jnp.issubdtype(leaf.dtype, jnp.inexact) else "batch_stats", *module, name)


def _state_of(name: str, norm: eqx.nn.BatchNorm, state: eqx.nn.State) -> Iterator[tuple[ArrayPath, object]]:
    """The arrays of a BN layer in the state, by path."""
    indices = indices_of(norm)
    for statistic, leaf in zip(("mean", "var"), state.get(indices.statistics), strict=True):
        yield ("batch_stats", name, statistic), leaf
    yield ("batch_stats", name, COUNTER if norm.mode == "batch" else FIRST_TIME), state.get(indices.progress)


def _with_hidden(norm: eqx.nn.BatchNorm, state: eqx.nn.State) -> eqx.nn.State:
    """A state with Equinox's hidden averages of a layer in place of those that eval mode uses."""
    return _scaled(norm, state, lambda debiasing: debiasing)


def _without_hidden(norm: eqx.nn.BatchNorm, state: eqx.nn.State) -> eqx.nn.State:
    """The opposite of ``_with_hidden``; a layer without updates keeps its start values."""
    return _scaled(norm, state, lambda debiasing: 1 / debiasing)


def _scaled(norm: eqx.nn.BatchNorm, state: eqx.nn.State, factor_of: Callable[[jax.Array], jax.Array]) -> eqx.nn.State:
    if norm.mode != "batch":
        return state
    indices = indices_of(norm)
    factor = factor_of(debiasing(norm.momentum, state.get(indices.progress)))
    mean, var = state.get(indices.statistics)
    scaled: eqx.nn.State = state.set(indices.statistics, (mean * factor, var * factor))
    return scaled


@dataclass(frozen=True)
class _Call:
    """A model on a batch.

    Attributes:
        model: prepared for the mode.
        state: its state.
        dtype: of its input.
        parameters: the names of the arguments of its call.
    """

    model: eqx.Module
    state: eqx.nn.State
    dtype: np.dtype
    parameters: frozenset[str]

    def __call__(
        self, images: jax.Array, mask: jax.Array | None, key: jax.Array | None
    ) -> tuple[jax.Array, eqx.nn.State, list[tuple[str, RecordedLayer]]]:
        """(outputs [B, K], the state after the call, the calls inside) for images [B, C, H, W]."""
        names: list[tuple[str, NormCall | None, bool]] = []
        hidden: list[bool] = []

        def one(x: jax.Array, weight: jax.Array | None, key: jax.Array | None) -> Pytree:
            with recording(weight) as record:
                outputs, state = self._on_one(x, key)
            names[:], hidden[:] = record.names, record.hidden
            return (outputs, record.values), state

        weights = None if mask is None else mask.astype(jnp.float32)
        keys = None if key is None else jax.random.split(key, len(images))
        axes = (0, None if mask is None else 0, None if keys is None else 0)
        batched = jax.vmap(one, in_axes=axes, out_axes=(0, None), axis_name=self._axis_name)
        (outputs, values), state = batched(images.astype(self.dtype), weights, keys)
        layers = [
            (name, RecordedLayer(pair[0], pair[1], norm, is_linear, is_hidden))
            for (name, norm, is_linear), pair, is_hidden in zip(names, values, hidden, strict=True)
        ]
        return outputs, state, layers

    def _on_one(self, x: jax.Array, key: jax.Array | None) -> tuple[Pytree, eqx.nn.State]:
        keywords = {"key": key} if "key" in self.parameters else {}
        call: Pytree = self.model
        if "state" not in self.parameters and not jax.tree.leaves(self.state):
            return call(x, **keywords), self.state
        outputs, state = call(x, self.state, **keywords)
        return outputs, state

    @property
    def _axis_name(self) -> object:
        """The name of the batch axis that the BN layers ask for."""
        norms = [node for node in jax.tree.leaves(self.model, is_leaf=_is_own_norm) if _is_own_norm(node)]
        names = {norm.axis_name if isinstance(norm.axis_name, str) else next(iter(norm.axis_name)) for norm in norms}
        if len(names) > 1:
            raise ModelError(
                f"the BN layers normalize over several axes: {', '.join(map(repr, sorted(names)))}",
                remedy="Give all of them the same axis_name.",
            )
        return next(iter(names), None)


def _is_own_norm(node: object) -> bool:
    return isinstance(node, Norm)
