"""The examples of a study: a data set on the device, its images as uint8 until a program flattens and normalizes them.

Letters: N examples, D pixels of an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bncli.data import Dataset, Split

# Examples on which an accuracy is measured: enough for a standard error of half a point, and quick.
MOST_SCORED = 2000


class Examples(NamedTuple):
    """Images and labels on the device."""

    images: jax.Array  # uint8 [N, D]
    labels: jax.Array  # int32 [N]


@dataclass(frozen=True, eq=False)
class StudyData:
    """A data set as the programs of a study take it.

    Attributes:
        name: of the data set.
        sha256: of all its images and labels.
        train: to learn from.
        train_scored: the first of them, for the accuracy on training images.
        val: to choose learning rates by.
        test: to report.
        offset: subtracted from pixels in [0, 1], [D].
        factor: multiplies the difference, [D].
        num_classes: K.
    """

    name: str
    sha256: str
    train: Examples
    train_scored: Examples
    val: Examples
    test: Examples
    offset: jax.Array
    factor: jax.Array
    num_classes: int

    @property
    def num_inputs(self) -> int:
        """D, the number of pixels."""
        return int(self.train.images.shape[1])

    @property
    def chance(self) -> float:
        """The accuracy of guessing."""
        return 1 / self.num_classes

    @classmethod
    def of(cls, dataset: Dataset) -> StudyData:
        """The data set, flattened."""
        height, width, _ = dataset.image_shape
        train = _flat(dataset.train)
        return cls(
            name=dataset.name,
            sha256=dataset.sha256,
            train=train,
            train_scored=_first(train),
            val=_first(_flat(dataset.val)),
            test=_first(_flat(dataset.test)),
            offset=jnp.asarray(np.tile(np.array(dataset.mean, np.float32), height * width)),
            factor=jnp.asarray(np.tile(1 / np.array(dataset.std, np.float32), height * width)),
            num_classes=dataset.num_classes,
        )


def normalized(images: jax.Array, offset: jax.Array, factor: jax.Array) -> jax.Array:
    """uint8 [..., D] as float32 of about mean 0 and variance 1."""
    return (images.astype(jnp.float32) / 255 - offset) * factor


def _flat(split: Split) -> Examples:
    """The split in an order that does not sort it by class."""
    order = np.random.default_rng(0).permutation(len(split))
    return Examples(jnp.asarray(split.images[:].reshape(len(split), -1)[order]), jnp.asarray(split.labels[order]))


def _first(examples: Examples) -> Examples:
    return Examples(examples.images[:MOST_SCORED], examples.labels[:MOST_SCORED])
