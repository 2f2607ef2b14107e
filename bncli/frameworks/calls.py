"""The calls of a network's layers, reported to whoever observes them, whatever the framework.

Calls of linen modules are intercepted. A network of another framework reports its own calls with ``report``, if
``is_observed``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TypeAlias

import flax.linen as nn
import jax
from flax.core import tracers
from flax.linen.module import InterceptorContext


@dataclass(frozen=True)
class NormCall:
    """The settings of a BN layer in a call.

    Attributes:
        path: of the layer.
        epsilon: ε, added to the variance.
        momentum: weight of the old running value.
        axis: the channel axis or axes of the input, which may count from the end.
    """

    path: str
    epsilon: float
    momentum: float
    axis: int | tuple[int, ...]


@dataclass(frozen=True)
class LayerCall:
    """A call of a module inside a network.

    Attributes:
        path: of the module, "" for the network itself.
        inputs: the first argument; None if its values must not leave a loop.
        outputs: the result; None likewise.
        norm: of a BN layer; None for any other module.
        is_linear: True for a convolution or a dense layer.
    """

    path: str
    inputs: object = field(repr=False)
    outputs: object = field(repr=False)
    norm: NormCall | None = None
    is_linear: bool = False


Look: TypeAlias = Callable[[LayerCall], None]


@dataclass(frozen=True)
class _Watcher:
    look: Look
    hidden: Look | None


_WATCHERS: ContextVar[tuple[_Watcher, ...]] = ContextVar("watchers", default=())
# Arguments as a module was called with them.
Arguments: TypeAlias = tuple[object, ...]
Keywords: TypeAlias = dict[str, object]


@contextmanager
def observing(look: Look, *, hidden: Look | None = None) -> Iterator[None]:
    """Call ``look(call)`` after each call of a module inside the context.

    Args:
        look: gets the call.
        hidden: gets, in place of ``look``, each module that is called inside a loop or another transformation of JAX
            (``nn.scan``, ``nn.remat``, ``nn.vmap``), which its values must not leave. None if ``look`` keeps no values.
    """
    watcher = _Watcher(look, hidden)
    token = _WATCHERS.set((*_WATCHERS.get(), watcher))
    try:
        with nn.intercept_methods(_LinenCalls(watcher)):
            yield
    finally:
        _WATCHERS.reset(token)


def is_observed() -> bool:
    """True if calls are observed at present."""
    return bool(_WATCHERS.get())


def report(call: LayerCall, *, is_hidden: bool = False) -> None:
    """Report a call to all observers.

    Args:
        call: of a module of another framework than linen.
        is_hidden: True if its values must not leave a loop.
    """
    for watcher in _WATCHERS.get():
        _tell(watcher, call, is_hidden=is_hidden)


def _tell(watcher: _Watcher, call: LayerCall, *, is_hidden: bool) -> None:
    if is_hidden and watcher.hidden is not None:
        watcher.hidden(LayerCall(call.path, None, None, call.norm, call.is_linear))
    else:
        watcher.look(call)


def first_array(outputs: object) -> object:
    """The array that a layer returns, alone or as the first of a tuple."""
    return outputs[0] if isinstance(outputs, tuple) and outputs else outputs


class _LinenCalls:
    """An interceptor of linen that reports calls to one observer."""

    def __init__(self, watcher: _Watcher) -> None:
        self._watcher = watcher
        self._running: list[nn.Module] = []
        self._outermost: object = None  # the trace of the network's own call

    def __call__(
        self, next_fun: Callable[..., object], args: Arguments, kwargs: Keywords, context: InterceptorContext
    ) -> object:
        module, running = context.module, self._running
        # A subclass that calls its parent's method is intercepted twice.
        if context.method_name != "__call__" or any(module is other for other in running):
            return next_fun(*args, **kwargs)
        trace: object = tracers.current_trace()
        if not running:
            self._outermost = trace
        running.append(module)
        try:
            outputs = next_fun(*args, **kwargs)
        finally:
            running.pop()
        call = _linen_call(module, args[0] if args else kwargs.get("x"), outputs)
        _tell(self._watcher, call, is_hidden=trace != self._outermost)
        return outputs


def _linen_call(module: nn.Module, inputs: object, outputs: object) -> LayerCall:
    path = "/".join(module.path)
    norm = None
    if isinstance(module, nn.BatchNorm):
        axis = module.axis if isinstance(module.axis, int) else tuple(module.axis)
        norm = NormCall(path, float(module.epsilon), float(module.momentum), axis)
    return LayerCall(path, inputs, outputs, norm, is_linear=isinstance(module, nn.Conv | nn.Dense))


def current_trace() -> object:
    """The trace that JAX is in, which differs inside loops and other transformations."""
    trace: object = tracers.current_trace()
    return trace


def arrays_of(tree: object) -> list[jax.Array]:
    """The arrays in a pytree."""
    return [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]
