"""Flax NNX modules: their variables by name, their call in eval mode, and modules without BN."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx

from bncli.errors import FoldError
from bncli.folding import Folded
from bncli.folding.trace.graph import Pytree
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
from bncli.frameworks.without_norms import Remains, remains_of

Key: TypeAlias = tuple[object, ...]  # names and numbers: the path of a variable or a module inside its module
EVAL_MODE = "call model.eval() before, and model.train() after it if training goes on"


def adapt(module: nnx.Module, *, eval_mode: bool = False) -> Adapted:
    """The network of a module, which stays as it is.

    Args:
        eval_mode: call the module in eval mode, whatever mode it is in.
    """
    used = _copied(module)
    if eval_mode:
        used.eval()
    graphdef, state = nnx.split(used)
    places = {_path_of(key, variable): (key, variable) for key, variable in nnx.to_flat_state(state)}
    norms = dict(_norms(module))

    def apply_fn(variables: Variables, x: Pytree) -> Pytree:
        arrays: dict[Key, Array] = {key: at(variables, path) for path, (key, _) in places.items()}
        given = [(key, variable.replace(arrays[key])) for key, variable in places.values()]
        copy = nnx.merge(graphdef, nnx.from_flat_state(given))
        outputs = copy(*arguments(x))
        _check_unchanged(arrays, copy)
        return outputs

    return Adapted(
        framework="nnx",
        apply_fn=apply_fn,
        variables=filed({path: variable.get_value() for path, (_, variable) in places.items()}),
        norms={name: BatchNormSettings(float(norm.epsilon), float(norm.momentum)) for name, norm in norms.items()},
        with_statistics=lambda new: _with_statistics(module, new),
        again=adapt,
        train_mode=tuple(name for name, norm in norms.items() if not norm.use_running_average),
        module=lambda folded: _without_norms(module, folded),
    )


def _path_of(key: Key, variable: nnx.Variable[Array]) -> ArrayPath:
    kinds = ((nnx.BatchStat, STATISTICS), (nnx.Param, PARAMETERS))
    collection = next((name for kind, name in kinds if isinstance(variable, kind)), OTHERS)
    return (collection, *map(str, key))


def _norms(module: nnx.Module) -> Iterator[tuple[str, nnx.BatchNorm]]:
    """The BN layers by name: ``blocks/0/bn``."""
    for key, inner in nnx.iter_modules(module):
        if isinstance(inner, nnx.BatchNorm):
            yield "/".join(map(str, key)), inner


def _check_unchanged(before: Mapping[Key, Array], after: nnx.Module) -> None:
    """Refuse a call that changed running statistics or drew random numbers: eval mode does neither.

    Raises:
        FoldError: the message names the module.
    """
    for key, variable in nnx.to_flat_state(nnx.split(after)[1]):
        if key not in before or variable.get_value() is before[key]:
            continue
        name = "/".join(map(str, key[:-1])) or type(after).__name__
        if isinstance(variable, nnx.BatchStat):
            raise FoldError(
                f"{name} updates its running statistics and normalises by the batch: the module is in train mode",
                remedy=EVAL_MODE,
            )
        if isinstance(variable, nnx.RngState):
            raise FoldError(f"{name} draws random numbers: the module is in train mode", remedy=EVAL_MODE)


def _copied(module: nnx.Module) -> nnx.Module:
    """A module of its own with the same arrays."""
    copy: nnx.Module = nnx.clone(module)
    return copy


def _inner(module: nnx.Module) -> dict[str, nnx.Module]:
    """The modules inside by name; the module itself is ''."""
    return {"/".join(map(str, key)): inner for key, inner in nnx.iter_modules(module)}


def _with_statistics(module: nnx.Module, new: NewStatistics) -> nnx.Module:
    copy = _copied(module)
    inner = _inner(copy)
    for name, (mean, var) in new.items():
        norm = inner[name]
        assert isinstance(norm, nnx.BatchNorm)
        for variable, array in ((norm.mean, mean), (norm.var, var)):
            variable.set_value(jnp.asarray(array, variable.get_value().dtype))
    return copy


class Identity(nnx.Module):
    """The place of a folded ``nnx.BatchNorm``."""

    def __call__(self, x: jax.Array, *args: object, **kwargs: object) -> jax.Array:
        """``x`` as it is, whatever mode or mask comes along."""
        return x


def _put(parent: nnx.Module, name: object, module: nnx.Module) -> None:
    """Put the module in the place of the attribute or the element of this name."""
    if isinstance(parent, nnx.List):
        parent[int(str(name))] = module
    elif isinstance(parent, nnx.Dict):
        parent[str(name)] = module
    else:
        setattr(parent, str(name), module)


def _without_norms(module: nnx.Module, folded: Folded) -> nnx.Module:
    """A copy of the module that computes what ``folded`` does.

    Raises:
        FoldError: a folded array has no place in the module.
    """
    copy = _copied(module)
    norms = dict(_norms(copy))
    remains = remains_of(folded, norms)
    by_key = dict(nnx.iter_modules(copy))
    for key, inner in list(by_key.items()):
        name = "/".join(map(str, key))
        if name in norms and name not in remains.norms:
            _put(by_key[key[:-1]], key[-1], Identity())
        elif name in norms:
            _set_norm(norms[name], remains, name)
        else:
            _set_arrays(inner, remains.arrays.get(name, {}), name)
    return copy


def _set_norm(norm: nnx.BatchNorm, remains: Remains, name: str) -> None:
    """Make a kept layer multiply and add what is left of it."""
    arrays = remains.norm(name, norm.num_features, float(norm.epsilon))
    norm.mean.set_value(jnp.asarray(arrays[MEAN], norm.mean.get_value().dtype))
    norm.var.set_value(jnp.asarray(arrays[VAR], norm.var.get_value().dtype))
    norm.scale = nnx.Param(jnp.asarray(arrays[SCALE], norm.param_dtype))
    norm.bias = nnx.Param(jnp.asarray(arrays[BIAS], norm.param_dtype))
    norm.use_scale = norm.use_bias = True


def _set_arrays(inner: nnx.Module, arrays: Mapping[str, Array], name: str) -> None:
    for attribute, array in arrays.items():
        old = getattr(inner, attribute, None)
        if isinstance(old, nnx.Variable):
            old.set_value(array)
        elif old is None and attribute == BIAS and isinstance(inner, nnx.Conv | nnx.ConvTranspose | nnx.Linear):
            inner.bias = nnx.Param(array)
            inner.use_bias = True
        else:
            raise FoldError(
                f"the module has no place for the folded {name}/{attribute}",
                remedy="use folded(x) and folded.variables, which hold it",
            )
