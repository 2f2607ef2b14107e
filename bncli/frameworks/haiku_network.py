"""A function transformed by Haiku to train: its params and state as plain arrays, and its calls as pure functions.

``batch_stats`` holds each BN layer's averages as ``mean`` and ``var``, and beside them what Haiku debiases them by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, TypeAlias

import haiku as hk
import jax
import jax.numpy as jnp

from bncli.folding.folded import flatten
from bncli.folding.trace.graph import Pytree
from bncli.frameworks.adapted import BIAS, OTHERS, PARAMETERS, STATISTICS, Array, ArrayPath, at, filed
from bncli.frameworks.calls import LayerCall, NormCall, current_trace, first_array, is_observed, report
from bncli.frameworks.construction import cannot_apply
from bncli.frameworks.haiku import AVERAGES, Arrays, Transformed, names_of, param_path, state_path, takes_rng
from bncli.frameworks.network import TRAIN_ARGUMENTS, ImageShape, Network, Variables

REMEDY = (
    "The function must be called as net(x, is_training) with x [B, H, W, C], and return logits [B, K]. Transform it by "
    "hk.transform_with_state."
)
# A BN layer's statistic -> the module that keeps its average.
_AVERAGES = {statistic: module for module, statistic in AVERAGES.items()}
# The arguments of ``hk.BatchNorm``.
ARGUMENTS = ("inputs", "is_training", "test_local_stats", "scale", "offset")
Shapes: TypeAlias = Mapping[str, Mapping[str, jax.ShapeDtypeStruct]]


@dataclass(frozen=True)
class HaikuNetwork(Network):
    """A transformed function with the way to call it.

    Attributes:
        name: of the model, for messages.
        transformed: its pure functions.
    """

    framework: ClassVar[str] = "haiku"
    name: str
    transformed: Transformed

    def init(self, key: jax.Array, image_shape: ImageShape) -> Variables:
        """As in Network."""
        images = jnp.zeros((2, *image_shape), jnp.float32)
        _, way = _shapes(self, image_shape)

        def make() -> Variables:
            params, state = _started(self.transformed, key, images, way)
            return _filed(params, state)

        variables: Variables = jax.jit(make)()
        return variables

    def train_logits(
        self, variables: Variables, images: jax.Array, *, mask: jax.Array | None, dropout_key: jax.Array
    ) -> tuple[jax.Array, Variables]:
        """As in Network."""
        run = _Run(train=True, mask=mask, frozen=self.frozen)
        return self._applied(variables, images, run, dropout_key)

    def logits(self, variables: Variables, images: jax.Array) -> jax.Array:
        """As in Network."""
        return self._applied(variables, images, _Run(train=False), None)[0]

    def logits_by_batch_stats(self, variables: Variables, images: jax.Array, *, mask: jax.Array | None) -> jax.Array:
        """As in Network. The function is called in eval mode, where Haiku's dropout is off, and BN in train mode."""
        run = _Run(train=False, mask=mask, frozen=self.frozen, by_batch=True)
        return self._applied(variables, images, run, jax.random.key(0))[0]

    def restored(self, variables: Variables) -> tuple[Arrays, Arrays]:
        """(params, state)."""
        return _unfiled(variables)

    def saved_paths(self, image_shape: ImageShape) -> Mapping[ArrayPath, ArrayPath | None]:
        """As in Network: users save ``{"params": params, "state": state}``."""
        (params, state), _ = _shapes(self, image_shape)
        arrays = {("params", m, n): param_path(m, n, state) for m, inner in params.items() for n in inner}
        arrays |= {("state", m, n): _kept_path(m, n) for m, inner in state.items() for n in inner}
        return {place: tuple(part for name in path for part in name.split("/")) for place, path in arrays.items()}

    @property
    def debiases(self) -> bool:
        """As in Network."""
        return True

    def _applied(
        self, variables: Variables, images: jax.Array, run: _Run, key: jax.Array | None
    ) -> tuple[jax.Array, Variables]:
        height, width, channels = images.shape[1:]
        (params_like, state_like), way = _shapes(self, (height, width, channels))
        params = {
            m: {n: at(variables, param_path(m, n, state_like)) for n in inner} for m, inner in params_like.items()
        }
        state = {m: {n: at(variables, _kept_path(m, n)) for n in inner} for m, inner in state_like.items()}
        with _intercepted(run):
            outputs, after = _applied(self.transformed, params, state, key, images.astype(jnp.float32), way(run.train))
        return outputs.astype(jnp.float32), _filed(params, after).get("batch_stats", {})


@dataclass(frozen=True)
class _Run:
    """One call of a network.

    Attributes:
        train: True for train mode.
        mask: bool [B], for the BN layers; None if there is no padding.
        frozen: BN layers that use their running statistics.
        by_batch: True if BN layers normalize by the batch in eval mode.
    """

    train: bool
    mask: jax.Array | None = None
    frozen: frozenset[str] = frozenset()
    by_batch: bool = False


# The positional and keyword arguments behind the images, in train mode or not.
Way: TypeAlias = "Callable[[bool], tuple[tuple[bool, ...], dict[str, bool]]]"


def _ways() -> Iterator[Way]:
    """The usual ways to tell a function its mode."""
    for name, value in TRAIN_ARGUMENTS.items():
        yield lambda train, name=name, value=value: ((), {name: value is train})  # type: ignore[misc]
    yield lambda train: ((train,), {})
    yield lambda train: ((), {})


@cache
def _shapes(network: HaikuNetwork, image_shape: ImageShape) -> tuple[tuple[Shapes, Shapes], Way]:
    """The shapes of params and state, and the way to call the function.

    Raises:
        ModelError: it cannot be called in any of the usual ways.
    """
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    errors: list[Exception] = []
    for way in _ways():
        try:
            shapes = jax.eval_shape(lambda x, way=way: _started(network.transformed, jax.random.key(0), x, way), images)
        except Exception as error:  # raised by the user's function, so it may be of any type
            errors.append(error)
        else:
            return shapes, way
    raise cannot_apply(network.name, images.shape, errors[-1], remedy=REMEDY)


def _started(transformed: Transformed, key: jax.Array, images: jax.Array, way: Way) -> tuple[Arrays, Arrays]:
    """The initial params and state."""
    positional, keywords = way(True)
    made: Pytree = transformed.init(key, images, *positional, **keywords)
    return made if isinstance(transformed, hk.TransformedWithState) else (made, {})


def _applied(
    transformed: Transformed,
    params: Arrays,
    state: Arrays,
    key: jax.Array | None,
    images: jax.Array,
    mode: tuple[tuple[bool, ...], dict[str, bool]],
) -> tuple[jax.Array, Arrays]:
    """(outputs, state after the call)."""
    positional, keywords = mode
    rng = (key,) if takes_rng(transformed) else ()
    if isinstance(transformed, hk.TransformedWithState):
        outputs: tuple[jax.Array, Arrays] = transformed.apply(params, state, *rng, images, *positional, **keywords)
        return outputs
    return transformed.apply(params, *rng, images, *positional, **keywords), state


def _kept_path(module: str, name: str) -> ArrayPath:
    """The path of a state in ``batch_stats``."""
    collection, *rest = state_path(module, name)
    return (STATISTICS, *rest) if collection in (STATISTICS, OTHERS) else (collection, *rest)


def _filed(params: Arrays, state: Arrays) -> dict[str, Variables]:
    arrays: dict[ArrayPath, Array] = {param_path(m, n, state): params[m][n] for m, n in names_of(params)}
    arrays |= {_kept_path(m, n): state[m][n] for m, n in names_of(state)}
    return {"params": {}, **filed(arrays)}


def _unfiled(variables: Variables) -> tuple[Arrays, Arrays]:
    """The params and state that ``_filed`` put into nested dicts."""
    arrays = dict(flatten(variables))
    trees: dict[str, dict[str, dict[str, Array]]] = {PARAMETERS: {}, STATISTICS: {}}
    for (collection, *module, name), array in arrays.items():
        is_norm = (STATISTICS, *module, "~", "mean_ema", "hidden") in arrays
        layer = "/".join(module)
        if is_norm and collection == STATISTICS:
            layer, name = f"{layer}/~/{_AVERAGES[name]}", "average"
        elif is_norm and name == BIAS:
            name = "offset"
        trees[collection].setdefault(layer, {})[name] = array
    return trees[PARAMETERS], trees[STATISTICS]


@contextmanager
def _intercepted(run: _Run) -> Iterator[None]:
    """Inside, BN layers do what a run asks for, and calls are reported."""
    trace = current_trace()

    def intercept(
        next_fun: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object], context: hk.MethodContext
    ) -> object:
        if context.method_name != "__call__":
            return next_fun(*args, **kwargs)
        module = context.module
        if isinstance(module, hk.BatchNorm):
            outputs: object = _norm_outputs(module, next_fun, args, kwargs, run)
        else:
            outputs = next_fun(*args, **kwargs)
        if is_observed() and not isinstance(module, hk.ExponentialMovingAverage):
            inputs = args[0] if args else kwargs.get("inputs")
            report(_call(module, inputs, outputs), is_hidden=current_trace() != trace)
        return outputs

    with hk.intercept_methods(intercept):
        yield


def _norm_outputs(
    norm: hk.BatchNorm, next_fun: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object], run: _Run
) -> object:
    """The outputs of a BN layer in a run; each way of a user's call, ``norm(x, is_training)``, is admitted."""
    given: dict[str, Any] = {**dict(zip(ARGUMENTS, args, strict=False)), **kwargs}
    if norm.module_name in run.frozen:
        given |= {"is_training": False, "test_local_stats": False}
    elif run.by_batch:
        given["test_local_stats"] = True
    uses_batch = bool(given.get("is_training") or given.get("test_local_stats"))
    x = given["inputs"]
    if run.mask is None or not uses_batch or not isinstance(x, jax.Array) or x.shape[0] != run.mask.shape[0]:
        return next_fun(**given)
    return _masked(norm, given, x, run.mask)


def _masked(norm: hk.BatchNorm, given: Mapping[str, Any], x: jax.Array, mask: jax.Array) -> jax.Array:
    """The outputs of a BN layer that leaves padding out of its statistics."""
    channel = norm.channel_index % x.ndim
    axes = tuple(axis for axis in range(x.ndim) if axis != channel) if norm.axis is None else tuple(norm.axis)
    weight = mask.astype(x.dtype).reshape(-1, *[1] * (x.ndim - 1))

    def mean_of(values: jax.Array) -> jax.Array:
        mean: jax.Array = (values * weight).mean(axis=axes, keepdims=True) / weight.mean()
        return mean

    mean = mean_of(x)
    var = mean_of(jnp.square(x)) - jnp.square(mean)
    if given.get("is_training"):
        norm.mean_ema(mean)
        norm.var_ema(var)
    shape = [1 if axis in axes else x.shape[axis] for axis in range(x.ndim)]
    scale = hk.get_parameter("scale", shape, x.dtype, jnp.ones) if norm.create_scale else given.get("scale")
    offset = hk.get_parameter("offset", shape, x.dtype, jnp.zeros) if norm.create_offset else given.get("offset")
    y = (x - mean) * jax.lax.rsqrt(var + norm.eps)
    y = y if scale is None else y * scale
    return y if offset is None else y + offset


def _call(module: hk.Module, inputs: object, outputs: object) -> LayerCall:
    path = module.module_name
    norm = None
    if isinstance(module, hk.BatchNorm):
        momentum = float(module.mean_ema.decay)
        norm = NormCall(path, float(module.eps), momentum, module.channel_index)
    is_linear = isinstance(module, hk.ConvND | hk.ConvNDTranspose | hk.Linear)
    return LayerCall(path, inputs, first_array(outputs), norm, is_linear)
