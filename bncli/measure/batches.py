"""Images as a network takes them, batch by batch on the mesh."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from bncli.config.settings import CheckpointConfig
from bncli.data import Dataset, normalize
from bncli.data.batches import epoch_order, eval_batches
from bncli.process.mesh import batch_sharding, make_mesh


class ImageBatches:
    """Images as a network takes them, batch by batch on the mesh; can be read again and again.

    Yields (normalised images [B, H, W, C], how many of them count: those after are padding).
    """

    def __init__(self, config: CheckpointConfig, images: np.ndarray, *, batch_size: int) -> None:
        """Of uint8 ``images`` [N, H, W, C], in their order."""
        self._config = config
        self._images = images
        self._batch_size = batch_size
        self._sharding = batch_sharding(make_mesh())

    @classmethod
    def training(
        cls, config: CheckpointConfig, dataset: Dataset, *, num_batches: int | None, batch_size: int
    ) -> ImageBatches:
        """Of training images, not augmented: some at random, always the same; all where ``num_batches`` is None."""
        order = epoch_order(config.run.training.seed, 0, len(dataset.train))
        some = order if num_batches is None else order[: num_batches * batch_size]
        return cls(config, dataset.train.images[some], batch_size=batch_size)

    def __iter__(self) -> Iterator[tuple[jax.Array, int]]:
        preprocessing = self._config.preprocessing
        dtype = jnp.dtype(self._config.run.training.precision)
        for batch in eval_batches(len(self._images), self._batch_size):
            images = jax.device_put(self._images[batch.indices], self._sharding)
            yield normalize(images, preprocessing.mean, preprocessing.std, dtype=dtype), batch.num_real
