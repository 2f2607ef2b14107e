"""One way to call any linen module: train or eval mode, running or batch statistics, padded batches.

Modules spell train mode differently (``train=True``, ``deterministic=False`` …) and few take a mask. A ``LinenNetwork``
hides both. It finds the module's own spelling, and passes the mask to each ``nn.BatchNorm`` inside the module with
``nn.intercept_methods``, so a model does not have to know about padding.

Letters: B batch size, H W height and width, C channels, K classes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import tracers
from flax.linen.module import InterceptorContext

from bncli.errors import ModelError
from bncli.folding.trace.graph import Pytree
from bncli.frameworks.calls import Arguments, Keywords
from bncli.frameworks.network import TRAIN_ARGUMENTS, BatchNormSettings, ImageShape, Network, Variables
from bncli.ops import BatchNorm, Dropout, LayerNumbers
from bncli.process.flags import once_compiler_options

__all__ = ["TRAIN_ARGUMENTS", "BatchNormSettings", "LinenNetwork", "Network", "Variables", "as_network"]


@dataclass(frozen=True)
class LinenNetwork(Network):
    """A linen module with the way to call it.

    Attributes:
        module: takes images [B, H, W, C] and returns logits [B, K].
        train_argument: the module's name for its mode, a key of TRAIN_ARGUMENTS; None if it has none.
        given: the numbers of layers that are arguments of the program; set within its trace alone.
    """

    module: nn.Module
    train_argument: str | None
    given: LayerNumbers | None = None

    def init(self, key: jax.Array, image_shape: ImageShape) -> Variables:
        """As in Network."""
        images = jnp.zeros((2, *image_shape), jnp.float32)  # [B, H, W, C]
        params_key, dropout_key = jax.random.split(key)
        traced = isinstance(images, jax.core.Tracer)  # inside another program, whose compiler options apply
        init = jax.jit(
            lambda: self.module.init({"params": params_key, "dropout": dropout_key}, images, **self._mode(True)),
            compiler_options=None if traced else once_compiler_options(),
        )
        try:
            variables = init()
        except Exception as error:
            raise ModelError(
                f"{type(self.module).__name__} cannot be applied to images [B, H, W, C] = {images.shape}: {error}",
                remedy="The model must be a linen module called as model(x, train=bool).",
            ) from error
        return {name: variables[name] for name in ("params", "batch_stats") if name in variables}

    def train_logits(
        self, variables: Variables, images: jax.Array, *, mask: jax.Array | None, dropout_key: jax.Array
    ) -> tuple[jax.Array, Variables]:
        """As in Network."""
        with _interception(mask=mask, frozen=self.frozen, given=self.given):
            return self._train_mode(variables, images, dropout_key)

    def logits_by_given_stats(
        self, variables: Variables, images: jax.Array, part: PartOfBatch, *, dropout_key: jax.Array
    ) -> jax.Array:
        """Logits float32 [B, K] of a part of a batch in train mode, where BN normalizes by given statistics.

        Args:
            variables: params, and as batch_stats the statistics to normalize by.
            images: normalized, [B, H, W, C].
            part: gets the inputs of each BN layer that is not frozen.
            dropout_key: the PRNG key of this step. ``nn.Dropout`` drops what it would drop in the whole batch.
        """
        with _interception_of_part(part, frozen=self.frozen, given=self.given):
            return self._train_mode(variables, images, dropout_key)[0]

    def logits(self, variables: Variables, images: jax.Array) -> jax.Array:
        """As in Network."""
        logits: Any = self.module.apply(variables, images, **self._mode(False))
        result: jax.Array = logits.astype(jnp.float32)
        return result

    def outputs(self, variables: Variables, *inputs: Pytree) -> Pytree:
        """The module's outputs in eval mode, as it returns them."""
        return self.module.apply(variables, *inputs, **self._mode(False))

    def logits_by_batch_stats(self, variables: Variables, images: jax.Array, *, mask: jax.Array | None) -> jax.Array:
        """As in Network."""
        with _interception(mask=mask, dropout=False, frozen=self.frozen):
            return self._train_mode(variables, images, jax.random.key(0))[0]

    def restored(self, variables: Variables) -> tuple[nn.Module, Variables]:
        """(the module, the variables)."""
        return self.module, variables

    def _train_mode(
        self, variables: Variables, images: jax.Array, dropout_key: jax.Array
    ) -> tuple[jax.Array, Variables]:
        outputs: tuple[jax.Array, Variables] = self.module.apply(
            variables, images, rngs={"dropout": dropout_key}, mutable=["batch_stats"], **self._mode(True)
        )
        logits, updates = outputs
        return logits.astype(jnp.float32), updates.get("batch_stats", {})

    def _mode(self, train: bool) -> dict[str, Any]:
        if self.train_argument is None:
            return {}
        return {self.train_argument: TRAIN_ARGUMENTS[self.train_argument] is train}


@dataclass(frozen=True)
class PartOfBatch:
    """A part of a batch whose BN statistics are those of the whole.

    Attributes:
        size: examples in the part.
        batch_size: examples in the whole batch.
        look: gets each BN layer and its input [B, ...], before the layer uses its statistics.
        rows: picks the examples of the part from an array over the whole batch.
        hide: gets, before ``look``, each BN layer that is called inside a loop or another transformation of JAX.
    """

    size: int
    batch_size: int
    look: Callable[[nn.BatchNorm, jax.Array], None]
    rows: Callable[[jax.Array], jax.Array]
    hide: Callable[[nn.BatchNorm], None]


def as_network(module: nn.Module) -> LinenNetwork:
    """The module with the way to call it, which the signature of its ``__call__`` tells."""
    parameters = inspect.signature(type(module).__call__).parameters
    return LinenNetwork(module, next((name for name in TRAIN_ARGUMENTS if name in parameters), None))


def _is_batch_norm_call(context: InterceptorContext) -> bool:
    return isinstance(context.module, nn.BatchNorm) and context.method_name == "__call__"


@contextmanager
def _by_running_statistics(norm: nn.BatchNorm) -> Iterator[None]:
    """Let a bound BN layer use its running statistics inside, whatever it was built with.

    Flax refuses a second value for ``use_running_average`` in the call, and a module is a frozen dataclass.
    """
    built_with = norm.use_running_average
    object.__setattr__(norm, "use_running_average", True)
    try:
        yield
    finally:
        object.__setattr__(norm, "use_running_average", built_with)


@contextmanager
def _interception(
    *,
    mask: jax.Array | None,
    dropout: bool = True,
    frozen: frozenset[str] = frozenset(),
    given: LayerNumbers | None = None,
) -> Iterator[None]:
    """Change what layers called inside do.

    Args:
        mask: [B], passed to each BN layer; None passes nothing.
        dropout: False makes each dropout layer the identity.
        frozen: paths of the BN layers that use their running statistics.
        given: numbers for the layers that take them from the call.
    """

    def intercept(
        next_fun: Callable[..., object], args: Arguments, kwargs: Keywords, context: InterceptorContext
    ) -> object:
        if not dropout and isinstance(context.module, nn.Dropout):
            return args[0]
        if _is_batch_norm_call(context) and "/".join(context.module.path) in frozen:
            assert isinstance(context.module, nn.BatchNorm)
            with _by_running_statistics(context.module):
                return next_fun(args[0] if args else kwargs["x"])
        if mask is not None and _is_batch_norm_call(context):
            x = args[0]
            assert isinstance(x, jax.Array | np.ndarray)
            # Under vmap or after a reshape, BN may see another leading axis; the mask does not apply to that.
            if x.shape[0] == mask.shape[0]:
                kwargs = {"mask": mask.reshape(mask.shape[0], *[1] * (x.ndim - 1)), **kwargs}
        return next_fun(*args, **kwargs, **_given_to(context, given))

    with nn.intercept_methods(intercept):
        yield


def _given_to(context: InterceptorContext, given: LayerNumbers | None) -> dict[str, LayerNumbers]:
    """The argument by which a layer of ``bncli.ops`` gets its numbers; none for other layers."""
    if given is None or context.method_name != "__call__" or not isinstance(context.module, BatchNorm | Dropout):
        return {}
    # Flax's own method of the same name, which the layer calls, is intercepted too.
    return {"given": given} if "given" in inspect.signature(context.orig_method).parameters else {}


@contextmanager
def _interception_of_part(
    part: PartOfBatch, *, frozen: frozenset[str], given: LayerNumbers | None = None
) -> Iterator[None]:
    """Let BN layers use the statistics in their variables, and dropout draw for the whole batch."""
    outermost: object = None

    def batch_norm(norm: nn.BatchNorm, x: jax.Array, next_fun: Callable[..., object]) -> object:
        if "/".join(norm.path) not in frozen:
            if tracers.current_trace() != outermost:
                part.hide(norm)
            part.look(norm, x)
        with _by_running_statistics(norm):
            return next_fun(x)

    def intercept(
        next_fun: Callable[..., object], args: Arguments, kwargs: Keywords, context: InterceptorContext
    ) -> object:
        nonlocal outermost
        outermost = outermost or tracers.current_trace()
        module, x = context.module, args[0] if args else kwargs.get("x")
        if context.method_name != "__call__" or not isinstance(x, jax.Array):
            return next_fun(*args, **kwargs)
        if isinstance(module, nn.BatchNorm) and not _uses_running_statistics(module, args, kwargs):
            return batch_norm(module, x, next_fun)
        kwargs = {**kwargs, **_given_to(context, given)}
        if isinstance(module, nn.Dropout) and x.shape[0] == part.size:
            return _dropped(x, part, lambda whole: next_fun(whole, *args[1:], **kwargs))
        return next_fun(*args, **kwargs)

    with nn.intercept_methods(intercept):
        yield


def _uses_running_statistics(norm: nn.BatchNorm, args: Arguments, kwargs: Keywords) -> bool:
    """True if a model calls a BN layer in eval mode although the model is in train mode."""
    asked = args[1] if len(args) > 1 else kwargs.get("use_running_average")
    return True in (asked, norm.use_running_average)


def _dropped(x: jax.Array, part: PartOfBatch, dropout: Callable[[jax.Array], object]) -> object:
    """A part of a batch without what dropout takes from the whole batch."""
    factors = dropout(jnp.ones((part.batch_size, *x.shape[1:]), x.dtype))
    assert isinstance(factors, jax.Array)
    own = part.rows(factors)
    return jnp.where(own == 0, jnp.zeros_like(x), x * own)
