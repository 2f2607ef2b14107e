"""One way to call any linen module: train or eval mode, running or batch statistics, padded batches.

Modules spell train mode differently (``train=True``, ``deterministic=False`` …) and few take a mask. A ``Network``
hides both: it finds the module's own spelling, and hands mask and mode to each ``nn.BatchNorm`` inside it by
``nn.intercept_methods``, so that a model needs to know nothing of padding.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bncli.errors import ModelError
from bncli.process.flags import once_compiler_options

Variables = Mapping[str, Any]  # {"params": …, "batch_stats": …}

# argument of ``__call__`` -> its value in train mode
TRAIN_ARGUMENTS = {
    "deterministic": False,
    "is_training": True,
    "train": True,
    "training": True,
    "use_running_average": False,
}


@dataclass(frozen=True)
class BatchNormSettings:
    """What a BN layer is set to and no checkpoint stores.

    Attributes:
        epsilon: added to the variance.
        momentum: weight of the old running value (Flax's convention; 1 − PyTorch's).
    """

    epsilon: float
    momentum: float


@dataclass(frozen=True)
class Network:
    """A linen module together with the way to call it.

    Attributes:
        module: takes images [B, H, W, C] and returns logits [B, num_classes].
        train_argument: the module's own name for its mode, a key of TRAIN_ARGUMENTS, or None where it has none.
    """

    module: nn.Module
    train_argument: str | None

    def init(self, key: jax.Array, image_shape: tuple[int, int, int]) -> Variables:
        """Initial variables for images of ``image_shape`` = (H, W, C).

        Raises:
            ModelError: the module cannot be applied to such images.
        """
        images = jnp.zeros((2, *image_shape), jnp.float32)  # [B, H, W, C]
        params_key, dropout_key = jax.random.split(key)
        traced = isinstance(images, jax.core.Tracer)  # inside of another program, whose options hold
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
    ) -> tuple[jax.Array, Mapping[str, Any]]:
        """Train mode: (logits float32 [B, num_classes], the updated batch_stats).

        Args:
            variables: params and batch_stats.
            images: normalised, [B, H, W, C].
            mask: bool [B], False for padding, which BN then leaves out of its statistics; None where nothing is padded.
            dropout_key: for this step.
        """
        with _interception(mask=mask):
            return self._train_mode(variables, images, dropout_key)

    def logits(self, variables: Variables, images: jax.Array) -> jax.Array:
        """Eval mode, running statistics: logits float32 [B, num_classes] of normalised images [B, H, W, C]."""
        logits: Any = self.module.apply(variables, images, **self._mode(False))
        return logits.astype(jnp.float32)

    def logits_by_batch_stats(self, variables: Variables, images: jax.Array, *, mask: jax.Array | None) -> jax.Array:
        """Logits with each BN normalising by this batch's statistics, dropout off.

        This is train mode without ``nn.Dropout``: a module that is random in another way stays so, with a fixed key.
        """
        with _interception(mask=mask, dropout=False):
            return self._train_mode(variables, images, jax.random.key(0))[0]

    def batch_norms(self, variables: Variables, image_shape: tuple[int, int, int]) -> dict[str, BatchNormSettings]:
        """The settings of each BN layer the module calls, by path ("Block_1/BatchNorm_0"), in order of the call."""
        found: dict[str, BatchNormSettings] = {}

        def look(module: nn.Module, given: Any, made: Any) -> None:  # noqa: ANN401 - whatever a module takes and returns
            if isinstance(module, nn.BatchNorm):
                found["/".join(module.path)] = BatchNormSettings(float(module.epsilon), float(module.momentum))

        images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
        with observing(look):
            jax.eval_shape(self.logits, variables, images)
        return found

    def _train_mode(
        self, variables: Variables, images: jax.Array, dropout_key: jax.Array
    ) -> tuple[jax.Array, Mapping[str, Any]]:
        output: Any = self.module.apply(
            variables, images, rngs={"dropout": dropout_key}, mutable=["batch_stats"], **self._mode(True)
        )
        logits, updates = output
        return logits.astype(jnp.float32), updates.get("batch_stats", {})

    def _mode(self, train: bool) -> dict[str, Any]:
        if self.train_argument is None:
            return {}
        return {self.train_argument: TRAIN_ARGUMENTS[self.train_argument] is train}


def as_network(module: nn.Module) -> Network:
    """The module with the way to call it, found from the signature of its ``__call__``."""
    parameters = inspect.signature(type(module).__call__).parameters
    return Network(module, next((name for name in TRAIN_ARGUMENTS if name in parameters), None))


@contextmanager
def observing(look: Callable[[nn.Module, Any, Any], None]) -> Iterator[None]:
    """Calls ``look(module, its input, what it returned)`` at each call of a linen module inside."""
    under_way: list[nn.Module] = []

    def intercept(next_fun: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], context: Any) -> Any:  # noqa: ANN401
        module = context.module
        # A subclass that calls its parent's method comes by twice.
        if context.method_name != "__call__" or any(module is other for other in under_way):
            return next_fun(*args, **kwargs)
        under_way.append(module)
        try:
            made = next_fun(*args, **kwargs)
        finally:
            under_way.pop()
        look(module, args[0] if args else kwargs.get("x"), made)
        return made

    with nn.intercept_methods(intercept):
        yield


def _is_batch_norm_call(context: Any) -> bool:  # noqa: ANN401 - flax's InterceptorContext
    return isinstance(context.module, nn.BatchNorm) and context.method_name == "__call__"


@contextmanager
def _interception(*, mask: jax.Array | None, dropout: bool = True) -> Iterator[None]:
    """Hands ``mask`` [B] to each BN layer called inside; with ``dropout=False`` each dropout layer is the identity."""

    def intercept(next_fun: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], context: Any) -> Any:  # noqa: ANN401
        if not dropout and isinstance(context.module, nn.Dropout):
            return args[0]
        # A BN under vmap or after a reshape may see another leading axis: then the mask does not apply to it.
        if mask is not None and _is_batch_norm_call(context) and args[0].shape[0] == mask.shape[0]:
            kwargs = {"mask": mask.reshape(mask.shape[0], *[1] * (args[0].ndim - 1)), **kwargs}
        return next_fun(*args, **kwargs)

    with nn.intercept_methods(intercept):
        yield
