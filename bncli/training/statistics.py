"""BN statistics of weights that have none of their own: measured on some batches of training images.

Averaged weights need them: averaging the batch_stats would not do, since they belong to the weights of each step. So do
epochs whose best one gets the statistics of the training images at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import jax

from bncli.config.document import CheckpointConfig
from bncli.data import Dataset
from bncli.errors import ModelError
from bncli.frameworks.network import Network, Variables
from bncli.measure.batches import ImageBatches
from bncli.measure.population import batch_statistics_of
from bncli.process.mesh import make_mesh, round_up

# After each epoch, the BN statistics of averaged parameters are taken from so many batches of training images, or from
# fewer if they have so many images: in batches of 128, 2 % of an epoch's time on CIFAR-10. `--precise-bn` takes more.
_MEASURED_BATCHES, _MEASURED_IMAGES = 20, 2560


def num_measured_batches(batch_size: int) -> int:
    """The number of batches that statistics are measured on."""
    return min(_MEASURED_BATCHES, -(-_MEASURED_IMAGES // batch_size))


class BatchStatistics:
    """Gives the weights of a network their own BN statistics; frozen layers keep theirs."""

    def __init__(self, config: CheckpointConfig, dataset: Dataset, variables: Variables) -> None:
        """Measure on the training images of ``dataset``; nothing is computed before the first call.

        Args:
            config: of the run.
            dataset: of the run.
            variables: variables of the shapes that the calls will have.
        """
        self._config = config
        self._dataset = dataset
        self._shapes: Variables = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), variables)
        self._measures: dict[frozenset[str], Callable[[Variables], Variables]] = {}

    def __call__(self, network: Network, variables: Variables) -> Variables:
        """The variables with the statistics of the training images; as they are if those cannot be measured."""
        if not self._shapes["batch_stats"]:
            return variables
        try:
            return self.of(network)(variables)
        except ModelError:
            return variables  # `--precise-bn` gives the reason, at the end

    def of(self, network: Network) -> Callable[[Variables], Variables]:
        """The function that replaces the statistics of a network.

        Raises:
            ModelError: they cannot be measured, because a BN layer is in a loop.
        """
        if network.frozen not in self._measures:
            images = jax.ShapeDtypeStruct((2, *self._dataset.image_shape), self._config.run.training.precision)
            self._measures[network.frozen] = batch_statistics_of(network, images, self._shapes, self._batches)
        return self._measures[network.frozen]

    @cached_property
    def _batches(self) -> ImageBatches:
        size = min(self._config.run.training.batch_size, len(self._dataset.train))
        return ImageBatches.training(
            self._config,
            self._dataset,
            num_batches=num_measured_batches(size),
            batch_size=round_up(size, make_mesh()),
        )
