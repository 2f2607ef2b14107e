"""The way from uint8 images to a network's input, the same in training, evaluation, prediction and folding.

Letters: B batch size, H W height and width, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from bncli.config.choices import Precision
from bncli.config.document import CheckpointConfig, Preprocessing
from bncli.data.augment import normalize
from bncli.data.dataset import Dataset
from bncli.data.folder import read_image
from bncli.data.pixel_range import FULL_16_BIT


@dataclass(frozen=True)
class Preprocessor:
    """Turns uint8 images into a network's input; hashable, so it can be a static argument of ``jit``.

    Attributes:
        settings: image size, channels, mean and standard deviation, as ``config.json`` records them.
        precision: dtype of the network's input.
    """

    settings: Preprocessing
    precision: Precision

    @classmethod
    def of_checkpoint(cls, config: CheckpointConfig) -> Preprocessor:
        """The preprocessor that a ``config.json`` describes."""
        return cls(config.preprocessing, config.run.training.precision)

    @classmethod
    def of_dataset(cls, dataset: Dataset, precision: Precision) -> Preprocessor:
        """The preprocessor that standardizes the pixels of a data set, by its own mean and std or the run's."""
        height, width, channels = dataset.image_shape
        settings = Preprocessing(
            size=(height, width),
            channels=channels,
            mean=dataset.mean,
            std=dataset.std,
            pixel_range=dataset.pixel_range,
            crop=dataset.crop,
        )
        return cls(settings, precision)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self.settings.image_shape

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the network's input."""
        return jnp.dtype(self.precision)

    def __call__(self, images: ArrayLike) -> jax.Array:
        """(images/255 − mean)/std, computed in float32 and cast to ``dtype``.

        Args:
            images: uint8 [B, H, W, C].

        Returns:
            [B, H, W, C], the network's input.
        """
        return normalize(images, self.settings.mean, self.settings.std, dtype=self.dtype)

    def on_host(self, images: np.ndarray) -> np.ndarray:
        """The same numbers without a device: nothing is compiled for them."""
        mean, std = (np.array(values, np.float32) for values in (self.settings.mean, self.settings.std))
        normalized: np.ndarray = ((images.astype(np.float32) / np.float32(255) - mean) / std).astype(self.dtype)
        return normalized

    @property
    def neutral(self) -> Preprocessor:
        """The preprocessor with mean 0 and std 1: the part that a program depends on if they are its arguments."""
        channels = self.settings.channels
        return replace(self, settings=replace(self.settings, mean=(0.0,) * channels, std=(1.0,) * channels))

    def input_spec(self, batch_size: int) -> jax.ShapeDtypeStruct:
        """Shape [B, H, W, C] and dtype of the network's input."""
        return jax.ShapeDtypeStruct((batch_size, *self.image_shape), self.dtype)

    def load(self, path: Path) -> np.ndarray:
        """The image file ``path`` as uint8 [H, W, C], resized and converted to the network's size and channels.

        Pixels of more than 8 bits are scaled by the recorded range, and by that of 16 bits if none is recorded.

        Raises:
            DataError: the file is not a readable image; the message names it.
        """
        return self.read(path)[0]

    def read(self, path: Path) -> tuple[np.ndarray, bool]:
        """(the image of ``load``, True if a pixel was outside the range and was clipped)."""
        settings = self.settings
        pixel_range = settings.pixel_range or FULL_16_BIT
        return read_image(
            path, size=settings.size, channels=settings.channels, pixel_range=pixel_range, crop=settings.crop
        )
