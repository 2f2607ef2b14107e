"""A checkpoint on image files: the most probable classes of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bncli.checkpoint import Checkpoint
from bncli.data import load_image, normalize
from bncli.ops import pad_small_images

# Images in one call of the network: bounds memory, whatever the number of files.
BATCH_SIZE = 64


@dataclass(frozen=True)
class ClassProbability:
    """One class and what the network makes of it."""

    name: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one image, best first."""

    path: Path
    classes: tuple[ClassProbability, ...]


def predict(checkpoint: Checkpoint, paths: Sequence[Path], *, top: int) -> tuple[Prediction, ...]:
    """The ``top`` classes of each image file, resized and normalised as in training.

    Classes whose names are not known are called by their numbers.

    Raises:
        DataError: a file is no readable image; names it.
    """
    preprocessing = checkpoint.config.preprocessing
    images = [load_image(path, size=preprocessing.size, channels=preprocessing.channels) for path in paths]
    probabilities = np.concatenate(
        [
            _probabilities(checkpoint, np.stack(images[start : start + BATCH_SIZE]))
            for start in range(0, len(images), BATCH_SIZE)
        ]
    )  # [N, K]
    known = checkpoint.config.dataset
    names = known.class_names if known is not None else [str(k) for k in range(probabilities.shape[1])]
    return tuple(Prediction(path, _top(row, names, top)) for path, row in zip(paths, probabilities, strict=True))


def _probabilities(checkpoint: Checkpoint, images: np.ndarray) -> np.ndarray:
    """Softmax [B, K] of uint8 images [B, H, W, C]."""
    preprocessing = checkpoint.config.preprocessing
    dtype = jnp.dtype(checkpoint.config.run.training.precision)
    inputs = normalize(images, preprocessing.mean, preprocessing.std, dtype=dtype)
    logits = jax.jit(pad_small_images(checkpoint.apply_fn))(checkpoint.variables, inputs)
    return np.asarray(jax.nn.softmax(logits.astype(jnp.float32), axis=-1))


def _top(row: np.ndarray, names: Sequence[str], top: int) -> tuple[ClassProbability, ...]:
    best = np.argsort(-row, kind="stable")[:top]
    return tuple(ClassProbability(names[k], float(row[k])) for k in best)
