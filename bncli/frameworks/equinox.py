"""Equinox models: their arrays and states by name, their call in eval mode, and models without BN.

A model of Equinox takes one example, and a batch by ``jax.vmap``. ``BatchNorm(mode="batch")`` keeps hidden averages
that start at 0 (mean) and at 1 (variance) and divides both by 1 − mⁿ after n updates. That removes the start of the
mean, but not the start of the variance, which stays too large by mⁿ/(1 − mⁿ).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp

from bncli.errors import FoldError
from bncli.folding import Folded
from bncli.folding.trace.graph import Pytree, leaf_path
from bncli.frameworks.adapted import (
    BIAS,
    MEAN,
    OTHERS,
    PARAMETERS,
    SCALE,
    STATISTICS,
    VAR,
    Adapted,
    Array,
    ArrayPath,
    NewStatistics,
    arguments,
    at,
    filed,
)
from bncli.frameworks.linen import BatchNormSettings, Variables
from bncli.frameworks.without_norms import REMEDY, Remains, remains_of

KeyPath: TypeAlias = tuple[jax.tree_util.GetAttrKey | jax.tree_util.SequenceKey | jax.tree_util.DictKey, ...]
EVAL_MODE = "pass eqx.nn.inference_mode(model)"
# Half of the distance from 1 to the next smaller number in float32, and less.
_FORGOTTEN = 2.0**-26
# Equinox's names of a BN layer's parameters.
NAMES = {"weight": SCALE, "bias": BIAS}


@dataclass(frozen=True)
class _Norm:
    """A BN layer with the states of its statistics.

    Attributes:
        layer: the module.
        mean: running mean, or the hidden average of ``mode="batch"``; `var`: likewise.
        counter: the number of updates, which debiases hidden averages; None for ``mode="ema"``.
        first_time: True until the first update; None for ``mode="batch"``.
    """

    layer: eqx.nn.BatchNorm
    mean: jax.Array
    var: jax.Array
    counter: jax.Array | None
    first_time: jax.Array | None

    @property
    def debiasing(self) -> float:
        """1 − mⁿ, by which the hidden averages are divided; 1 for ``mode="ema"``. Before the first update n is 1."""
        return 1.0 if self.counter is None else float(1 - self.layer.momentum ** max(int(self.counter), 1))

    @property
    def excess(self) -> float:
        """mⁿ/(1 − mⁿ): what is left of the hidden variance's start, 1, after the division."""
        return 0.0 if self.is_new else (1 - self.debiasing) / self.debiasing

    @property
    def is_new(self) -> bool:
        """True if no update was ever made, so that eval mode divides by zero."""
        return self.counter is not None and not int(self.counter)

    @property
    def statistics(self) -> dict[str, jax.Array]:
        """Mean and variance as eval mode uses them; the start values, 0 and 1, before the first update."""
        if self.is_new:
            return {MEAN: self.mean, VAR: self.var}
        return {MEAN: self.mean / self.debiasing, VAR: self.var / self.debiasing}


def adapt(model: eqx.Module, state: eqx.nn.State | None, *, eval_mode: bool = False) -> Adapted:
    """The network of a model, which stays as it is.

    Args:
        state: the state of its BN layers; None for a model without.
        eval_mode: call the model in inference mode, whatever mode it is in.

    Raises:
        FoldError: the model has BN, and there is no state.
    """
    used = eqx.nn.inference_mode(model) if eval_mode else model
    norms = _norms(model, state)
    paths, leaves, structure = _flat_model(used, norms)
    state_leaves, state_structure = jax.tree_util.tree_flatten(state)
    state_paths = _state_paths(state_leaves, norms)
    factors = [norms[path[1]].debiasing if path[0] == STATISTICS else 1.0 for path in state_paths]
    stored = dict(zip((*paths, *state_paths), (*leaves, *state_leaves), strict=True))
    for name, norm in norms.items():
        stored |= {(STATISTICS, name, statistic): array for statistic, array in norm.statistics.items()}
    new = {id(norm.counter) for norm in norms.values() if norm.is_new}
    stored |= {
        path: jnp.ones_like(leaf) for path, leaf in zip(state_paths, state_leaves, strict=True) if id(leaf) in new
    }

    def apply_fn(variables: Variables, x: Pytree) -> Pytree:
        _check_eval_mode(used, norms, eval_mode=eval_mode)
        given = [at(variables, p) if eqx.is_array(leaf) else leaf for p, leaf in zip(paths, leaves, strict=True)]
        mine = jax.tree_util.tree_unflatten(structure, given)
        states = [
            at(variables, path) * factor if factor != 1 else at(variables, path)
            for path, factor in zip(state_paths, factors, strict=True)
        ]
        states = jax.tree_util.tree_unflatten(state_structure, states)
        return _called(mine, states, x, norms)

    return Adapted(
        framework="equinox",
        apply_fn=apply_fn,
        variables=filed({path: array for path, array in stored.items() if eqx.is_array(array)}),
        norms={
            name: BatchNormSettings(float(norm.layer.eps), float(norm.layer.momentum)) for name, norm in norms.items()
        },
        with_statistics=lambda new: _with_statistics(state, norms, new),
        again=lambda other: adapt(other, state),
        excess={name: norm.excess for name, norm in norms.items() if norm.counter is not None},
        train_mode=tuple(name for name, norm in norms.items() if not norm.layer.inference),
        module=lambda folded: _without_norms(model, norms, folded),
    )


def _is_norm(node: object) -> bool:
    return isinstance(node, eqx.nn.BatchNorm)


def _norms(model: eqx.Module, state: eqx.nn.State | None) -> dict[str, _Norm]:
    """The BN layers by name: ``layers/1``."""
    found = jax.tree_util.tree_flatten_with_path(model, is_leaf=_is_norm)[0]
    layers = {"/".join(leaf_path(path)) if path else "": node for path, node in found if _is_norm(node)}
    if layers and state is None:
        raise FoldError(
            f"{next(iter(layers)) or 'the model'} keeps its running statistics in a state, and none was given",
            remedy="pass state=state, as eqx.nn.make_with_state returned it or as the training updated it",
        )
    return {name: _norm(layer, state) for name, layer in layers.items() if state is not None}


def _norm(layer: eqx.nn.BatchNorm, state: eqx.nn.State) -> _Norm:
    """The layer with its states; releases before 0.13 have one mode, "ema"."""
    fields: Mapping[str, Pytree] = vars(layer)
    if fields.get("mode") == "batch":
        mean, var = state.get(fields["batch_state_index"])
        return _Norm(layer, mean, var, state.get(fields["batch_counter"]), None)
    mean, var = state.get(fields.get("ema_state_index") or fields["state_index"])
    first_time = state.get(fields.get("ema_first_time_index") or fields["first_time_index"])
    return _Norm(layer, mean, var, None, first_time)


def _flat_model(
    model: eqx.Module, norms: Mapping[str, _Norm]
) -> tuple[list[ArrayPath], list[Array], jax.tree_util.PyTreeDef]:
    found, structure = jax.tree_util.tree_flatten_with_path(model)
    return [_path_of(path, norms) for path, _ in found], [leaf for _, leaf in found], structure


def _path_of(key_path: KeyPath, norms: Mapping[str, _Norm]) -> ArrayPath:
    *module, name = leaf_path(key_path)
    is_norm = "/".join(module) in norms
    return (PARAMETERS, *module, NAMES.get(name, name) if is_norm else name)


def _state_paths(leaves: list[Array], norms: Mapping[str, _Norm]) -> list[ArrayPath]:
    """The path of each leaf of the state: under its BN layer, or by number."""
    named = {
        id(array): (STATISTICS, layer, name)
        for layer, norm in norms.items()
        for name, array in ((MEAN, norm.mean), (VAR, norm.var))
    }
    return [named.get(id(leaf), (OTHERS, "state", str(number))) for number, leaf in enumerate(leaves)]


def _check_eval_mode(model: eqx.Module, norms: Mapping[str, _Norm], *, eval_mode: bool) -> None:
    """Refuse a model with a layer in train mode, or without statistics unless these are to be measured.

    Raises:
        FoldError: the message names the layer.
    """
    new = next((name for name, norm in norms.items() if norm.is_new), None)
    if new is not None and not eval_mode:
        raise FoldError(
            f"{new or 'the BN'} has no running statistics yet: no batch has updated them",
            remedy="train the model first, or measure them: state = bncli.recalibrate(model, batches, state=state)",
        )

    def is_training(node: object) -> bool:
        return isinstance(node, eqx.Module) and getattr(node, "inference", None) is False

    for path, node in jax.tree_util.tree_flatten_with_path(model, is_leaf=is_training)[0]:
        if is_training(node):
            name = "/".join(leaf_path(path)) if path else type(node).__name__
            raise FoldError(f"{name} ({type(node).__name__}) is in train mode", remedy=EVAL_MODE)


def _called(model: Callable[..., Pytree], state: eqx.nn.State | None, x: Pytree, norms: Mapping[str, _Norm]) -> Pytree:
    """The outputs for a batch.

    Raises:
        FoldError: the call changed the state of a BN layer.
    """
    given = arguments(x)
    parameters = inspect.signature(type(model).__call__).parameters
    key = {"key": None} if "key" in parameters and parameters["key"].default is inspect.Parameter.empty else {}
    axis = next((norm.layer.axis_name for norm in norms.values() if isinstance(norm.layer.axis_name, str)), None)
    if state is None:
        return jax.vmap(lambda *inputs: model(*inputs, **key), axis_name=axis)(*given)

    def one(*inputs: Pytree) -> Pytree:
        outputs, after = model(*inputs, state, **key)
        changed = [a is not b for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True)]
        if any(changed):
            raise FoldError("the model updates its state: it is in train mode", remedy=EVAL_MODE)
        return outputs

    return jax.vmap(one, axis_name=axis)(*given)


def _with_statistics(state: eqx.nn.State | None, norms: Mapping[str, _Norm], new: NewStatistics) -> eqx.nn.State | None:
    """A state by which each layer normalises with these statistics.

    A layer that divides by 1 − mⁿ counts so many updates from then on that nothing is left to divide out.
    """
    replaced: dict[int, jax.Array] = {}
    for name, (mean, var) in new.items():
        norm = norms[name]
        replaced[id(norm.mean)] = jnp.asarray(mean, norm.mean.dtype)
        replaced[id(norm.var)] = jnp.asarray(var, norm.var.dtype)
        if norm.counter is not None:
            replaced[id(norm.counter)] = jnp.maximum(norm.counter, _enough_updates(float(norm.layer.momentum)))
        if norm.first_time is not None:
            replaced[id(norm.first_time)] = jnp.asarray(False)
    leaves, structure = jax.tree_util.tree_flatten(state)
    new_state: eqx.nn.State | None = jax.tree_util.tree_unflatten(
        structure, [replaced.get(id(leaf), leaf) for leaf in leaves]
    )
    return new_state


def _enough_updates(momentum: float) -> int:
    """The number of updates after which 1 − mⁿ is 1 in float32."""
    return math.ceil(math.log(_FORGOTTEN) / math.log(momentum)) if 0 < momentum < 1 else 1


class Identity(eqx.nn.StatefulLayer):
    """The place of a folded ``eqx.nn.BatchNorm``."""

    def __call__(
        self, x: jax.Array, state: eqx.nn.State, *, key: jax.Array | None = None, inference: bool | None = None
    ) -> tuple[jax.Array, eqx.nn.State]:
        """``x`` and the state as they are."""
        return x, state


class Multiply(eqx.nn.StatefulLayer):
    """The place of a kept ``eqx.nn.BatchNorm``: its multiply-add."""

    scale: jax.Array
    shift: jax.Array

    def __call__(
        self, x: jax.Array, state: eqx.nn.State, *, key: jax.Array | None = None, inference: bool | None = None
    ) -> tuple[jax.Array, eqx.nn.State]:
        """x · scale + shift, and the state as it is."""
        shape = (-1, *(1,) * (x.ndim - 1))
        return x * self.scale.reshape(shape) + self.shift.reshape(shape), state


def _without_norms(model: eqx.Module, norms: Mapping[str, _Norm], folded: Folded) -> eqx.Module:
    """A model that computes what ``folded`` does; it takes and returns a state like the original.

    Raises:
        FoldError: a folded array has no place in the model.
    """
    remains = remains_of(folded, norms)
    places = _places(model)
    for name, arrays in remains.arrays.items():
        old = _get(model, places.get(name, ()))
        model = _put(model, places.get(name, ()), _with_arrays(old, arrays, name))
    for name, norm in norms.items():
        model = _put(model, places[name], _kept(remains, name, norm) if name in remains.norms else Identity())
    return model


def _kept(remains: Remains, name: str, norm: _Norm) -> Multiply:
    arrays = remains.norm(name, norm.layer.input_size, 0.0)
    return Multiply(*(jnp.asarray(arrays[part], norm.mean.dtype) for part in (SCALE, BIAS)))


def _places(model: eqx.Module) -> dict[str, KeyPath]:
    """The key path of each module by its name."""
    places: dict[str, KeyPath] = {}
    for path, _ in jax.tree_util.tree_flatten_with_path(model, is_leaf=lambda node: node is None)[0]:
        for length in range(len(path)):
            places.setdefault("/".join(leaf_path(path[:length])) if length else "", path[:length])
    return places


def _get(node: Pytree, path: KeyPath) -> Pytree:
    for key in path:
        if isinstance(key, jax.tree_util.GetAttrKey):
            node = getattr(node, key.name)
        else:
            node = node[key.idx if isinstance(key, jax.tree_util.SequenceKey) else key.key]
    return node


def _put(model: eqx.Module, path: KeyPath, module: eqx.Module) -> eqx.Module:
    return eqx.tree_at(lambda node: _get(node, path), model, module) if path else module


def _with_arrays(module: eqx.Module, arrays: Mapping[str, Array], name: str) -> eqx.Module:
    """The layer with these arrays, each in the shape of the one in its place.

    Raises:
        FoldError: the layer has no such field.
    """
    fields: dict[str, object] = {}
    for field, array in arrays.items():
        old = getattr(module, field, None)
        if isinstance(old, jax.Array):
            fields[field] = jnp.reshape(array, old.shape)
        elif field == BIAS and hasattr(module, "use_bias"):
            spatial = getattr(module, "num_spatial_dims", 0)
            fields |= {field: jnp.reshape(array, (-1, *(1,) * spatial)), "use_bias": True}
        else:
            raise FoldError(f"the model has no place for the folded {name}/{field}", remedy=REMEDY)
    copy: eqx.Module = object.__new__(type(module))
    for field, value in {**vars(module), **fields}.items():
        object.__setattr__(copy, field, value)
    return copy
