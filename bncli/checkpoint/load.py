"""A checkpoint directory opened: its settings, its variables, and the network to apply them to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax

from bncli.checkpoint.directory import CONFIG, read_config
from bncli.checkpoint.folded import read_forward
from bncli.checkpoint.onnx_file import read_onnx
from bncli.checkpoint.saves import has_precise_statistics, read_save
from bncli.config import settings as config_module
from bncli.config.choices import StatsMode
from bncli.config.settings import CheckpointConfig, ModelConfig
from bncli.errors import BncliError, ModelError, UsageError
from bncli.frameworks.linen import Network, Variables
from bncli.measure.eval_step import LogitsFn
from bncli.models import build_network, build_own_network, untrusted


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint, trained or folded, bncli's own or another program's.

    Attributes:
        path: the directory.
        step: of the save that was read.
        config: its ``config.json``.
        variables: pytree of host arrays; ``params`` and ``batch_stats`` where it was trained.
        progress: how far the run was at that save: epochs, best so far, history.
        network: the model and the way to call it; None for a folded checkpoint, which has only a function.
        apply_fn: (variables, normalised images [B, H, W, C]) -> logits [B, K], in inference mode.
        notes: what was assumed where bncli did not write it.
        has_population_statistics: whether its BN statistics were measured on data and are no running averages.
    """

    path: Path
    step: int
    config: CheckpointConfig
    variables: Variables
    progress: Mapping[str, Any]
    network: Network | None
    apply_fn: Callable[[Variables, jax.Array], jax.Array]
    notes: tuple[str, ...] = ()
    has_population_statistics: bool = False

    @property
    def model(self) -> nn.Module | None:
        """The linen module; None for a folded checkpoint."""
        return self.network.module if self.network is not None else None

    def logits_fn(self, stats: StatsMode) -> LogitsFn:
        """The network as (variables, normalised images [B, H, W, C], mask [B]) -> logits [B, K].

        Args:
            stats: "running" is inference; "batch" normalises by each batch's own statistics, dropout off.

        Raises:
            UsageError: batch statistics of a folded checkpoint, which has none.
        """
        if stats == "running":
            return lambda variables, images, mask: self.apply_fn(variables, images)
        network = self.network
        if network is None:
            raise UsageError(
                f"--stats batch: {self.path} is folded and has no BN left to normalise by the batch",
                remedy="Evaluate the checkpoint it was folded from.",
            )
        return lambda variables, images, mask: network.logits_by_batch_stats(variables, images, mask=mask)


def load(path: str | Path, *, step: str = "best", model: str | None = None) -> Checkpoint:
    """The checkpoint in directory ``path``, or an exported ``model.onnx``.

    Args:
        path: a directory written by ``bncli train`` or ``bncli fold``, or the ``model.onnx`` in one.
        step: "best" (by validation), "last", or a step's number.
        model: the model's name, where the user's own code has moved or changed since training.

    Raises:
        CheckpointError: no checkpoint, no such step, or a damaged file; names it. The best or the last save, damaged,
            is replaced by the newest that is whole, with a BncliWarning.
        ConfigError: ``config.json`` is malformed.
        ModelError: the model's code is missing or not what was trained.
    """
    directory = Path(path)
    if directory.is_file():
        config, onnx = read_onnx(directory)
        step_of_origin = config.folded_from.step if config.folded_from else 0
        return Checkpoint(directory, step_of_origin, config, {}, {}, None, onnx)
    config = read_config(directory)
    number, variables, progress = read_save(directory, step)
    if config.folded_from is not None:
        return Checkpoint(directory, number, config, variables, progress, None, read_forward(directory))
    network = _network(directory, config, model)
    return Checkpoint(
        directory,
        number,
        config,
        variables,
        progress,
        network,
        network.logits,
        has_population_statistics=config.recalibrated is not None or has_precise_statistics(directory, number),
    )


def check_model_code(directory: Path, config: CheckpointConfig) -> None:
    """Raises ModelError where building the network of ``config`` would run code that the user did not ask for.

    A name stored in a checkpoint is only imported if the file behind it is the very file that was trained, and the user
    has had it run before: opening a checkpoint must not run code that someone put in its place, or sent along with it.
    """
    name = config.run.model.name
    if reason := untrusted(name, sha256=config.model_sha256, directory=directory):
        raise ModelError(reason, remedy=f"If you trust it, name it: --model {name}")


def _network(directory: Path, config: CheckpointConfig, model: str | None) -> Network:
    """The network of a trained checkpoint."""
    stored = config.run.model
    if model is None:
        check_model_code(directory, config)
    named = stored if model is None else config_module.validated(type(stored), **{**vars(stored), "name": model})
    try:
        with _blaming(directory, named.name):
            network = _built(config, named)
    except UsageError as error:  # of an option, where the model is named by one
        if model is not None:
            raise
        raise ModelError(f"{directory / CONFIG}: {error.message}", remedy=error.remedy) from None
    return _StoredNetwork(network.module, network.train_argument, directory, named.name)


def _built(config: CheckpointConfig, named: ModelConfig) -> Network:
    if config.dataset is None:
        return build_own_network(named.name, named.args)
    return build_network(
        named,
        num_classes=len(config.dataset.class_names),
        image_shape=config.preprocessing.image_shape,
        precision=config.run.training.precision,
    )


@dataclass(frozen=True)
class _StoredNetwork(Network):
    """The network that a ``config.json`` describes, which may not be that of the arrays it lies beside."""

    directory: Path
    name: str

    def logits(self, variables: Variables, images: jax.Array) -> jax.Array:
        """As a network's.

        Raises:
            ModelError: the variables are not this network's, or it cannot be applied to such images.
        """
        with _blaming(self.directory, self.name):
            return super().logits(variables, images)

    def logits_by_batch_stats(self, variables: Variables, images: jax.Array, *, mask: jax.Array | None) -> jax.Array:
        """As a network's.

        Raises:
            ModelError: the variables are not this network's, or it cannot be applied to such images.
        """
        with _blaming(self.directory, self.name):
            return super().logits_by_batch_stats(variables, images, mask=mask)


@contextmanager
def _blaming(directory: Path, name: str) -> Iterator[None]:
    """What goes wrong inside, while a network is built or traced, as a ModelError that names the checkpoint."""
    try:
        yield
    except (BncliError, MemoryError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:  # of Flax, JAX, or the user's own code
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"{directory}: {name[:100]}, as {CONFIG} has it, cannot be applied to the arrays saved with it: {reason}",
            remedy=f"Restore {CONFIG} from a copy; name the code of a model of your own by --model.",
        ) from error
