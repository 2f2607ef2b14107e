"""One interface to networks that are trained, whatever their framework.

A network maps images [B, H, W, C] to logits [B, K]. Its arrays are ``params``, which are trained, and ``batch_stats``:
everything else that a training step updates, with each BN layer's ``mean`` and ``var`` as eval mode uses them.

Letters: B batch size, H W height and width, C channels, K classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from bncli.errors import ModelError
from bncli.folding.trace.graph import ApplyFn, Pytree
from bncli.frameworks.calls import LayerCall, Look, observing
from bncli.frameworks.construction import cannot_apply

Variables: TypeAlias = Mapping[str, Any]  # {"params": …, "batch_stats": …}, or a part of it: a tree of arrays
Path: TypeAlias = tuple[str, ...]  # names of nested dicts
ImageShape: TypeAlias = tuple[int, int, int]  # (H, W, C)

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
    """The settings of a BN layer, which no checkpoint stores.

    Attributes:
        epsilon: ε, added to the variance.
        momentum: weight of the old running value (Flax's convention: 1 − PyTorch's).
    """

    epsilon: float
    momentum: float


class KernelAxes(NamedTuple):
    """The axes of a convolution's kernel that are channels; the others are positions."""

    inputs: int = -2  # of its group
    outputs: int = -1


CHANNELS_LAST = KernelAxes()


@dataclass(frozen=True)
class Network(ABC):
    """A network with the way to call it. Equal networks make equal programs.

    Attributes:
        framework: the name of its framework.
        kernel_axes: where a convolution's kernel has its channels.
        frozen: paths of the BN layers that normalize by their running statistics in train mode too, and keep them.
    """

    framework: ClassVar[str] = "linen"
    kernel_axes: ClassVar[KernelAxes] = CHANNELS_LAST

    frozen: frozenset[str] = field(default=frozenset(), kw_only=True)

    @abstractmethod
    def init(self, key: jax.Array, image_shape: ImageShape) -> Variables:
        """Initial variables for images of ``image_shape`` = (H, W, C).

        Raises:
            ModelError: the network cannot be built, or applied to such images.
        """

    @abstractmethod
    def train_logits(
        self, variables: Variables, images: jax.Array, *, mask: jax.Array | None, dropout_key: jax.Array
    ) -> tuple[jax.Array, Variables]:
        """(logits float32 [B, K], updated batch_stats) in train mode.

        Args:
            variables: params and batch_stats.
            images: normalized, [B, H, W, C].
            mask: bool [B], False for padding, which BN leaves out of its statistics; None if there is no padding.
            dropout_key: the PRNG key of this step.
        """

    @abstractmethod
    def logits(self, variables: Variables, images: jax.Array) -> jax.Array:
        """Logits float32 [B, K] of normalized images [B, H, W, C], in eval mode with running statistics."""

    @abstractmethod
    def logits_by_batch_stats(self, variables: Variables, images: jax.Array, *, mask: jax.Array | None) -> jax.Array:
        """Logits float32 [B, K] where each BN normalizes by the statistics of this batch, with dropout off.

        This is train mode without dropout layers: frozen BN layers use their running statistics. Other randomness of a
        network stays, with a fixed key.
        """

    @abstractmethod
    def restored(self, variables: Variables) -> object:
        """The user's own objects with these arrays, as their framework applies them."""

    def saved_paths(self, image_shape: ImageShape) -> Mapping[Path, Path | None]:
        """Place of each array in a file that the framework's users save -> its path in the variables.

        None stands for an array that is no variable: a stream of random numbers. The mapping is empty if the file holds
        the variables as they are.
        """
        return {}

    def from_saved(self, variables: Variables) -> Variables:
        """The variables from the values that the framework's users save, filed under the paths of the variables."""
        return variables

    @property
    def debiases(self) -> bool:
        """True if the initial statistics have no part in those that eval mode uses, as in Equinox and Haiku."""
        return False

    def excess(self, variables: Variables) -> Mapping[str, float]:
        """BN layer -> the amount by which its variance is too large in eval mode, where the framework makes it so."""
        return {}

    def batch_norms(self, variables: Variables, image_shape: ImageShape) -> dict[str, BatchNormSettings]:
        """The settings of each BN layer that the network calls, by path ("Block_1/BatchNorm_0"), in call order."""
        return settings_within(self.logits, variables, _images_of(image_shape))

    def called_modules(self, variables: Variables, image_shape: ImageShape) -> tuple[str, ...]:
        """Paths of the modules that the network calls, each once, in the order in which they finish first."""
        found: dict[str, None] = {}
        self._trace(variables, image_shape, lambda call: found.setdefault(call.path))
        return tuple(found)

    def _check_trains(self, variables: Variables, images: jax.Array, key: jax.Array, *, name: str, remedy: str) -> None:
        """Raise ModelError unless the network can be applied to images in train mode; nothing is computed."""
        try:
            jax.eval_shape(lambda: self.train_logits(variables, images, mask=None, dropout_key=key))
        except ModelError:
            raise
        except Exception as error:
            raise cannot_apply(name, images.shape, error, remedy=remedy) from error

    def _trace(self, variables: Variables, image_shape: ImageShape, look: Look) -> None:
        """Call ``look`` for each module of a forward pass in eval mode; nothing is computed."""
        with observing(look):
            jax.eval_shape(self.logits, variables, _images_of(image_shape))


def settings_within(apply_fn: ApplyFn, variables: Variables, example: Pytree) -> dict[str, BatchNormSettings]:
    """The settings of each BN layer that a function calls, by path, in call order; nothing is computed."""
    found: dict[str, BatchNormSettings] = {}

    def look(call: LayerCall) -> None:
        if call.norm is not None:
            found[call.path] = BatchNormSettings(call.norm.epsilon, call.norm.momentum)

    with observing(look):
        jax.eval_shape(apply_fn, variables, example)
    return found


def _images_of(image_shape: ImageShape) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
