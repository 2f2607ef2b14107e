"""Hyperparameters as arguments of the training step: other values of them need no other program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import jax
import numpy as np
from flax import struct

from bncli.data import threefry
from bncli.data.batches import EXAMPLE_STREAM, FLIP_STREAM
from bncli.ops import LayerNumbers
from bncli.training.optimizer import Schedule
from bncli.training.state import DROPOUT_STREAM

_THREEFRY = "threefry2x32"


# In a program, or on the host.
AnyArray: TypeAlias = jax.Array | np.ndarray


@struct.dataclass
class Rates:
    """The hyperparameters that change from step to step; stacked, [S] each, for several steps."""

    learning_rate: AnyArray  # float32 []
    release: AnyArray  # float32 [], the factor of the arrays that ``--unfreeze-at`` releases

    @property
    def first(self) -> Rates:
        """The rates of the first of several steps."""
        return Rates(self.learning_rate[0], self.release[0])


@struct.dataclass
class Hyperparameters:
    """The numbers of a step that its program does not depend on."""

    rates: Rates
    weight_decay: AnyArray  # float32 []
    mean: AnyArray  # float32 [C], of the training images
    std: AnyArray  # float32 [C]
    example_key: AnyArray  # uint32, data of the key that augmentation is drawn from
    flip_key: AnyArray  # uint32, data of the key that alternating flips are drawn from
    dropout_key: AnyArray  # uint32, data of the key that dropout is drawn from
    layers: LayerNumbers | None  # None for a network of the user's own code


@dataclass(frozen=True, kw_only=True)
class HyperparameterSource:
    """The hyperparameters of a run, on the host.

    Attributes:
        learning_rate: by update.
        release: factor of the learning rate of arrays that are trained later, by update.
        weight_decay: of the kernels.
        mean: [C], of the training images.
        std: [C], of the training images.
        seed: of augmentation and dropout.
        layers: dropout rate and BN momentum of a built-in network.
    """

    learning_rate: Schedule
    release: Schedule
    weight_decay: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    seed: int
    layers: LayerNumbers | None

    def rates(self, updates: np.ndarray) -> Rates:
        """The rates of some updates, counted from 0: those of one or, stacked, of several."""
        flat = np.atleast_1d(updates)
        rates = (self.learning_rate(flat), self.release(flat))
        return Rates(*(rate.reshape(np.shape(updates)) for rate in rates))

    def at(self, updates: np.ndarray | int = 0) -> Hyperparameters:
        """The hyperparameters of an update, or of several in one dispatch."""
        return Hyperparameters(
            rates=self.rates(np.asarray(updates)),
            weight_decay=np.array(self.weight_decay, np.float32),
            mean=np.array(self.mean, np.float32),
            std=np.array(self.std, np.float32),
            example_key=stream_key(self.seed, EXAMPLE_STREAM),
            flip_key=stream_key(self.seed, FLIP_STREAM),
            dropout_key=stream_key(self.seed, DROPOUT_STREAM),
            layers=None if self.layers is None else _as_arrays(self.layers),
        )


def _as_arrays(layers: LayerNumbers) -> LayerNumbers:
    """The numbers as arrays of the dtypes of the program's arguments."""
    arrays: LayerNumbers = jax.tree.map(
        lambda number: np.array(number, np.uint32 if isinstance(number, int) else np.float32), layers
    )
    return arrays


def seed_key(seed: int) -> np.ndarray:
    """The data of ``jax.random.key(seed)``; for JAX's default implementation without compiling anything."""
    if jax.config.jax_default_prng_impl == _THREEFRY:
        return threefry.key_of(seed)
    return np.asarray(jax.random.key_data(jax.random.key(seed)))


def stream_key(seed: int, stream: int) -> np.ndarray:
    """The data of the seed's key for one purpose: ``jax.random.fold_in(jax.random.key(seed), stream)``."""
    if jax.config.jax_default_prng_impl == _THREEFRY:
        return threefry.fold_in(threefry.key_of(seed), stream)
    return np.asarray(jax.random.key_data(jax.random.fold_in(jax.random.key(seed), stream)))
