"""The state before the first step of a network whose first layer whitens patches of the training images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from bncli.data import Preprocessor, Split, epoch_order
from bncli.models.whitening import WHITEN, patch_size, whitening_kernel
from bncli.process import distributed
from bncli.training.state import ArrayTree, TrainState

# The patches are those of at most so many images, and of at most so many pixels.
_IMAGES = 5_000
_PIXELS = 8_000_000


def whitened_state(
    make: Callable[[], TrainState], split: Split, preprocessor: Preprocessor, *, seed: int
) -> Callable[[], TrainState]:
    """Make the state before the first step, with the whitening kernel of the training images.

    The kernel is a function of the split and the seed. All processes get the one of the first, since the libraries of
    two machines may round its last bits differently.

    Args:
        make: makes the random one.
        split: the training images.
        preprocessor: normalizes them.
        seed: picks some of them.
    """

    def make_whitened() -> TrainState:
        state = make()
        kernel = _of_first(_kernel(split, preprocessor, seed=seed))
        return replace(
            state,
            params=_with_kernel(state.params, kernel),
            ema=_with_kernel(state.ema, kernel) if state.ema else {},
        )

    return make_whitened


def _kernel(split: Split, preprocessor: Preprocessor, *, seed: int) -> np.ndarray:
    """The whitening kernel of some images of a split, drawn by the seed."""
    height, width, channels = preprocessor.image_shape
    count = max(1, min(_IMAGES, _PIXELS // (height * width)))
    some = np.sort(epoch_order(seed, 0, len(split))[:count])
    settings = preprocessor.settings
    size = patch_size(height, width, channels)
    return whitening_kernel(np.asarray(split.images[some]), size, mean=settings.mean, std=settings.std)


def _of_first(kernel: np.ndarray) -> np.ndarray:
    """The kernel of the first process."""
    text = distributed.text_from_first(kernel.tobytes().hex())
    return np.frombuffer(bytes.fromhex(text), kernel.dtype).reshape(kernel.shape)


def _with_kernel(params: ArrayTree, kernel: np.ndarray) -> ArrayTree:
    return {**params, WHITEN: {"kernel": jnp.array(kernel)}}  # a copy for each use, because buffers are donated
