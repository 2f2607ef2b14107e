"""The settings of a training step, divided into its program and the arguments of that."""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax
import optax

from bncli.config.settings import OptimizerConfig
from bncli.data import Augmentation, Preprocessor
from bncli.frameworks.linen import LinenNetwork
from bncli.frameworks.network import Network
from bncli.ops import LayerNumbers
from bncli.training.hyperparameters import HyperparameterSource
from bncli.training.micro_batches import Accumulation
from bncli.training.optimizer import (
    UpdateNumbers,
    create_learning_rate_fn,
    create_optimizer,
    create_release_fn,
    create_tuned_optimizer,
)
from bncli.training.tuning import Tuning


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """Everything besides the state and the examples that the training step depends on.

    The program depends on ``program`` alone. The rest are ``hyperparameters``, arguments of the step.

    Attributes:
        network: the network, with the BN layers that are frozen at present.
        optimizer: its settings.
        steps_per_epoch: batches per epoch.
        schedule_epochs: length of the learning-rate schedule.
        preprocessor: from images to the network's input.
        augmentation: of the training images.
        seed: of augmentation and dropout.
        ema_decay: of the moving average of the parameters; None for none.
        tuning: which arrays are trained, and how fast; None if all are trained alike.
        released: True from ``--unfreeze-at`` on.
        accumulation: the division of the batch into micro-batches; None computes it at once.
        layers: the numbers in whose place ``network`` has ``GIVEN``; None if it has its own.
    """

    network: Network
    optimizer: OptimizerConfig
    steps_per_epoch: int
    schedule_epochs: int
    preprocessor: Preprocessor
    augmentation: Augmentation
    seed: int
    ema_decay: float | None = None
    tuning: Tuning | None = None
    released: bool = False
    accumulation: Accumulation | None = None
    layers: LayerNumbers | None = None

    def at_epoch(self, epoch: int) -> StepSettings:
        """The settings of an epoch, from 0."""
        if self.tuning is None:
            return self
        released = self.tuning.is_released(epoch)
        network = replace(self.network, frozen=self.tuning.norms(released=released))
        return replace(self, network=network, released=released)

    @property
    def held(self) -> frozenset[str]:
        """The paths of the arrays that are not trained at present."""
        return frozenset() if self.tuning is None else self.tuning.held(released=self.released)

    @property
    def program(self) -> StepSettings:
        """The settings with neutral values in place of the hyperparameters: equal ones make equal programs."""
        return replace(
            self,
            optimizer=replace(
                self.optimizer,
                learning_rate=None,
                weight_decay=0.0,
                schedule="constant",
                schedule_epochs=None,
                warmup_epochs=0.0,
            ),
            steps_per_epoch=1,
            schedule_epochs=1,
            preprocessor=self.preprocessor.neutral,
            seed=0,
            tuning=None if self.tuning is None else replace(self.tuning, release_epoch=None),
            layers=jax.tree.map(lambda number: type(number)(0), self.layers),
        )

    @property
    def hyperparameters(self) -> HyperparameterSource:
        """The arguments of the step that follow from the settings."""
        tuning = self.tuning
        release_epoch = 0 if tuning is None else tuning.release_epoch or 0
        return HyperparameterSource(
            learning_rate=create_learning_rate_fn(
                self.optimizer, steps_per_epoch=self.steps_per_epoch, epochs=self.schedule_epochs
            ),
            release=create_release_fn(
                self.optimizer,
                steps_per_epoch=self.steps_per_epoch,
                epochs=self.schedule_epochs,
                start=self.steps_per_epoch * release_epoch,
            ),
            weight_decay=self.optimizer.weight_decay,
            mean=self.preprocessor.settings.mean,
            std=self.preprocessor.settings.std,
            seed=self.seed,
            layers=self.layers,
        )

    def network_with(self, layers: LayerNumbers | None) -> Network:
        """The network with traced numbers of its layers."""
        if layers is None:
            return self.network
        assert isinstance(self.network, LinenNetwork)
        return replace(self.network, given=layers)

    def make_optimizer(self, numbers: UpdateNumbers | None = None) -> optax.GradientTransformation:
        """The optimizer of one update with these numbers; its initial state depends on none of them."""
        numbers = numbers or UpdateNumbers()
        if self.tuning is None:
            return create_optimizer(self.optimizer, numbers, self.network.kernel_axes)
        return create_tuned_optimizer(
            self.optimizer, numbers, self.tuning, released=self.released, kernel_axes=self.network.kernel_axes
        )
