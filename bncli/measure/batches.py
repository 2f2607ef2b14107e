"""A network's inputs, batch by batch on the mesh."""

from __future__ import annotations

from collections.abc import Iterator

import jax

from bncli.config.document import CheckpointConfig
from bncli.data import Dataset, Preprocessor
from bncli.data.batches import epoch_order, eval_batches
from bncli.data.feed import images_of
from bncli.data.lazy_images import Images, subset
from bncli.process.mesh import fitting_batch_size, make_mesh, own_rows, put_rows


class ImageBatches:
    """A network's inputs, batch by batch on the mesh; can be iterated any number of times.

    Yields (normalized images [B, H, W, C], the number of real ones); the images after those are padding.
    """

    def __init__(self, preprocessor: Preprocessor, images: Images, *, batch_size: int) -> None:
        """Batches of the uint8 ``images`` [N, H, W, C], in their order."""
        self._preprocessor = preprocessor
        self._images = images
        self._mesh = make_mesh()
        self._batch_size = fitting_batch_size(batch_size, len(images), self._mesh)

    @classmethod
    def training(
        cls, config: CheckpointConfig, dataset: Dataset, *, num_batches: int | None, batch_size: int
    ) -> ImageBatches:
        """Batches of training images, not augmented: a random subset fixed by the run's seed, or all of them.

        Args:
            config: settings of the run.
            dataset: images to choose from.
            num_batches: size of the subset; None takes all images.
            batch_size: images per batch.
        """
        order = epoch_order(config.run.training.seed, 0, len(dataset.train))
        some = order if num_batches is None else order[: num_batches * batch_size]
        return cls(Preprocessor.of_checkpoint(config), subset(dataset.train.images, some), batch_size=batch_size)

    @property
    def num_examples(self) -> int:
        """The number of images."""
        return len(self._images)

    def __iter__(self) -> Iterator[tuple[jax.Array, int]]:
        batches = list(eval_batches(len(self._images), self._batch_size))
        mine = own_rows(self._mesh, self._batch_size)
        for batch, rows in zip(batches, images_of(self._images, batches, mine), strict=True):
            images: jax.Array = put_rows(rows, self._mesh, whole=False)
            yield self._preprocessor(images), batch.num_real
