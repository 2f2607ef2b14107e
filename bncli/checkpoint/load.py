"""An opened checkpoint: its settings, its variables, and the network to apply them to.

Letters: N images, B batch size, H W height and width, C channels, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bncli.checkpoint.directory import CONFIG, FORWARD, read_config
from bncli.checkpoint.folded import read_forward
from bncli.checkpoint.onnx_file import read_onnx
from bncli.checkpoint.saves import has_precise_statistics, read_save
from bncli.config.choices import StatsMode
from bncli.config.document import CheckpointConfig
from bncli.config.json_types import Document
from bncli.config.settings import ModelConfig
from bncli.config.validation import validated
from bncli.data import Preprocessor
from bncli.data.lazy_images import Images
from bncli.errors import BncliError, CheckpointError, ModelError, UsageError
from bncli.frameworks.linen import LinenNetwork
from bncli.frameworks.network import ImageShape, Network, Variables
from bncli.measure.eval_step import LogitsFn
from bncli.models import build_network, build_own_network, untrusted
from bncli.models.parts import frozen_parts, network_parts
from bncli.ops import pad_small_images
from bncli.process.memory import require_memory

ApplyFn = Callable[[Variables, jax.Array], jax.Array]
_FOLD_AGAIN = "Fold the original checkpoint again."
# Of a network's input, per channel: uint8, float32, normalized, and the first layer's padded copy.
_BYTES_PER_PIXEL = 16
# Images in one call of the network: bounds memory, whatever the number of images.
BATCH_SIZE = 64


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint, trained or folded, written by bncli or by another program.

    Attributes:
        path: the directory, or the ONNX file.
        step: the step of the save that was read.
        config: the content of ``config.json``.
        variables: pytree of host arrays; ``params`` and ``batch_stats`` of a trained network.
        progress: the run's progress at that save: epochs done, best so far, history.
        network: the network with the way to call it; None for a folded checkpoint, which has only a function.
        apply_fn: (variables, normalized images [B, H, W, C]) -> logits [B, K], in inference mode.
        notes: assumptions about a checkpoint that bncli did not write.
        has_population_statistics: True if the BN statistics were measured on data and are not running averages.
    """

    path: Path
    step: int
    config: CheckpointConfig
    variables: Variables
    progress: Mapping[str, object]
    network: Network | None
    apply_fn: ApplyFn
    notes: tuple[str, ...] = ()
    has_population_statistics: bool = False

    @property
    def is_foreign(self) -> bool:
        """True if another program wrote it, and bncli has not written it anew since."""
        config = self.config
        known = (config.dataset, config.weights, config.folded_from, config.recalibrated)
        return all(origin is None for origin in known)

    @property
    def model(self) -> nn.Module | None:
        """The linen module; None for a folded checkpoint and for networks of other frameworks."""
        network = self.network.inner if isinstance(self.network, _StoredNetwork) else self.network
        return network.module if isinstance(network, LinenNetwork) else None

    def restored(self) -> object:
        """The user's own objects with the trained arrays, as their framework applies them.

        linen: (module, variables). NNX: the module in eval mode. Equinox: (model in inference mode, state). Haiku:
        (params, state).

        Raises:
            CheckpointError: the checkpoint is folded, and has only a function.
        """
        if self.network is None:
            raise CheckpointError(
                f"{self.path} is folded and has no module", remedy="Restore the checkpoint it was folded from."
            )
        return self.network.restored(jax.tree.map(jnp.asarray, self.variables))

    @property
    def preprocessor(self) -> Preprocessor:
        """The way from uint8 images to the network's input."""
        return Preprocessor.of_checkpoint(self.config)

    def logits(self, images: Images, *, batch_size: int = BATCH_SIZE) -> np.ndarray:
        """Logits float32 [N, K] in inference mode.

        Compiled once per batch shape. Nothing is shuffled, augmented or padded.

        Args:
            images: uint8 [N, H, W, C], of the checkpoint's image size and channels; N is at least 1.
            batch_size: images in one call of the network.

        Raises:
            UsageError: the images are not uint8 of the checkpoint's shape.
        """
        if images.dtype != np.uint8 or images.shape[1:] != self.preprocessor.image_shape or len(images) == 0:
            raise UsageError(
                f"{self.path}: images are {images.dtype} {images.shape}, not uint8 [N, H, W, C] with "
                f"[H, W, C] = {list(self.preprocessor.image_shape)}",
                remedy="Pass at least one image; load image files with checkpoint.preprocessor.load.",
            )
        batches = (images[start : start + batch_size] for start in range(0, len(images), batch_size))
        logits = [_logits(self.apply_fn, self.variables, self.preprocessor(batch)) for batch in batches]
        return np.concatenate([np.asarray(batch).astype(np.float32) for batch in logits])

    def logits_fn(self, stats: StatsMode) -> LogitsFn:
        """The network as (variables, normalized images [B, H, W, C], mask [B]) -> logits [B, K].

        Args:
            stats: "running" is inference; "batch" normalizes by the statistics of each batch, with dropout off.

        Raises:
            UsageError: batch statistics of a folded checkpoint, which has no BN.
        """
        if stats == "running":
            return lambda variables, images, mask: self.apply_fn(variables, images)
        network = self.network
        if network is None:
            raise UsageError(
                f"--stats batch: {self.path} is folded and has no BN left that could use batch statistics",
                remedy="Evaluate the checkpoint it was folded from.",
            )
        return lambda variables, images, mask: network.logits_by_batch_stats(variables, images, mask=mask)


@partial(jax.jit, static_argnums=0)
def _logits(apply_fn: ApplyFn, variables: Variables, images: jax.Array) -> jax.Array:
    return pad_small_images(apply_fn)(variables, images)


def load(path: str | Path, *, step: str | int = "best", model: str | None = None) -> Checkpoint:
    """Open the checkpoint in directory ``path``, or an exported ``model.onnx``.

    Args:
        path: a directory written by ``bncli train`` or ``bncli fold``, or the ``model.onnx`` in one.
        step: "best" (by validation), "last", or the number of a step.
        model: the model's name; needed if the user's own code has moved or changed since training.

    Raises:
        CheckpointError: there is no checkpoint, no such step, or a file is damaged; the message names it. If the best
            or the last save is damaged, the newest intact save replaces it, with a BncliWarning.
        ConfigError: ``config.json`` is malformed.
        ModelError: the model's code is missing or differs from the code that was trained.
    """
    directory = Path(path)
    if directory.is_file():
        config, onnx = read_onnx(directory)
        _require_input_memory(directory, config)
        step_of_origin = config.folded_from.step if config.folded_from else 0
        return Checkpoint(directory, step_of_origin, config, {}, {}, None, onnx)
    config = read_config(directory)
    _require_input_memory(directory / CONFIG, config)
    number, variables, progress = read_save(directory, str(step))
    if config.folded_from is not None:
        program = read_forward(directory, variables)
        folded = Checkpoint(directory, number, config, variables, progress, None, program)
        _require_logits(folded)
        return folded
    network = _as_trained(_network(directory, config, model), config, variables, progress)
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


def _require_input_memory(origin: Path, config: CheckpointConfig) -> None:
    """Raise DataError if the memory does not hold one image of the size in the configuration."""
    shape = config.preprocessing.image_shape
    require_memory(
        math.prod(shape) * _BYTES_PER_PIXEL,
        what=f"{origin}: an image of {'x'.join(map(str, shape))}",
        remedy="If this is not the size of the training images, restore the file from a copy.",
    )


def _require_logits(folded: Checkpoint) -> None:
    """Raise CheckpointError unless the program of a folded checkpoint makes logits of its arrays; nothing is run."""
    path, classes = folded.path / FORWARD, folded.config.num_classes
    images = folded.preprocessor.input_spec(2)
    try:
        made = jax.eval_shape(folded.apply_fn, folded.variables, images)
    except Exception as error:  # the exceptions of jax.export for other arguments
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"{path} cannot be applied to the arrays saved with it: {reason}", remedy=_FOLD_AGAIN
        ) from error
    if not (
        isinstance(made, jax.ShapeDtypeStruct)
        and jnp.issubdtype(made.dtype, jnp.floating)
        and len(made.shape) == 2
        and made.shape[0] == images.shape[0]
        and classes in (None, made.shape[1])
    ):
        raise CheckpointError(
            f"{path} makes {str(made)[:300]} of {images.shape[0]} images, not logits of {classes or 'some'} classes",
            remedy=_FOLD_AGAIN,
        )


def check_model_code(directory: Path, config: CheckpointConfig) -> None:
    """Raise ModelError if building the network of ``config`` would run code that the user did not ask for.

    A name stored in a checkpoint is imported only if the file behind it is the very file that was trained, and the user
    has run it before. Opening a checkpoint must not run code that somebody put in its place or sent along with it.
    """
    name = config.run.model.name
    if reason := untrusted(name, sha256=config.model_sha256, directory=directory):
        raise ModelError(reason, remedy=f"If you trust it, name it: --model {name}")


def _network(directory: Path, config: CheckpointConfig, model: str | None) -> Network:
    """The network of a trained checkpoint."""
    stored = config.run.model
    if model is None:
        check_model_code(directory, config)
    named = stored if model is None else validated(type(stored), **{**vars(stored), "name": model})
    try:
        with _blaming(directory, named.name):
            network = _built(config, named, sha256=config.model_sha256 if model is None else None)
    except UsageError as error:  # words of an option, which is right only if an option named the model
        if model is not None:
            raise
        raise ModelError(f"{directory / CONFIG}: {error.message}", remedy=error.remedy) from None
    return _StoredNetwork(network, directory, named.name)


def _built(config: CheckpointConfig, named: ModelConfig, *, sha256: str | None) -> Network:
    """The network; the user's own code must have this SHA-256, unless it is None."""
    if config.num_classes is None:
        return build_own_network(named.name, named.args, sha256=sha256)
    return build_network(
        named,
        num_classes=config.num_classes,
        image_shape=config.preprocessing.image_shape,
        precision=config.run.training.precision,
        sha256=sha256,
    )


def _as_trained(network: Network, config: CheckpointConfig, variables: Variables, progress: Document) -> Network:
    """The network with the BN layers frozen that were frozen in the last step before the save."""
    finetune = config.run.finetune
    if not (finetune.freeze or finetune.freeze_bn) or not variables.get("batch_stats"):
        return network
    parts = network_parts(network, variables, config.preprocessing.image_shape)
    history = progress.get("history")
    begun = (len(history) if isinstance(history, list) else 0) + bool(progress.get("steps_into_epoch"))  # epochs
    released = finetune.unfreeze_at is not None and begun >= finetune.unfreeze_at
    return replace(network, frozen=frozen_parts(finetune, parts, released=released).norms)


@dataclass(frozen=True)
class _StoredNetwork(Network):
    """The network that a ``config.json`` describes; the arrays saved beside it may belong to another one.

    Each call raises ModelError if the variables are not this network's, or if it cannot be applied to such images.

    Attributes:
        inner: the network.
        directory: of the checkpoint.
        name: of the model.
    """

    inner: Network
    directory: Path
    name: str

    @property
    def _network(self) -> Network:
        return replace(self.inner, frozen=self.frozen)

    def init(self, key: jax.Array, image_shape: ImageShape) -> Variables:
        """As in Network."""
        return self.inner.init(key, image_shape)

    def train_logits(
        self, variables: Variables, images: jax.Array, *, mask: jax.Array | None, dropout_key: jax.Array
    ) -> tuple[jax.Array, Variables]:
        """As in Network."""
        with _blaming(self.directory, self.name):
            return self._network.train_logits(variables, images, mask=mask, dropout_key=dropout_key)

    def logits(self, variables: Variables, images: jax.Array) -> jax.Array:
        """As in Network."""
        with _blaming(self.directory, self.name):
            return self.inner.logits(variables, images)

    def logits_by_batch_stats(self, variables: Variables, images: jax.Array, *, mask: jax.Array | None) -> jax.Array:
        """As in Network."""
        with _blaming(self.directory, self.name):
            return self._network.logits_by_batch_stats(variables, images, mask=mask)

    def restored(self, variables: Variables) -> object:
        """As in Network."""
        with _blaming(self.directory, self.name):
            return self.inner.restored(variables)

    @property
    def debiases(self) -> bool:
        """As in Network."""
        return self.inner.debiases

    def excess(self, variables: Variables) -> Mapping[str, float]:
        """As in Network."""
        return self.inner.excess(variables)


@contextmanager
def _blaming(directory: Path, name: str) -> Iterator[None]:
    """Turn an error of building or tracing a network into a ModelError that names the checkpoint."""
    try:
        yield
    except (BncliError, MemoryError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:  # of Flax, JAX, or the user's own code
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"{directory}: {name[:100]}, as {CONFIG} has it, cannot be applied to the arrays saved with it: {reason}",
            remedy=f"Restore {CONFIG} from a copy; if the model is your own, name its code with --model.",
        ) from error
