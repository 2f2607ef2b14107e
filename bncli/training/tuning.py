"""Fine-tuning: which arrays each epoch trains, and how fast each of them learns.

The arrays of a network fall into three groups. *Trained* ones are trained in every epoch, *frozen* ones in none, and
*later* ones from ``--unfreeze-at`` on.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar

import jax
import jax.numpy as jnp

from bncli.config.settings import FineTuneConfig, RunConfig
from bncli.errors import BncliWarning, UsageError
from bncli.frameworks.network import Network
from bncli.models.parts import Parts, array_path, frozen_parts, network_parts

Group: TypeAlias = Literal["trained", "later", "frozen"]
Tree = TypeVar("Tree")


@dataclass(frozen=True)
class Tuning:
    """The arrays of a network that each epoch trains, and the factors of their learning rates.

    Attributes:
        frozen: paths of the arrays that are never trained.
        later: paths of the arrays that are trained from ``release_epoch`` on.
        frozen_norms: the BN layers that keep their statistics in every epoch.
        later_norms: the BN layers that keep them until ``release_epoch``.
        release_epoch: the first epoch, from 0, that trains everything but ``frozen``; None if none does.
        factors: (path, factor of the learning rate) of each array whose factor is not 1.
    """

    frozen: frozenset[str]
    later: frozenset[str]
    frozen_norms: frozenset[str]
    later_norms: frozenset[str]
    release_epoch: int | None
    factors: tuple[tuple[str, float], ...]

    def is_released(self, epoch: int) -> bool:
        """True if an epoch, from 0, trains the arrays that are trained later."""
        return self.release_epoch is not None and epoch >= self.release_epoch

    def held(self, *, released: bool) -> frozenset[str]:
        """The paths of the arrays that are not trained at present."""
        return self.frozen if released else self.frozen | self.later

    def norms(self, *, released: bool) -> frozenset[str]:
        """The BN layers that keep their statistics at present."""
        return self.frozen_norms if released else self.frozen_norms | self.later_norms

    def groups(self, params: Tree) -> Tree:
        """A tree like ``params`` of the group of each array."""
        return by_path(self._group, params)

    def _group(self, path: str, leaf: object) -> Group:
        return "frozen" if path in self.frozen else "later" if path in self.later else "trained"


def tuning_of(config: RunConfig, network: Network, image_shape: tuple[int, int, int]) -> Tuning | None:
    """The tuning that a run asks for; None if all arrays are trained alike.

    Raises:
        UsageError: a pattern of ``--freeze`` matches nothing, or nothing is left to train.
        ModelError: the network has statistics that cannot be frozen.
    """
    if not config.finetune.is_used:
        return None
    variables = jax.eval_shape(lambda: network.init(jax.random.key(0), image_shape))
    parts = network_parts(network, variables, image_shape)
    tuning = _tuning(config.finetune, parts)
    if tuning.held(released=False) == frozenset(parts.paths):
        raise UsageError("--freeze leaves nothing to train", remedy="Freeze fewer arrays, such as the backbone alone.")
    for message in _doubts(config, parts, tuning):
        warnings.warn(message, BncliWarning, stacklevel=2)
    return tuning


def _tuning(config: FineTuneConfig, parts: Parts) -> Tuning:
    first, last = frozen_parts(config, parts), frozen_parts(config, parts, released=config.unfreeze_at is not None)
    return Tuning(
        frozen=last.paths,
        later=first.paths - last.paths,
        frozen_norms=last.norms,
        later_norms=first.norms - last.norms,
        release_epoch=None if config.unfreeze_at is None else config.unfreeze_at - 1,
        factors=tuple(sorted((path, factor) for path, factor in _factors(config, parts).items() if factor != 1)),
    )


def _factors(config: FineTuneConfig, parts: Parts) -> Mapping[str, float]:
    """The factor of each array's learning rate.

    It is the head's own, then smaller by ``layer_decay`` with each group; for a bias, times the factor of biases.
    """
    factors = dict.fromkeys(parts.head_paths, config.head_lr_scale)
    for distance, paths in enumerate(reversed(parts.groups), start=1):
        factors |= dict.fromkeys(paths, config.layer_decay**distance)
    scale_of_bias = config.bias_lr_scale
    return {path: factor * (scale_of_bias if _is_bias(path) else 1.0) for path, factor in factors.items()}


def _is_bias(path: str) -> bool:
    return path.rpartition("/")[2] in ("b", "bias")


def _doubts(config: RunConfig, parts: Parts, tuning: Tuning) -> Iterator[str]:
    epochs = config.training.epochs
    if tuning.release_epoch is not None and tuning.release_epoch >= epochs:
        yield f"--unfreeze-at {tuning.release_epoch + 1}: the run ends after {epochs} epochs, before it"
    if config.finetune.freeze and parts.foreign:
        yield (
            f"--freeze: {parts.foreign[0]} is kept by a layer that is no flax.linen.BatchNorm; its statistics go on "
            "moving, frozen or not"
        )


def keep(paths: Collection[str], new: Tree, old: Tree) -> Tree:
    """``new`` with the arrays at these paths as they are in ``old``, bit by bit: -0.0 + 0.0 would be 0.0."""
    return by_path(lambda path, leaf, before: before if path in paths else leaf, new, old)


def detached(paths: Collection[str], params: Tree) -> Tree:
    """``params`` with no gradient to the arrays at these paths, so that nothing is computed for it."""
    return by_path(lambda path, leaf: jax.lax.stop_gradient(leaf) if path in paths else leaf, params)


def without(paths: Collection[str], gradients: Tree) -> Tree:
    """``gradients`` with zeros at these paths."""
    return by_path(lambda path, leaf: jnp.zeros_like(leaf) if path in paths else leaf, gradients)


def by_path(change: Callable[..., object], tree: Tree, *others: Tree) -> Tree:
    """``change(path, leaf, ...)`` of each leaf of trees of arrays."""
    mapped: Tree = jax.tree_util.tree_map_with_path(
        lambda keys, *leaves: change(array_path(keys), *leaves), tree, *others
    )
    return mapped
