"""What is timed: a network as a function from images on the host to logits on the host.

The same for every kind, so that the transfer to the device, the computation and the way back are all in the call.
Letters: B batch size, H W C the image, K classes.
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
    """What all networks of one comparison take.

    Attributes:
        image_shape: (H, W, C).
        precision: of the images.
    """

    image_shape: tuple[int, int, int]
    precision: Precision


@dataclass(frozen=True)
class OpenNetwork:
    """A network that can be called.

    Attributes:
        step: of the save that was read.
        kind: "onnx" runs in onnxruntime, the others in JAX.
        call: normalised images [B, H, W, C] -> logits [B, K], both on the host; compiles at the first call with each B.
    """

    step: int
    kind: Kind
    call: Call


def read_target(paths: Sequence[Path]) -> Target:
    """What the networks in ``paths`` take; JAX is not started.

    Raises:
        CheckpointError: one is no checkpoint; names it.
        UsageError: they differ in image shape or precision; names two that do.
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
            remedy="Name networks for the same images, or call `bncli bench` once for each.",
        )
    if target.precision != other_target.precision:
        raise UsageError(
            f"{path} computes in {target.precision}, {other_path} in {other_target.precision}: "
            "XLA takes the settings for one of them in a process",
            remedy="Call `bncli bench` once for each precision.",
        )


def open_network(path: Path, *, step: str = "best", model: str | None = None) -> OpenNetwork:
    """The network in ``path``, its variables on the device; see ``checkpoint.load``."""
    checkpoint = load(path, step=step, model=model)
    return OpenNetwork(checkpoint.step, _kind(checkpoint), _host_call(checkpoint))


def _kind(checkpoint: Checkpoint) -> Kind:
    if isinstance(checkpoint.apply_fn, OnnxNetwork):
        return "onnx"
    return "trained" if checkpoint.config.folded_from is None else "folded"


def _host_call(checkpoint: Checkpoint) -> Call:
    if isinstance(checkpoint.apply_fn, OnnxNetwork):
        return checkpoint.apply_fn.run  # not through JAX, which would add its callback to each call
    variables = jax.block_until_ready(jax.device_put(checkpoint.variables))
    apply = jax.jit(pad_small_images(checkpoint.apply_fn))
    return lambda images: np.asarray(apply(variables, images))


def random_images(target: Target, batch_size: int) -> np.ndarray:
    """Images [B, H, W, C] as normalised ones are on average: mean 0, variance 1. Always the same."""
    noise = np.random.default_rng(0).standard_normal((batch_size, *target.image_shape), dtype=np.float32)
    return noise.astype(jnp.dtype(target.precision))


def first_call(call: Call, images: np.ndarray) -> None:
    """Compiles the network for the batch.

    Raises:
        RuntimeCheckError: the device has not enough memory for it.
    """
    try:
        call(images)
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            raise RuntimeCheckError(
                f"a batch of {len(images)} does not fit into memory", remedy="Name smaller ones by --batch-sizes."
            ) from error
        raise
