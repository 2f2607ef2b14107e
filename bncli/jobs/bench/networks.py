"""A network as a function from images on the host to logits on the host, which is what a benchmark times.

It is the same for every kind of network: a call includes the transfer to the device, the computation and the transfer
back. Letters: B batch size, H W C the image, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from bncli.checkpoint import Checkpoint, Unsaid, is_unsaid, open_checkpoint, read_config, read_foreign, refuse_unsaid
from bncli.checkpoint.onnx_file import OnnxNetwork
from bncli.config.choices import Precision
from bncli.errors import RuntimeCheckError, UsageError
from bncli.ops import pad_small_images

Call = Callable[[np.ndarray], np.ndarray]  # images [B, H, W, C] -> logits [B, K]
Kind = Literal["trained", "folded", "onnx"]


@dataclass(frozen=True)
class Target:
    """The input that all networks of one comparison share.

    Attributes:
        image_shape: (H, W, C).
        precision: dtype of the images; None while only networks of other programs, which do not say it, are named.
    """

    image_shape: tuple[int, int, int]
    precision: Precision | None


@dataclass(frozen=True)
class OpenNetwork:
    """A network that is ready to be called.

    Attributes:
        checkpoint: its checkpoint or ONNX file.
        step: the step of the save that was read.
        kind: "onnx" runs in onnxruntime, the others in JAX.
        precision: of its computation.
        call: normalised images [B, H, W, C] -> logits [B, K], both on the host; compiles at the first call with each B.
    """

    checkpoint: Path
    step: int
    kind: Kind
    precision: Precision
    call: Call


def read_target(paths: Sequence[Path], unsaid: Unsaid | None = None) -> Target:
    """Return the input that the networks in ``paths`` share, without starting JAX.

    Args:
        paths: of the networks.
        unsaid: the facts that checkpoints of other programs do not say.

    Raises:
        CheckpointError: a path is not a checkpoint; names it.
        UsageError: two networks differ in image shape or precision; names both. Or facts are missing, or given though
            all checkpoints are bncli's own.
    """
    unsaid = unsaid or Unsaid()
    if not any(map(is_unsaid, paths)):
        refuse_unsaid(paths[0], unsaid)
    first, *others = [(path, _target(path, unsaid)) for path in paths]
    for other in others:
        _check_comparable(first, other)
    precisions = [target.precision for _, target in (first, *others) if target.precision is not None]
    return replace(first[1], precision=precisions[0] if precisions else None)


def common_target(target: Target, networks: Sequence[OpenNetwork]) -> Target:
    """Return the target with the precision of the networks, once they are open.

    Raises:
        UsageError: two networks differ in precision; names both.
    """
    first, *others = [(network.checkpoint, replace(target, precision=network.precision)) for network in networks]
    for other in others:
        _check_comparable(first, other)
    return first[1]


def _target(path: Path, unsaid: Unsaid) -> Target:
    if is_unsaid(path):
        if unsaid.image_shape is None:
            read_foreign(path)  # a file that no description helps is named first
            raise UsageError(
                f"{path} was not written by bncli, and does not hold the shape of its images",
                remedy="Add --model file.py:Class and --input-shape H,W,C.",
            )
        return Target(unsaid.image_shape, None)
    config = read_config(path)
    return Target(config.preprocessing.image_shape, config.run.training.precision)


def _check_comparable(first: tuple[Path, Target], other: tuple[Path, Target]) -> None:
    (path, target), (other_path, other_target) = first, other
    if target.image_shape != other_target.image_shape:
        raise UsageError(
            f"{path} takes images {target.image_shape}, {other_path} takes {other_target.image_shape}: "
            "their speeds cannot be compared",
            remedy="Name networks for images of the same shape, or run `bncli bench` once for each.",
        )
    if target.precision != other_target.precision and None not in (target.precision, other_target.precision):
        raise UsageError(
            f"{path} computes in {target.precision}, {other_path} in {other_target.precision}: "
            "one process can use XLA's settings for one precision only",
            remedy="Run `bncli bench` once for each precision.",
        )


def open_network(
    path: Path, *, step: str = "best", model: str | None = None, unsaid: Unsaid | None = None
) -> OpenNetwork:
    """Open the network in ``path`` and move its variables to the device.

    Args:
        path: a checkpoint, or an exported model.
        step: "best", "last" or the number of a step.
        model: the name of the model's code.
        unsaid: the facts that another program's checkpoint does not say; bncli's own needs none of them.
    """
    checkpoint = open_checkpoint(path, step=step, model=model, unsaid=unsaid if is_unsaid(path) else None)
    precision = checkpoint.config.run.training.precision
    return OpenNetwork(path, checkpoint.step, _kind(checkpoint), precision, _host_call(checkpoint))


def _kind(checkpoint: Checkpoint) -> Kind:
    if isinstance(checkpoint.apply_fn, OnnxNetwork):
        return "onnx"
    return "trained" if checkpoint.config.folded_from is None else "folded"


def _host_call(checkpoint: Checkpoint) -> Call:
    if isinstance(checkpoint.apply_fn, OnnxNetwork):
        return checkpoint.apply_fn.run  # directly: JAX would add its callback to each call
    variables = jax.block_until_ready(jax.device_put(checkpoint.variables))
    apply = jax.jit(pad_small_images(checkpoint.apply_fn))
    return lambda images: np.asarray(apply(variables, images))


def random_images(target: Target, batch_size: int) -> np.ndarray:
    """Return images [B, H, W, C] with mean 0 and variance 1, as normalised images have; the same at every call."""
    noise = np.random.default_rng(0).standard_normal((batch_size, *target.image_shape), dtype=np.float32)
    return noise.astype(jnp.dtype(target.precision or "float32"))


def first_call(call: Call, images: np.ndarray) -> None:
    """Call the network once, which compiles it for this batch size.

    Raises:
        RuntimeCheckError: the batch does not fit into the device's memory.
    """
    try:
        call(images)
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            raise RuntimeCheckError(
                f"a batch of {len(images)} does not fit into memory", remedy="Choose smaller --batch-sizes."
            ) from error
        raise
