"""Haiku's transformed functions: their arrays by module, and their call in eval mode."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TypeAlias

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from bncli.errors import FoldError
from bncli.folding.trace.arguments import described
from bncli.folding.trace.graph import ApplyFn, Pytree
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
from bncli.frameworks.linen import TRAIN_ARGUMENTS, BatchNormSettings, Variables

Arrays: TypeAlias = Mapping[str, Mapping[str, Array]]
Transformed: TypeAlias = "hk.Transformed | hk.TransformedWithState"
# The module that Haiku makes for each running average, in the BN layer's own.
AVERAGES = {"mean_ema": MEAN, "var_ema": VAR}
NAMES = {"scale": SCALE, "offset": BIAS}
EVAL_MODE = (
    "transform a function that calls it in eval mode: hk.transform_with_state(lambda x: net(x, is_training=False))"
)


def adapt(transformed: Transformed, params: Arrays, state: Arrays) -> Adapted:
    """The network of a transformed function with its params and state.

    The function's own argument for eval mode is found at the first call, by trying the usual ones.
    """
    param_paths = {param_path(module, name, state): (module, name) for module, name in names_of(params)}
    state_paths = {state_path(module, name): (module, name) for module, name in names_of(state)}
    found: list[Call] = []

    def apply_fn(variables: Variables, x: Pytree) -> Pytree:
        if not found:
            found.append(_call_of(transformed, params, state, described(x, "input")))
        (call,) = found
        given = _tree({place: at(variables, path) for path, place in state_paths.items()}, state)
        weights = _tree({place: at(variables, path) for path, place in param_paths.items()}, params)
        outputs, after = call(weights, given, x)
        _check_unchanged(given, after)
        return outputs

    arrays = {path: params[module][name] for path, (module, name) in param_paths.items()}
    arrays |= {path: state[module][name] for path, (module, name) in state_paths.items()}
    variables = filed(arrays)
    return Adapted(
        framework="haiku",
        apply_fn=apply_fn,
        variables=variables,
        norms={},
        norms_on=lambda example: _settings_within(apply_fn, variables, example),
        with_statistics=lambda new: _with_statistics(state, new),
        again=lambda other: adapt(other, params, state),
        updates=_updates(state),
    )


def _settings_within(apply_fn: ApplyFn, variables: Variables, example: Pytree) -> dict[str, BatchNormSettings]:
    """The settings of each BN layer that a function calls, by its module's name."""
    found: dict[str, BatchNormSettings] = {}

    def look(
        next_fun: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object], context: hk.MethodContext
    ) -> object:
        norm = context.module
        if isinstance(norm, hk.BatchNorm) and context.method_name == "__call__":
            found[norm.module_name] = BatchNormSettings(float(norm.eps), float(norm.mean_ema.decay))
        return next_fun(*args, **kwargs)

    with hk.intercept_methods(look):
        jax.eval_shape(apply_fn, variables, example)
    return found


def names_of(arrays: Arrays) -> list[tuple[str, str]]:
    """The module and the name of each array."""
    return [(module, name) for module, inner in arrays.items() for name in inner]


def _tree(arrays: Mapping[tuple[str, str], Array], like: Arrays) -> dict[str, dict[str, Array]]:
    return {module: {name: arrays[module, name] for name in inner} for module, inner in like.items()}


def param_path(module: str, name: str, state: Mapping[str, object]) -> ArrayPath:
    """The path of a parameter; those of a BN layer are called scale and bias."""
    is_norm = any(f"{module}/~/{average}" in state for average in AVERAGES)
    return (PARAMETERS, module, NAMES.get(name, name) if is_norm else name)


def state_path(module: str, name: str) -> ArrayPath:
    """A running average by its BN layer; the numbers behind it, and other state, apart."""
    layer, _, average = module.rpartition("/~/")
    if average in AVERAGES and name == "average":
        return (STATISTICS, layer, AVERAGES[average])
    return (OTHERS, module, name)


Call: TypeAlias = Callable[[Arrays, Arrays, Pytree], "tuple[Pytree, Arrays]"]


def _call_of(transformed: Transformed, params: Arrays, state: Arrays, example: Pytree) -> Call:
    """The way to call the function in eval mode: by one of the usual arguments, or without any."""
    errors: list[Exception] = []
    ways = [{name: not train} for name, train in TRAIN_ARGUMENTS.items()]
    for positional, keywords in (*(((), way) for way in ways), ((False,), {}), ((), {})):
        call = _with_arguments(transformed, positional, keywords)
        try:
            jax.eval_shape(call, params, state, example)
        except Exception as error:  # raised by the user's function, so it may be of any type
            errors.append(error)
        else:
            return call
    raise FoldError(f"the function cannot be called with the example: {errors[-1]}", remedy=EVAL_MODE)


def _with_arguments(transformed: Transformed, positional: tuple[bool, ...], keywords: Mapping[str, bool]) -> Call:
    has_rng = takes_rng(transformed)
    has_state = isinstance(transformed, hk.TransformedWithState)

    def call(params: Arrays, state: Arrays, x: Pytree) -> tuple[Pytree, Arrays]:
        before = (params, state) if has_state else (params,)
        rng = (None,) if has_rng else ()
        outputs = transformed.apply(*before, *rng, *arguments(x), *positional, **keywords)
        return outputs if has_state else (outputs, state)

    return call


def takes_rng(transformed: Transformed) -> bool:
    """True if the function takes a key; ``hk.without_apply_rng`` makes one that does not."""
    return "rng" in inspect.signature(transformed.apply).parameters


def _check_unchanged(before: Arrays, after: Arrays) -> None:
    for module, name in names_of(before):
        if after[module][name] is not before[module][name]:
            layer = module.rpartition("/~/")[0] or module
            raise FoldError(f"{layer} updates its state: the function is called in train mode", remedy=EVAL_MODE)


def _updates(state: Arrays) -> dict[str, int]:
    counters = {module.rpartition("/~/"): inner.get("counter") for module, inner in state.items()}
    return {
        layer: int(counter)
        for (layer, _, average), counter in counters.items()
        if average == "mean_ema" and counter is not None
    }


def _with_statistics(state: Arrays, new: NewStatistics) -> dict[str, dict[str, Array]]:
    """A state with these averages. The hidden ones keep their ratio to them, 1 − decayⁿ, for the training to go on."""
    copy = {module: dict(inner) for module, inner in state.items()}
    for layer, statistics in new.items():
        for average, array in zip(AVERAGES, statistics, strict=True):
            inner = copy[f"{layer}/~/{average}"]
            old = np.asarray(inner["average"], np.float64)
            ratio = np.abs(inner["hidden"]).sum(dtype=np.float64) / (np.abs(old).sum() or 1.0)
            inner["average"] = jnp.asarray(array.reshape(old.shape), inner["average"].dtype)
            inner["hidden"] = jnp.asarray(array.reshape(old.shape) * ratio, inner["hidden"].dtype)
    return copy
