"""The layers of an Equinox model as one call needs them: ``Norm`` in place of BN, in its mode, and recorded.

Letters: B batch size, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields
from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from bncli.folding.trace.graph import Pytree
from bncli.frameworks.calls import NormCall, current_trace, is_observed


def is_norm(node: object) -> bool:
    """True if a node of a model is a BN layer."""
    return isinstance(node, eqx.nn.BatchNorm)


@dataclass(frozen=True)
class Mode:
    """The mode of a call.

    Attributes:
        train: True for train mode.
        frozen: BN layers that use their running statistics.
        dropout: False makes each dropout layer the identity.
    """

    train: bool
    frozen: frozenset[str] = frozenset()
    dropout: bool = True

    def inference(self, module: eqx.Module, name: str) -> bool:
        """The flag ``inference`` of a layer."""
        if isinstance(module, eqx.nn.BatchNorm):
            return not self.train or name in self.frozen
        return not (self.train and self.dropout)


@dataclass(frozen=True)
class Indices:
    """The places of a BN layer's states: its statistics, and the number of updates or the mark of the first one."""

    statistics: eqx.nn.StateIndex[Pytree]
    progress: eqx.nn.StateIndex[Pytree]


def indices_of(norm: eqx.nn.BatchNorm) -> Indices:
    """The places of a BN layer's states."""
    if norm.mode == "batch":
        assert norm.batch_state_index is not None
        assert norm.batch_counter is not None
        return Indices(norm.batch_state_index, norm.batch_counter)
    assert norm.ema_state_index is not None
    assert norm.ema_first_time_index is not None
    return Indices(norm.ema_state_index, norm.ema_first_time_index)


def debiasing(momentum: float, updates: jax.Array) -> jax.Array:
    """1 − mⁿ, by which Equinox divides hidden averages; 1 before the first update."""
    return jnp.where(updates == 0, 1.0, 1 - jnp.asarray(momentum, jnp.float32) ** updates)


@dataclass
class Record:
    """The calls inside one call of a model, as they were reported.

    Attributes:
        weight: of the present example, 0 or 1; None if there is no padding.
        trace: JAX's trace inside the vmap.
        names: path, BN settings, and True for a convolution or dense layer, of each call.
        values: input and output of each call.
        hidden: paths of modules in loops, by the number of the call.
    """

    weight: jax.Array | None
    trace: object
    names: list[tuple[str, NormCall | None, bool]] = field(default_factory=list)
    values: list[tuple[object, object]] = field(default_factory=list)
    hidden: list[bool] = field(default_factory=list)


_RECORD: ContextVar[Record | None] = ContextVar("record", default=None)


@contextmanager
def recording(weight: jax.Array | None) -> Iterator[Record]:
    """Record the calls inside for the present example, of this weight."""
    record = Record(weight, current_trace())
    token = _RECORD.set(record)
    try:
        yield record
    finally:
        _RECORD.reset(token)


@dataclass(frozen=True)
class RecordedLayer:
    """A call that was recorded, with the values of the whole batch."""

    inputs: object
    outputs: object
    norm: NormCall | None
    is_linear: bool
    hidden: bool


class Norm(eqx.nn.StatefulLayer):
    """The place of an ``eqx.nn.BatchNorm`` in a call."""

    path: str = eqx.field(static=True)
    weight: jax.Array | None
    bias: jax.Array | None
    statistics: eqx.nn.StateIndex[Pytree]
    progress: eqx.nn.StateIndex[Pytree]
    inference: bool = eqx.field(static=True)
    axis_name: str | tuple[str, ...] = eqx.field(static=True)
    eps: float = eqx.field(static=True)
    momentum: float = eqx.field(static=True)
    debiases: bool = eqx.field(static=True)

    def __call__(
        self, x: jax.Array, state: eqx.nn.State, *, key: jax.Array | None = None, inference: bool | None = None
    ) -> tuple[jax.Array, eqx.nn.State]:
        """(x − mean)/√(var + ε) · weight + bias of x [C, ...], computed in float32, and the state after it."""
        given = x.astype(jnp.float32)
        if self.inference:
            mean, var = state.get(self.statistics)
        elif self.debiases:
            mean, var = self._batch_moments(given)
            state = self._updated(state, mean, var)
        else:  # "ema" normalizes by the moving average in train mode too
            state = self._updated(state, *self._batch_moments(given))
            mean, var = state.get(self.statistics)
        shape = (-1, *(1,) * (x.ndim - 1))
        y = (given - mean.reshape(shape)) / jnp.sqrt(var.reshape(shape) + self.eps)
        if self.weight is not None and self.bias is not None:
            y = y * self.weight.reshape(shape) + self.bias.reshape(shape)
        outputs = y.astype(x.dtype)
        _record(self.path, x, outputs, norm=NormCall(self.path, float(self.eps), float(self.momentum), 1))
        return outputs, state

    def _batch_moments(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and biased variance per channel [C] of the batch, without padding."""
        record, axes = _RECORD.get(), tuple(range(1, x.ndim))
        weight = jnp.ones(()) if record is None or record.weight is None else record.weight
        total = jax.lax.psum(weight, self.axis_name)

        def mean_of(y: jax.Array) -> jax.Array:
            mean: jax.Array = jax.lax.psum(weight * y.mean(axis=axes), self.axis_name) / total
            return mean

        mean = mean_of(x)
        return mean, mean_of(jnp.square(x - mean.reshape(-1, *(1,) * len(axes))))

    def _updated(self, state: eqx.nn.State, batch_mean: jax.Array, batch_var: jax.Array) -> eqx.nn.State:
        """The state after an update.

        Of ``mode="batch"``: d' = (m·d·(1 − mⁿ) + (1 − m)·batch)/(1 − mⁿ⁺¹), where the hidden average is d·(1 − mⁿ). Of
        ``mode="ema"``: m·old + (1 − m)·batch, and the batch's own at the first update.
        """
        old, progress = state.get(self.statistics), state.get(self.progress)
        new = (batch_mean, batch_var)
        if self.debiases:
            before, after = debiasing(self.momentum, progress), debiasing(self.momentum, progress + 1)
            mixed = [
                (o * before * self.momentum + n * (1 - self.momentum)) / after for o, n in zip(old, new, strict=True)
            ]
            state = state.set(self.progress, progress + 1)
        else:
            mixed = [
                jnp.where(progress, n, o * self.momentum + n * (1 - self.momentum))
                for o, n in zip(old, new, strict=True)
            ]
            state = state.set(self.progress, jnp.zeros_like(progress))
        updated: eqx.nn.State = state.set(
            self.statistics, tuple(m.astype(o.dtype) for m, o in zip(mixed, old, strict=True))
        )
        return updated


def _norm_of(norm: eqx.nn.BatchNorm, name: str, *, inference: bool) -> Norm:
    indices = indices_of(norm)
    return Norm(
        path=name,
        weight=norm.weight,
        bias=norm.bias,
        statistics=indices.statistics,
        progress=indices.progress,
        inference=inference,
        axis_name=_axis_names(norm),
        eps=norm.eps,
        momentum=norm.momentum,
        debiases=norm.mode == "batch",
    )


def _axis_names(norm: eqx.nn.BatchNorm) -> str | tuple[str, ...]:
    """The name of the batch axis, or the names of several."""
    if isinstance(norm.axis_name, list | tuple):
        return tuple(map(str, norm.axis_name))
    return str(norm.axis_name)


def _record(
    path: str, inputs: object, outputs: object, *, norm: NormCall | None = None, is_linear: bool = False
) -> None:
    """Record a call, if calls are observed."""
    record = _RECORD.get()
    if record is None or not is_observed():
        return
    is_hidden = current_trace() != record.trace
    record.names.append((path, norm, is_linear))
    record.values.append((None, None) if is_hidden else (_array(inputs), _array(outputs)))
    record.hidden.append(is_hidden)


def _array(value: object) -> object:
    """The first array of a layer's argument or result, which may come with a state."""
    return next((leaf for leaf in jax.tree.leaves(value) if isinstance(leaf, jax.Array)), None)


def cast(model: eqx.Module, dtype: np.dtype) -> eqx.Module:
    """The model with its weights in the dtype of the computation; BN layers keep theirs."""
    if dtype == jnp.float32:
        return model

    def narrowed(node: Pytree) -> Pytree:
        is_weight = eqx.is_array(node) and jnp.issubdtype(node.dtype, jnp.floating)
        return node.astype(dtype) if is_weight else node

    narrow: eqx.Module = jax.tree.map(narrowed, model, is_leaf=is_norm)
    return narrow


def prepared(node: Pytree, name: str, mode: Mode, *, observed: bool) -> Pytree:
    """The model for a call: each layer in its mode, ``Norm`` in place of BN layers, and recorders if it is observed."""
    if isinstance(node, eqx.nn.StateIndex):
        return node
    if isinstance(node, eqx.nn.BatchNorm):
        return _norm_of(node, name, inference=mode.inference(node, name))
    if isinstance(node, eqx.Module):
        return _prepared_module(node, name, mode, observed=observed)
    if isinstance(node, dict):
        return {key: prepared(child, _below(name, key), mode, observed=observed) for key, child in node.items()}
    if isinstance(node, list | tuple):
        children = [prepared(child, _below(name, number), mode, observed=observed) for number, child in enumerate(node)]
        return type(node)(*children) if hasattr(node, "_fields") else type(node)(children)
    return node


def _prepared_module(node: eqx.Module, name: str, mode: Mode, *, observed: bool) -> eqx.Module:
    is_called = observed and callable(node)
    kind = _recorded(type(node)) if is_called else type(node)
    copy: eqx.Module = object.__new__(kind)
    for attribute in fields(node):
        if attribute.name in vars(node):
            value = prepared(vars(node)[attribute.name], _below(name, attribute.name), mode, observed=observed)
            is_flag = attribute.name == "inference" and isinstance(value, bool)
            object.__setattr__(copy, attribute.name, mode.inference(node, name) if is_flag else value)
    if is_called:
        object.__setattr__(copy, "bncli_path", name)
    return copy


def _below(name: str, child: object) -> str:
    return f"{name}/{child}" if name else str(child)


@cache
def _recorded(base: type[eqx.Module]) -> type[eqx.Module]:
    """A subclass whose calls are recorded."""
    is_linear = issubclass(base, eqx.nn.Conv | eqx.nn.ConvTranspose | eqx.nn.Linear)

    def call(self: Pytree, *args: object, **kwargs: object) -> object:
        outputs = base.__call__(self, *args, **kwargs)
        inputs = args[0] if args else kwargs.get("x")
        _record(self.bncli_path, inputs, outputs, is_linear=is_linear)
        return outputs

    body = {
        "__call__": call,
        "__annotations__": {"bncli_path": str},
        "bncli_path": eqx.field(static=True, default=""),
        "__module__": base.__module__,
    }
    metaclass: Callable[..., type[eqx.Module]] = type(eqx.Module)
    return metaclass(base.__name__, (base,), body)
