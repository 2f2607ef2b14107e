"""A network as a function from images on the host to logits on the host, which is what a benchmark times.

It is the same for every kind of network: a call includes the transfer to the device, the computation and the transfer
back. Letters: B batch size, H W C the image, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from bncli.checkpoint import Checkpoint, load, read_config
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
        precision: dtype of the images.
    """

    image_shape: tuple[int, int, int]
    precision: Precision


@dataclass(frozen=True)
class OpenNetwork:
    """A network that is ready to be called.

    Attributes:
        checkpoint: its checkpoint or ONNX file.
        step: the step of the save that was read.
        kind: "onnx" runs in onnxruntime, the others in JAX.
        call: normalised images [B, H, W, C] -> logits [B, K], both on the host; compiles at the first call with each B.
    """

    checkpoint: Path
    step: int
    kind: Kind
    call: Call


def read_target(paths: Sequence[Path]) -> Target:
    """Return the input that the networks in ``paths`` share, without starting JAX.

    Raises:
        CheckpointError: a path is not a checkpoint; names it.
        UsageError: two networks differ in image shape or precision; names both.
    """
    first, *others = [(path, _target(path)) for path in paths]
    for other in others:
        _check_comparable(first, other)
    return first[1]


def _target(path: Path) -> Target:
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
    if target.precision != other_target.precision:
        raise UsageError(
            f"{path} computes in {target.precision}, {other_path} in {other_target.precision}: "
            "one process can use XLA's settings for one precision only",
            remedy="Run `bncli bench` once for each precision.",
        )


def open_network(path: Path, *, step: str = "best", model: str | None = None) -> OpenNetwork:
    """Open the network in ``path`` and move its variables to the device; for the arguments see ``checkpoint.load``."""
    checkpoint = load(path, step=step, model=model)
    return OpenNetwork(path, checkpoint.step, _kind(checkpoint), _host_call(checkpoint))


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
    return noise.astype(jnp.dtype(target.precision))


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
